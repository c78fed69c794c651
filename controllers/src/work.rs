//! What every controller does the same way: it is woken by what it watches, reconciles one object at a time each, and tries
//! again what failed.
//!
//! This is `kube_runtime`'s applier with doors of our own: what comes in and what begins is counted ([`waiting`]) and each
//! reconcile knows what woke it.

use crate::{
    Context, observe,
    waiting::{Key, Waiting},
};
use futures::{Stream, StreamExt, TryStreamExt, future, stream, stream::BoxStream};
use jiff::Timestamp;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt, applier,
        controller::{self, Action, ReconcileReason, ReconcileRequest},
        reflector::{self, ObjectRef, Store},
        utils::StreamBackoff,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::Instrument;

/// How soon a failed reconcile is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// When an object is looked at next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// When something changes.
    OnChange,
    /// When something changes, and after so long at the latest.
    After(Duration),
}

/// What became of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is there.
    There,
    /// It has gone.
    Gone,
}

type Requests<K> = BoxStream<'static, Result<ReconcileRequest<K>, watcher::Error>>;

/// A controller of a kind, before it runs.
pub struct Work<K: Resource<DynamicType = ()> + 'static> {
    name: &'static str,
    context: Arc<Context>,
    waiting: Arc<Waiting>,
    objects: Store<K>,
    requests: Vec<Requests<K>>,
    concurrency: u16,
}

impl<K> Work<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A controller of the objects of an API, which is woken by their changes.
    pub fn new(name: &'static str, context: &Arc<Context>, api: Api<K>) -> Self {
        let waiting = context.metrics.queues.open(name);
        let (objects, writer) = reflector::store();
        let counted = waiting.clone();
        let events = watcher(api, watcher::Config::default()).modify(|object| object.managed_fields_mut().clear());
        let changes = reflector::reflector(writer, events).applied_objects().map_ok(move |object| {
            counted.put((object.namespace(), object.name_any()), Duration::ZERO, "changed".into());
            ReconcileRequest { obj_ref: ObjectRef::from_obj(&object), reason: ReconcileReason::ObjectUpdated }
        });
        Self { name, context: context.clone(), waiting, objects, requests: vec![changes.boxed()], concurrency: 0 }
    }

    /// How many objects are reconciled at once; any number if this is not called.
    pub fn at_once(self, concurrency: u16) -> Self {
        Self { concurrency, ..self }
    }

    /// The objects, as far as they are known.
    pub fn objects(&self) -> Store<K> {
        self.objects.clone()
    }

    /// It is also woken for the objects that a change of something else concerns.
    pub fn watches<O>(self, api: Api<O>, concerned: impl Fn(&O) -> Vec<ObjectRef<K>> + Send + 'static) -> Self
    where
        O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.learns(api, move |other, _| concerned(other))
    }

    /// The same, where it makes a difference whether the other is there or has gone.
    pub fn learns<O>(mut self, api: Api<O>, concerned: impl Fn(&O, Fate) -> Vec<ObjectRef<K>> + Send + 'static) -> Self
    where
        O: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let counted = self.waiting.clone();
        let events = watcher(api, watcher::Config::default()).try_filter_map(|event| {
            future::ready(Ok(match event {
                watcher::Event::Apply(other) | watcher::Event::InitApply(other) => Some((other, Fate::There)),
                watcher::Event::Delete(other) => Some((other, Fate::Gone)),
                watcher::Event::Init | watcher::Event::InitDone => None,
            }))
        });
        let changes = events.map_ok(move |(other, fate)| {
            let concerned = concerned(&other, fate);
            stream::iter(wake(&counted, &other, concerned))
        });
        self.requests.push(changes.try_flatten().boxed());
        self
    }

    /// The same, for the changes that somebody else watches.
    pub fn follows<O>(
        mut self,
        changes: impl Stream<Item = O> + Send + 'static,
        concerned: impl Fn(&O) -> Vec<ObjectRef<K>> + Send + 'static,
    ) -> Self
    where
        O: Resource<DynamicType = ()> + Send + 'static,
    {
        let counted = self.waiting.clone();
        let changes = changes.flat_map(move |other| {
            let concerned = concerned(&other);
            stream::iter(wake(&counted, &other, concerned))
        });
        self.requests.push(changes.boxed());
        self
    }

    /// It is also woken, again and again after so long, for the objects that are due then.
    pub fn every(mut self, period: Duration, due: impl Fn(Timestamp) -> Vec<ObjectRef<K>> + Send + 'static) -> Self {
        let (counted, context) = (self.waiting.clone(), self.context.clone());
        let ticks = stream::unfold((), move |()| async move { Some((tokio::time::sleep(period).await, ())) });
        let swept = ticks.flat_map(move |()| {
            let due = due(context.now());
            for one in &due {
                counted.put(key(one), Duration::ZERO, "sweep".into());
            }
            stream::iter(
                due.into_iter().map(|obj_ref| Ok(ReconcileRequest { obj_ref, reason: ReconcileReason::Custom { reason: "sweep".into() } })),
            )
        });
        self.requests.push(swept.boxed());
        self
    }

    /// Works until `shutdown`, and until what is under way then has ended.
    pub async fn run<F, E>(self, reconcile: impl Fn(Arc<K>) -> F, shutdown: CancellationToken)
    where
        F: Future<Output = Result<Next, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let Self { name, context, waiting, objects, requests, concurrency } = self;
        let requests = StreamBackoff::new(stream::select_all(requests), watcher::DefaultBackoff::default());
        let queue = requests.take_until(shutdown.cancelled_owned());
        let counted = waiting.clone();
        let reconciler = move |object: Arc<K>, context: Arc<Context>| {
            let key = (object.namespace(), object.name_any());
            let cause = counted.take(&key).unwrap_or_default();
            let (counted, reconciling) = (counted.clone(), reconcile(object.clone()));
            let work = async move {
                let outcome = observe::reconcile(name, &context, &*object, &cause, reconciling).await;
                match &outcome {
                    Ok(Next::OnChange) => {}
                    Ok(Next::After(wait)) => counted.put(key, *wait, "time".into()),
                    Err(_) => counted.put(key, RETRY, "failure".into()),
                }
                outcome
            };
            // In a task of its own, so that reconciles use all CPUs.
            let task = AbortOnDropHandle::new(tokio::spawn(work.in_current_span()));
            Box::pin(async move {
                match task.await {
                    Ok(Ok(Next::OnChange)) => Ok(Action::await_change()),
                    Ok(Ok(Next::After(wait))) => Ok(Action::requeue(wait)),
                    Ok(Err(error)) => Err(Failure::Reconcile(error)),
                    Err(error) => Err(Failure::Task(error)),
                }
            })
        };
        let failed = |_: Arc<K>, error: &Failure<E>, _: Arc<Context>| {
            tracing::warn!("{error}; tried again in {} s", RETRY.as_secs());
            Action::requeue(RETRY)
        };
        let config = controller::Config::default().concurrency(concurrency);
        let work = applier(reconciler, failed, context, objects, queue, config);
        work.for_each(|outcome| {
            if let Err(controller::Error::ObjectNotFound(object)) = outcome {
                // It was deleted while it waited.
                waiting.take(&(object.namespace.clone(), object.name.clone()));
            }
            future::ready(())
        })
        .await;
    }
}

/// Has objects reconciled that a change of something else concerns.
fn wake<K: Resource, O: Resource<DynamicType = ()>>(
    waiting: &Waiting,
    other: &O,
    concerned: Vec<ObjectRef<K>>,
) -> Vec<Result<ReconcileRequest<K>, watcher::Error>> {
    let cause = format!("{} {}", O::kind(&()), other.name_any());
    for one in &concerned {
        waiting.put(key(one), Duration::ZERO, cause.clone());
    }
    let reason = ReconcileReason::RelatedObjectUpdated { obj_ref: Box::new(ObjectRef::from_obj(other).erase()) };
    concerned.into_iter().map(|obj_ref| Ok(ReconcileRequest { obj_ref, reason: reason.clone() })).collect()
}

fn key<K: Resource>(object: &ObjectRef<K>) -> Key {
    (object.namespace.clone(), object.name.clone())
}

#[derive(Debug, thiserror::Error)]
enum Failure<E> {
    #[error(transparent)]
    Reconcile(E),
    #[error("a reconcile was cut off: {0}")]
    Task(tokio::task::JoinError),
}

//! By what right a request that lasts goes on: a watch, a log that is followed. Its answer ends when the right does.
//!
//! Nothing is sent that was found after the right had ended: rights are counted with the events that change them, in the order
//! of all events, and are looked at again before anything is sent if that count has gone on.

use super::{impersonation, token::Pass};
use crate::{
    handlers::Api,
    identity::{Identity, MASTERS, Wanted},
    request::{Query, Target},
};
use axum::{
    body::{Body, BodyDataStream},
    http::Response,
};
use futures::{StreamExt, stream};
use jiff::Timestamp;
use std::{future::pending, sync::Arc, time::Duration};
use tokio::sync::watch;

/// The longest that is waited for a token to expire before its end is looked at again.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 60 * 60);

/// Who asks, and what proves it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who asks, or whom they act as.
    pub identity: Identity,
    /// Who asks as somebody else, and what they have said of whom.
    pub impersonator: Option<(Identity, Identity)>,
    /// The token that says who asks; none if a certificate does, which is as good as the connection.
    pub pass: Option<Pass>,
}

/// A request that lasts, and who makes it.
pub struct Standing {
    api: Arc<Api>,
    caller: Caller,
    verb: &'static str,
    target: Target,
    query: Query,
    /// The right depends on more than what is counted.
    further: bool,
}

impl Standing {
    /// Of a request that is allowed.
    pub fn new(api: &Arc<Api>, caller: &Caller, verb: &'static str, target: &Target, query: Query) -> Self {
        let further = api.access.further_rights(&caller.identity);
        Self { api: api.clone(), caller: caller.clone(), verb, target: target.clone(), query, further }
    }

    /// An answer that ends when the right does.
    pub fn keep(self, answer: Response<Body>) -> Response<Body> {
        let Caller { identity, impersonator, pass } = &self.caller;
        if pass.is_none() && impersonator.is_none() && identity.is_in(MASTERS) {
            // Nobody can take this right.
            return answer;
        }
        let mut changes = self.api.access.changes.subscribe();
        // It may have ended since it was looked at.
        changes.mark_changed();
        answer.map(|body| {
            let kept = Kept { frames: body.into_data_stream(), standing: self, changes };
            Body::from_stream(stream::unfold(kept, |mut kept| async move { Some((kept.next().await?, kept)) }))
        })
    }

    fn holds(&self) -> bool {
        let Caller { identity, impersonator, pass } = &self.caller;
        let access = &self.api.access;
        pass.as_ref().is_none_or(|pass| self.api.is_good(pass))
            && impersonator
                .as_ref()
                .is_none_or(|(own, other)| impersonation::needs(other).into_iter().all(|need| access.allows(own, &Wanted::Resource(need))))
            && access.allows(identity, &Wanted::Resource(self.target.attributes(self.verb, &self.query)))
    }

    /// Waits until the token may have expired.
    async fn expiry(&self) {
        match &self.caller.pass {
            Some(pass) => {
                let left = pass.expires.duration_since(Timestamp::now());
                tokio::time::sleep(Duration::try_from(left).unwrap_or_default().min(LONGEST_WAIT)).await;
            }
            None => pending().await,
        }
    }
}

/// An answer that lasts.
struct Kept {
    frames: BodyDataStream,
    standing: Standing,
    changes: watch::Receiver<u64>,
}

impl Kept {
    /// What is sent next; nothing when the answer or the right is at its end.
    async fn next(&mut self) -> Option<<BodyDataStream as futures::Stream>::Item> {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.frames.next() => Some(frame?),
                changed = self.changes.changed() => changed.ok().map(|()| None)?,
                () = self.standing.expiry() => None,
            };
            let counted = self.changes.has_changed().unwrap_or(true);
            if counted {
                self.changes.mark_unchanged();
            }
            let doubtful = frame.is_none() || counted || self.standing.further || self.standing.caller.pass.is_some();
            if doubtful && !self.standing.holds() {
                return None;
            }
            if frame.is_some() {
                return frame;
            }
        }
    }
}

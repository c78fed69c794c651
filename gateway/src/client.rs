//! A `kube::Client` whose transport is the gateway's own router: controllers and the hub go through the same door as people.

use axum::{Router, http::Request};
use basalt_apiserver::{Fence, Identity, InProcess, Trigger};
use basalt_controllers::observe::Cause;
use tower::Service;

/// A client that acts as `identity`, and writes behind a fence if it has one.
pub fn in_process(router: Router, identity: Identity, fence: Option<Fence>) -> kube::Client {
    let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
        let (identity, fence, mut router) = (identity.clone(), fence.clone(), router.clone());
        async move {
            request.extensions_mut().insert(identity);
            if let Some(fence) = fence {
                request.extensions_mut().insert(fence);
            }
            // The client calls from a task of its own, and waits for the answer in that of whoever asks.
            request.extensions_mut().insert(InProcess { trigger: Cause::current().map(trigger) });
            // A router is always ready.
            router.call(request).await
        }
    });
    kube::Client::new(service, "default")
}

/// Who a part of the gateway is.
pub fn part(name: &str) -> Identity {
    Identity::new(format!("system:basalt:{name}"), ["system:masters"])
}

fn trigger(cause: Cause) -> Trigger {
    Trigger {
        controller: cause.controller.to_owned(),
        group: cause.group,
        resource: cause.plural,
        namespace: cause.namespace,
        name: cause.name,
        uid: cause.uid,
        generation: cause.generation,
    }
}

//! A `kube::Client` whose transport is the gateway's own router: controllers and the hub go through the same door as people.

use axum::{Router, http::Request};
use basalt_apiserver::{Fence, Identity};
use tower::Service;

/// A client that acts as `identity`, and writes behind a fence if it has one.
pub fn in_process(router: Router, identity: Identity, fence: Option<Fence>) -> kube::Client {
    let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
        request.extensions_mut().insert(identity.clone());
        if let Some(fence) = &fence {
            request.extensions_mut().insert(fence.clone());
        }
        // A router is always ready.
        router.clone().call(request)
    });
    kube::Client::new(service, "default")
}

/// Who a part of the gateway is.
pub fn part(name: &str) -> Identity {
    Identity { user: format!("system:basalt:{name}"), groups: vec!["system:masters".into()] }
}

//! `virtualmachines/NAME/placement`: why a VM is where it is, and what is in its way elsewhere, as placement itself sees it.

use axum::{body::Body, response::Response};
use basalt_api::{Host, Image, VirtualMachine};
use basalt_apiserver::{Status, Subresource, error::Reason};
use basalt_controllers::vm::fleet::Fleet;
use http::{HeaderValue, header};
use kube::{
    Api, Client,
    api::{ListParams, ObjectList},
};
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// Explains placements.
#[derive(Default)]
pub struct PlacementOf {
    /// Reads hosts, VMs and images; there while the API is. It is of the API that this is a part of: each would keep the other.
    client: Mutex<Option<Client>>,
}

impl PlacementOf {
    /// Reads by this from now on, or by none.
    pub fn use_client(&self, client: Option<Client>) {
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = client;
    }
}

#[async_trait::async_trait]
impl Subresource for PlacementOf {
    async fn get(&self, vm: Arc<Value>, query: HashMap<String, String>) -> Result<Response, Status> {
        let unavailable =
            |why: &dyn std::fmt::Display| Status::new(Reason::ServiceUnavailable, format!("the placement cannot be explained: {why}"));
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(client) = client else { return Err(unavailable(&"the gateway starts or ends")) };
        let vm: VirtualMachine = serde_json::from_value(Value::clone(&vm)).map_err(|e| unavailable(&e))?;
        let (hosts, vms, images) =
            (Api::<Host>::all(client.clone()), Api::<VirtualMachine>::all(client.clone()), Api::<Image>::all(client.clone()));
        let all = ListParams::default();
        let read: Result<(ObjectList<Host>, ObjectList<VirtualMachine>, ObjectList<Image>), kube::Error> =
            futures::try_join!(hosts.list(&all), vms.list(&all), images.list(&all));
        let (hosts, vms, images) = read.map_err(|e| unavailable(&e))?;
        let only = query.get("host").map(String::as_str).filter(|host| !host.is_empty());
        if let Some(only) = only
            && !hosts.iter().any(|host| host.metadata.name.as_deref() == Some(only))
        {
            return Err(Status::not_found(basalt_api::GROUP, "hosts", only));
        }
        let mut fleet = Fleet::default();
        hosts.iter().for_each(|host| fleet.put_host(host));
        vms.iter().for_each(|vm| fleet.put_vm(vm));
        images.iter().for_each(|image| fleet.put_image(image));
        let text = serde_json::to_vec(&fleet.explain(&vm, only)).map_err(|e| unavailable(&e))?;
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

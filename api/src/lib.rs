//! The resource types of `basalt.dev/v1alpha1`: one file per kind, with its spec, status, defaults, constraints and
//! printer columns. Nothing here does I/O.
//!
//! A constraint lives in the schema wherever a schema can say it, because the schema is what the API server, a real
//! Kubernetes and `kubectl explain` all read. [`crds`] is the list of kinds: the registration line of a new kind goes there.

#![allow(clippy::duplicated_attributes, reason = "each printcolumn of kube's derive has its own type and priority")]

pub mod common;
pub mod host;
pub mod image;
pub mod placement;
pub mod quantity;
pub mod span;
pub mod task;
pub mod virtual_machine;

pub use common::{BlockedBy, BlockedCode, NextStep, ObjectReference};
pub use host::{Host, HostPhase, HostSpec, HostStatus};
pub use image::{Image, ImageSpec, ImageStatus};
pub use quantity::Memory;
pub use span::Span;
pub use task::{Task, TaskSpec, TaskStatus};
pub use virtual_machine::{VirtualMachine, VirtualMachineSpec, VirtualMachineStatus};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;

/// The API group of every kind of ours.
pub const GROUP: &str = "basalt.dev";
/// The version of the API group that is served and stored.
pub const VERSION: &str = "v1alpha1";
/// The namespace of Basalt's own objects: host leases, leader election.
pub const SYSTEM_NAMESPACE: &str = "basalt-system";

/// Every kind of ours as a CustomResourceDefinition, in the order in which they are listed to people.
pub fn crds() -> Vec<CustomResourceDefinition> {
    vec![Host::crd(), VirtualMachine::crd(), Image::crd(), Task::crd()]
}

//! The Kubernetes wire protocol over a [`basalt_store::Store`], for any registered kinds. It knows no concern of ours.
//!
//! The kinds come from CustomResourceDefinitions ([`Registry::add_crd`]); Namespace, Event and Lease are built in.
//! Reads are answered from a watch cache, writes are compare-and-swap commits to the store.

pub mod apply;
pub mod error;
pub mod identity;
pub mod registry;
pub mod subresource;

pub use error::{Cause, CauseReason, Status};
pub use identity::Identity;
pub use registry::{Registry, ResourceDef};
pub use subresource::Subresource;

//! The Kubernetes wire protocol over a [`basalt_store::Store`], for any registered kinds. It knows no concern of ours.
//!
//! The kinds come from CustomResourceDefinitions, of the program ([`Registry::add_crd`]) or of its users; Namespace, Event and Lease are built in, and
//! those of RBAC, and with keys ([`Options::keys`]) Secret.
//! Reads are answered from a watch cache, writes are compare-and-swap commits to the store.

mod access;
mod admission;
pub mod apply;
pub mod audit;
pub mod backup;
mod builtin;
mod cache;
mod compression;
mod decode;
mod definitions;
mod discovery;
pub mod error;
mod fence;
mod gc;
mod handlers;
mod health;
mod identity;
mod jsonpath;
mod keys;
mod limits;
mod metadata;
mod namespace;
mod negotiate;
mod object;
mod openapi;
mod origin;
mod passage;
mod patch;
mod protobuf;
pub mod registry;
mod request;
pub mod schema;
pub mod secret;
mod selector;
mod server;
mod storage;
mod strategic;
mod subresource;
mod table;
mod telemetry;

pub use access::{Authorizer, Look, bootstrap::BuiltinRole};
pub use admission::Admission;
pub use error::{Cause, CauseReason, Status};
pub use fence::Fence;
pub use identity::{Attributes, Identity};
pub use limits::{Limits, Rate};
pub use origin::{InProcess, Trigger};
pub use registry::{Registry, ResourceDef};
pub use server::{ApiServer, Options, StartError};
pub use subresource::Subresource;
pub use telemetry::Metrics;

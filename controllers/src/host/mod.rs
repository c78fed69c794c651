//! Hosts: Ready while their agents renew their leases, NotReady with a reason when they do not.
//!
//! ```text
//! Pending --first heartbeat--> Ready <--heartbeat / grace over--> NotReady
//! ```

pub mod mirror;
pub mod plan;
mod reconcile;

pub use reconcile::run;

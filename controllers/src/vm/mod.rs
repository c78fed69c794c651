//! Virtual machines: placed on a host once, and followed from there by what the host reports.
//!
//! - [`place`]: whether a host can take a VM, and how well it would;
//! - [`fleet`]: which of all hosts takes it, and why each other one does not;
//! - [`plan`]: what a VM's status should say, and what to do next;
//! - `reconcile`: gathers, plans, writes.

pub mod fleet;
pub mod place;
pub mod plan;
mod reconcile;

pub use reconcile::run;

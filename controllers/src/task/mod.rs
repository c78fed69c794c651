//! Tasks: who goes next, what became of each attempt, and when it is over.

mod coordinate;
pub mod index;
pub mod plan;
mod reconcile;

pub use reconcile::{FINALIZER, cycle, run};

//! The VMs of this host: one task each, which looks at all there is of its VM, plans one step, does it, and looks again.
//!
//! - [`plan`]: what to do next, as a pure function;
//! - [`record`]: what is kept on disk of a VM, so that the next agent knows all;
//! - [`machine`]: the spec made of files and devices of this host;
//! - [`actor`]: the task; [`host`]: all tasks, and what they report.

pub mod actor;
pub mod host;
pub mod machine;
pub mod plan;
pub mod record;

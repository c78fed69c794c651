//! What every Basalt program does the same way: configuration in layers, logs, traces, version, shutdown on signals.

pub mod config;
pub mod logs;
pub mod shutdown;
pub mod traces;
pub mod version;

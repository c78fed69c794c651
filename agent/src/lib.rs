//! The agent of a host: converges its VMs toward the gateway's manifest, with or without the gateway.

pub mod vmm;

//! `basaltctl` as a process, against a real API server on loopback.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod apply;
mod audit;
mod cluster;
mod delete;
mod get;
mod reach;
mod tls;
mod token;
mod wait;

//! The protocol between gateway and agent, as generated.

/// `basalt.agent.v1`, as generated from `basalt/agent/v1/agent.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("basalt.agent.v1");
}

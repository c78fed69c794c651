//! The protocol between gateway and agent: generated code, and the conversions from and to the types of the API.

/// `basalt.agent.v1`, as generated from `basalt/agent/v1/agent.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("basalt.agent.v1");
}

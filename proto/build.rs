//! Generates the client and the server of `basalt.agent.v1`.

fn main() -> std::io::Result<()> {
    tonic_prost_build::configure().compile_protos(&["basalt/agent/v1/agent.proto"], &["."])
}

//! `make bench`: prints every figure as a ratio against a named reference measured in the same run.

use basalt_e2e::bench::{self, BenchError};

#[tokio::main]
async fn main() -> Result<(), BenchError> {
    let chosen: Vec<String> = std::env::args().skip(1).collect();
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|c| c == name);
    if wanted("gateway") {
        bench::gateway::run()?;
    }
    if wanted("writes") {
        bench::writes::run().await?;
    }
    if wanted("reads") {
        bench::reads::run().await?;
    }
    if wanted("tasks") {
        bench::tasks::run().await?;
    }
    if wanted("placement") {
        bench::placement::run()?;
    }
    if wanted("vmm") {
        bench::vmm::run().await?;
    }
    Ok(())
}

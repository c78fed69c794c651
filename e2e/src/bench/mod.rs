//! The benches of `make bench`. Each figure is printed as a ratio against a named reference that was measured in the same
//! run, on the same machine, with the same durability.

pub mod etcd;
pub mod gateway;
pub mod placement;
pub mod reads;
pub mod tasks;
pub mod vmm;
pub mod writes;

use std::time::{Duration, Instant};

/// How a measurement failed: a sentence, for the person who runs the bench.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {reason}")]
pub struct BenchError {
    action: &'static str,
    reason: String,
}

impl BenchError {
    /// What was tried and why it failed.
    pub fn new(action: &'static str, reason: impl std::fmt::Display) -> Self {
        Self { action, reason: reason.to_string() }
    }
}

/// Runs `clients` loops of `write` at once for a while and says how many writes were acknowledged in a second.
pub async fn throughput<W, F>(clients: usize, duration: Duration, write: impl Fn(usize) -> W) -> Result<f64, BenchError>
where
    W: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<(), BenchError>> + Send,
{
    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let mut write = write(client);
        tasks.spawn(async move {
            let mut count = 0u32;
            while begin.elapsed() < duration {
                write().await?;
                count += 1;
            }
            Ok::<u32, BenchError>(count)
        });
    }
    let mut total = 0;
    while let Some(counted) = tasks.join_next().await {
        total += counted.map_err(|e| BenchError::new("run a client", e))??;
    }
    Ok(f64::from(total) / begin.elapsed().as_secs_f64())
}

/// The value below which a share of the samples lies.
pub fn percentile(samples: &mut [Duration], share: f64) -> Duration {
    samples.sort_unstable();
    let last = samples.len().saturating_sub(1);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let index = (last as f64 * share).round() as usize;
    samples.get(index).copied().unwrap_or_default()
}

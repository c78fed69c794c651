//! The certificates of a gateway that runs for years: made anew before they end, and shown from the next handshake on, so that
//! nobody has to start it again.

use crate::{
    GatewayError,
    https::Shown,
    kubeconfig,
    pki::{self, Pki},
};
use jiff::Timestamp;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// What is kept good.
pub struct Certificates {
    /// Makes them.
    pub pki: Arc<Pki>,
    /// The names and addresses that the gateway is reached by.
    pub names: Vec<String>,
    /// Where the listeners take theirs from.
    pub shown: Arc<Shown>,
    /// The administrator's kubeconfig.
    pub kubeconfig: PathBuf,
    /// Where the API is, for it.
    pub api_url: String,
}

impl Certificates {
    /// Makes those anew that end soon, and puts all in place.
    pub fn put(&self, now: Timestamp) -> Result<(), GatewayError> {
        if self.shown.show(&self.pki.server(&self.names, now)?)? {
            tracing::info!("the gateway's certificate was renewed; its key is the same");
        }
        let admin = kubeconfig::admin(&self.api_url, &self.pki.ca, &self.pki.admin(now)?)?;
        // Who reads the file while it is written sees the old or the new one; who has a copy needs the new one before the old ends.
        if pki::read_secret(&self.kubeconfig)?.as_deref() != Some(&admin) {
            pki::write(&self.kubeconfig, admin.as_bytes(), 0o600)?;
        }
        Ok(())
    }

    /// Does so again and again until `shutdown`. What fails is told, and tried again the next time: a certificate is renewed
    /// weeks before it ends.
    pub async fn keep(self, every: Duration, clock: impl Fn() -> Timestamp, shutdown: CancellationToken) {
        let this = Arc::new(self);
        while shutdown.run_until_cancelled(tokio::time::sleep(every)).await.is_some() {
            let (this, now) = (this.clone(), clock());
            // Waits for the disk: not on the runtime's threads.
            match tokio::task::spawn_blocking(move || this.put(now)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!("certificates cannot be renewed, tried again in {} s: {error}", every.as_secs()),
                Err(error) => tracing::warn!("certificates cannot be renewed, tried again in {} s: {error}", every.as_secs()),
            }
        }
    }
}

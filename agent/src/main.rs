//! The `basalt-agent` binary.

use basalt_agent::config::Settings;
use basalt_daemon::{config, logs, shutdown, traces::Traces};
use clap::Parser;
use std::{error::Error, process::ExitCode};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), Box<dyn Error>> {
    let given = Settings::parse();
    let settings: Settings = config::layered(&given, given.config.as_deref())?;
    let config = settings.resolve()?;
    if given.print_config {
        // The token is in a file of its own; no setting is a secret.
        print!("{}", config::printed(&config, &[])?);
        return Ok(());
    }
    // Another provider in the process would be a fault of the build; then TLS says so by itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let traces = {
        let _within = runtime.enter();
        config.collector().map(|collector| Traces::start(&collector, "basalt-agent")).transpose()?
    };
    logs::init(&config.log_level, config.log_format, traces.as_ref())?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown::on_signal()?;
        basalt_agent::run(config, shutdown).await?;
        Ok::<_, Box<dyn Error>>(())
    });
    if let Some(traces) = traces {
        traces.end();
    }
    ended
}

//! `/livez` and `/readyz`, as Kubernetes has them: `?verbose` tells each check, `?exclude=` leaves one out, and each has a
//! path of its own below. Everybody may ask, so that why a check failed is only logged.

use crate::handlers::Api;
use axum::{
    http::{HeaderValue, Response, StatusCode, Uri, header},
    response::IntoResponse,
};
use std::time::Duration;

/// How long a check may take: probes seldom wait longer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    /// This program answers.
    Ping,
    /// The store answers.
    Store,
    /// The watch cache has what the store had.
    Cache,
    /// The server is not about to end.
    Shutdown,
}

const LIVE: &[Check] = &[Check::Ping];
const READY: &[Check] = &[Check::Ping, Check::Store, Check::Cache, Check::Shutdown];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Store => "store",
            Self::Cache => "cache",
            Self::Shutdown => "shutdown",
        }
    }

    async fn run(self, api: &Api) -> Result<(), String> {
        let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
        let revision = async {
            let revision = tokio::time::timeout(PATIENCE, api.storage.store.revision()).await.map_err(late)?;
            revision.map_err(|error| error.to_string())
        };
        match self {
            Self::Ping => Ok(()),
            Self::Store => revision.await.map(drop),
            Self::Cache => {
                let wanted = revision.await?;
                let reached = api.storage.cache.reaches(wanted, PATIENCE).await;
                reached.then_some(()).ok_or_else(|| format!("at revision {} and not yet at {wanted}", api.storage.cache.revision()))
            }
            Self::Shutdown if api.shutdown.is_cancelled() => Err("shutting down".into()),
            Self::Shutdown => Ok(()),
        }
    }
}

/// Answers a path of health; `None` if it is none.
pub async fn answer(api: &Api, uri: &Uri) -> Option<axum::response::Response> {
    let mut segments = uri.path().trim_matches('/').split('/');
    let (name, checks) = match segments.next()? {
        "livez" => ("livez", LIVE),
        "healthz" => ("healthz", LIVE),
        "readyz" => ("readyz", READY),
        _ => return None,
    };
    let checks: Vec<Check> = match (segments.next(), segments.next()) {
        (None, _) => checks.to_vec(),
        (Some(one), None) => vec![checks.iter().copied().find(|check| check.name() == one)?],
        _ => return None,
    };
    let parameters = || uri.query().unwrap_or_default().split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let verbose = parameters().any(|(key, value)| key == "verbose" && !matches!(value, "false" | "0"));
    let mut lines = String::new();
    let mut failed = false;
    for check in checks {
        if parameters().any(|(key, value)| key == "exclude" && value == check.name()) {
            lines.push_str(&format!("[+]{} excluded: ok\n", check.name()));
            continue;
        }
        match check.run(api).await {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name())),
            Err(why) => {
                tracing::warn!(check = check.name(), "{name} failed: {why}");
                lines.push_str(&format!("[-]{} failed: reason withheld\n", check.name()));
                failed = true;
            }
        }
    }
    let (code, body) = match (failed, verbose) {
        (true, _) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{lines}{name} check failed\n")),
        (false, true) => (StatusCode::OK, format!("{lines}{name} check passed\n")),
        (false, false) => (StatusCode::OK, "ok".to_owned()),
    };
    let mut response: Response<_> = (code, body).into_response();
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Some(response)
}

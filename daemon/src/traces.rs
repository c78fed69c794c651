//! Traces: what was done for whom and how long each part of it took, sent as spans to a collector over OTLP (gRPC).
//!
//! Spans are those of `tracing` whose target is [`TARGET`]; what else is logged is none of theirs, and they are none of the
//! log's. Without a collector nobody listens to that target, and a span costs the look at one flag.

use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use opentelemetry::{
    Context, KeyValue,
    propagation::{Extractor, Injector, TextMapPropagator},
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{SpanExporter, WithTonicConfig};
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    propagation::TraceContextPropagator,
    trace::{SdkTracerProvider, SpanData, SpanExporter as Export},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time::timeout};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

/// The target of the spans that are sent.
pub const TARGET: &str = "basalt::trace";

/// How long the collector may take to take what is sent, and what is sent last.
const DEADLINES: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(2));

/// Traces cannot be sent as the settings say.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each says what is wrong")]
pub enum TracesError {
    #[error("the setting otlpEndpoint is not usable: {endpoint:?} is {reason}; expected such as http://collector.example:4317")]
    Endpoint { endpoint: String, reason: &'static str },
    #[error("the setting otlpCaFile is not usable: cannot read {path}: {source}")]
    CaFile { path: PathBuf, source: std::io::Error },
    #[error("cannot set up what sends traces: {0}")]
    Exporter(String),
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// The OTLP receiver that speaks gRPC.
    pub endpoint: String,
    /// The CA of its certificate, for an endpoint with https.
    pub ca_file: Option<PathBuf>,
}

/// What OpenTelemetry's own variables say of the endpoint and the CA, if the settings say nothing.
pub fn of_environment() -> (Option<String>, Option<PathBuf>) {
    let either = |variables: [&str; 2]| variables.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let endpoint = either(["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"]);
    let ca_file = either(["OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "OTEL_EXPORTER_OTLP_CERTIFICATE"]);
    (endpoint, ca_file.map(PathBuf::from))
}

/// What sends spans, in the background: nobody waits for it but whoever ends it.
pub struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts to send, within a runtime. Whether the collector answers is seen when there is something to send.
    pub fn start(collector: &Collector, service: &'static str) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder().with_tonic().with_channel(channel(collector)?).build();
        let exporter = exporter.map_err(|e| TracesError::Exporter(e.to_string()))?;
        let sender = Sender {
            exporter: Arc::new(exporter),
            runtime: Handle::try_current().map_err(|e| TracesError::Exporter(e.to_string()))?,
            endpoint: collector.endpoint.clone(),
            lost: AtomicU64::new(0),
        };
        let mut resource = Resource::builder();
        // OpenTelemetry's own variable says it for those who have several of us.
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(service);
        }
        let resource = resource.with_attribute(KeyValue::new("service.version", crate::version::VERSION)).build();
        Ok(Self { provider: SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(sender).build() })
    }

    /// What takes spans from `tracing`.
    pub(crate) fn layer<S>(&self) -> impl Layer<S> + Send + Sync + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.provider.tracer("basalt"))
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_context_activation(false)
            .with_filter(filter_fn(|metadata| metadata.is_span() && metadata.target() == TARGET))
    }

    /// Sends what is left. It waits for the collector, a short time: not for the runtime's threads.
    pub fn end(self) {
        if let Err(error) = self.provider.shutdown_with_timeout(DEADLINES.1) {
            tracing::debug!("the last traces were not sent: {error}");
        }
    }
}

fn channel(collector: &Collector) -> Result<Channel, TracesError> {
    let wrong = |reason| TracesError::Endpoint { endpoint: collector.endpoint.clone(), reason };
    let uri: Uri = collector.endpoint.parse().map_err(|_| wrong("no URL"))?;
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) {
        return Err(wrong("without a host, or with credentials, which belong into OTEL_EXPORTER_OTLP_HEADERS"));
    }
    let mut endpoint = Endpoint::from(uri.clone()).connect_timeout(DEADLINES.0).timeout(DEADLINES.0);
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            let path = collector.ca_file.clone().ok_or_else(|| wrong("https, which needs the collector's CA in otlpCaFile"))?;
            let pem = std::fs::read(&path).map_err(|source| TracesError::CaFile { path, source })?;
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem));
            endpoint = endpoint.tls_config(tls).map_err(|e| TracesError::Exporter(e.to_string()))?;
        }
        _ => return Err(wrong("neither http nor https")),
    }
    Ok(endpoint.connect_lazy())
}

/// Sends on the runtime's threads, whoever asks, and tells once that it does not work and once that it works again.
#[derive(Debug)]
struct Sender {
    exporter: Arc<SpanExporter>,
    runtime: Handle,
    endpoint: String,
    /// Spans that were not taken since some were.
    lost: AtomicU64,
}

impl Export for Sender {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len() as u64;
        let exporter = self.exporter.clone();
        let sent = self.runtime.spawn(async move { timeout(DEADLINES.0, exporter.export(batch)).await });
        let result = match sent.await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(OTelSdkError::Timeout(DEADLINES.0)),
            Err(error) => Err(OTelSdkError::InternalFailure(error.to_string())),
        };
        match &result {
            Ok(()) => match self.lost.swap(0, Ordering::Relaxed) {
                0 => {}
                lost => tracing::info!(endpoint = self.endpoint, "the collector takes traces again; {lost} spans were lost"),
            },
            Err(error) => {
                if self.lost.fetch_add(count, Ordering::Relaxed) == 0 {
                    tracing::warn!(endpoint = self.endpoint, "the collector does not take traces; they are lost until it does: {error}");
                }
            }
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        if let Some(exporter) = Arc::get_mut(&mut self.exporter) {
            exporter.set_resource(resource);
        }
    }
}

/// Makes a span a part of the trace that a request's `traceparent` names, if it names one.
pub fn follow(span: &Span, headers: &HeaderMap) {
    if !span.is_disabled() && headers.contains_key("traceparent") {
        // None of its errors is of any consequence: the span is then the first of a trace of its own.
        let _ = span.set_parent(TraceContextPropagator::new().extract_with_context(&Context::new(), &Read(headers)));
    }
}

/// Names a span in the headers of a request or of an answer, as W3C Trace Context says; nothing if it is not traced.
pub fn carry(span: &Span, headers: &mut HeaderMap) {
    if !span.is_disabled() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Written(headers));
    }
}

/// Names a span by what has become of it: the field `otel.name` counts only until the span has children.
pub fn rename(span: &Span, name: String) {
    span.context().span().update_name(name);
}

struct Read<'a>(&'a HeaderMap);

impl Extractor for Read<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Written<'a>(&'a mut HeaderMap);

impl Injector for Written<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value))
            && !value.is_empty()
        {
            self.0.insert(name, value);
        }
    }
}

//! The way to the server: the kubeconfig as kubectl reads it, and requests that end in time with an error that blames
//! the right thing.

use crate::{
    blame::{self, Target},
    cli::Global,
    error::Error,
};
use futures::{AsyncBufRead, Stream};
use http::{Request, Response, StatusCode};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
    core::{Status, WatchEvent},
};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

/// A server, by the context that leads to it.
#[derive(Clone)]
pub struct Server {
    /// The client.
    pub client: Client,
    /// Where requests go.
    pub target: Target,
    /// Namespace of requests that name none.
    pub namespace: String,
    /// Where that namespace comes from.
    pub namespace_from: String,
    /// How long one request may take; none for as long as it takes.
    pub patience: Option<Duration>,
}

/// The files that make up the kubeconfig, in the order of their strength.
fn files(global: &Global) -> Vec<PathBuf> {
    if let Some(file) = &global.kubeconfig {
        return vec![file.clone()];
    }
    let listed = std::env::var_os("KUBECONFIG").filter(|v| !v.is_empty());
    if let Some(list) = listed {
        let files: Vec<PathBuf> = std::env::split_paths(&list).filter(|p| !p.as_os_str().is_empty()).collect();
        if !files.is_empty() {
            return files;
        }
    }
    std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config")).into_iter().collect()
}

fn unusable(files: &str, error: &KubeconfigError) -> Error {
    let hint = match error {
        KubeconfigError::LoadContext(_) | KubeconfigError::CurrentContextNotSet => {
            "choose a context of the file with --context, or set current-context in it"
        }
        KubeconfigError::LoadClusterOfContext(_) | KubeconfigError::MissingClusterUrl => {
            "the context must name a cluster of the file, and the cluster a server"
        }
        KubeconfigError::LoadCertificateAuthority(_) | KubeconfigError::LoadClientCertificate(_) | KubeconfigError::LoadClientKey(_) => {
            "see that the files which the kubeconfig names exist and can be read"
        }
        _ => "see the file; the gateway writes a good one at its first start",
    };
    let reason = match error {
        // Never the snippet: a kubeconfig is full of secrets.
        KubeconfigError::Parse(parse) => {
            let place = parse.location().map(|l| format!("line {}, column {}: ", l.line(), l.column())).unwrap_or_default();
            format!("{place}it is not a kubeconfig in YAML")
        }
        other => other.to_string(),
    };
    Error::Kubeconfig { files: files.to_owned(), reason, hint: hint.to_owned() }
}

impl Server {
    /// Reads the kubeconfig and makes a client. Nothing is sent yet.
    pub async fn connect(global: &Global) -> Result<Self, Error> {
        let looked = files(global);
        // A list may name files that do not exist, as kubectl has it; a single one that was asked for must exist.
        let existing: Vec<&PathBuf> = looked.iter().filter(|f| f.exists()).collect();
        if existing.is_empty() {
            return Err(Error::NoKubeconfig { looked });
        }
        let source = existing.iter().map(|f| f.display().to_string()).collect::<Vec<_>>().join(", ");
        let fault = |error: KubeconfigError| unusable(&source, &error);
        let mut merged = Kubeconfig::default();
        for file in existing {
            merged = Kubeconfig::read_from(file).and_then(|next| merged.merge(next)).map_err(fault)?;
        }
        let context = global.context.clone().or_else(|| merged.current_context.clone()).unwrap_or_default();
        let own_namespace = merged.contexts.iter().find(|c| c.name == context).and_then(|c| c.context.as_ref()?.namespace.clone());
        let options = KubeConfigOptions { context: Some(context.clone()).filter(|c| !c.is_empty()), ..KubeConfigOptions::default() };
        let mut config = Config::from_custom_kubeconfig(merged, &options).await.map_err(fault)?;
        // A person who waits wants to hear of a server that refuses, not that it is being asked again for minutes.
        config.default_retry = false;
        let (namespace, namespace_from) = match (&global.namespace, own_namespace) {
            (Some(given), _) => (given.clone(), "given by --namespace".to_owned()),
            (None, Some(own)) => (own, format!("from context {context} of {source}")),
            (None, None) => ("default".to_owned(), "no --namespace was given".to_owned()),
        };
        let target = Target { context, url: config.cluster_url.clone(), source: source.clone() };
        let client = Client::try_from(config).map_err(|e| Error::Kubeconfig {
            files: source,
            reason: e.to_string(),
            hint: "see that its certificates and keys are PEM, and whole".into(),
        })?;
        Ok(Self { client, target, namespace, namespace_from, patience: global.patience() })
    }

    /// The line that every changing command starts with.
    pub fn introduce(&self) -> String {
        format!("cluster {} ({})", self.target.context, self.target.address())
    }

    /// Turns a client's error into one that blames the right thing.
    pub async fn blame(&self, action: &str, error: kube::Error) -> Error {
        match error {
            kube::Error::Api(status) => Error::Api { action: action.to_owned(), status, places: Vec::new(), at: self.target.at() },
            kube::Error::SerdeError(e) => self.odd(action, &e.to_string()),
            kube::Error::Auth(e) => Error::Kubeconfig {
                files: self.target.source.clone(),
                reason: format!("its credentials cannot be had: {e}"),
                hint: "see the user of the context in the file".into(),
            },
            other => Error::Unreachable(Box::new(blame::diagnose(&self.target, &other).await)),
        }
    }

    fn odd(&self, action: &str, reason: &str) -> Error {
        Error::Answer { action: action.to_owned(), reason: reason.to_owned(), at: self.target.at() }
    }

    fn refusal(&self, action: &str, code: StatusCode, body: &[u8]) -> Error {
        let said = serde_json::from_slice::<Status>(body).ok().filter(|s| !s.message.is_empty());
        let mut status = match said {
            Some(status) => status,
            // Nothing that speaks Kubernetes answers so.
            None if matches!(code.as_u16(), 400 | 404 | 405) => {
                return self.odd(action, &format!("it answers {code}, and not in the words of an API server"));
            }
            None => Status::failure(&format!("the server answers {code}"), ""),
        };
        status.code = code.as_u16();
        Error::Api { action: action.to_owned(), status: status.boxed(), places: Vec::new(), at: self.target.at() }
    }

    /// Sends a request and reads the answer as JSON.
    pub async fn call(&self, action: &str, request: Request<Vec<u8>>) -> Result<Value, Error> {
        let response: Response<Body> = self.started(action, self.client.send(request.map(Body::from))).await?;
        let code = response.status();
        let body = self.started(action, response.into_body().collect_bytes()).await?;
        if !code.is_success() {
            return Err(self.refusal(action, code, &body));
        }
        serde_json::from_slice(&body).map_err(|e| self.odd(action, &e.to_string()))
    }

    /// Like [`call`](Self::call); `None` if the server answers 404.
    pub async fn call_optional(&self, action: &str, request: Request<Vec<u8>>) -> Result<Option<Value>, Error> {
        match self.call(action, request).await {
            Err(Error::Api { status, .. }) if status.code == 404 => Ok(None),
            Err(error) => Err(error),
            Ok(value) => Ok(Some(value)),
        }
    }

    /// Sends a request and streams the answer. Only the wait for its start is limited.
    pub async fn stream(&self, action: &str, request: Request<Vec<u8>>) -> Result<impl AsyncBufRead + use<>, Error> {
        self.started(action, self.client.request_stream(request)).await
    }

    /// Watches: a stream of events, each with an object.
    pub async fn watch(
        &self,
        action: &str,
        request: Request<Vec<u8>>,
    ) -> Result<impl Stream<Item = Result<WatchEvent<Value>, kube::Error>> + use<>, Error> {
        self.started(action, self.client.request_events::<Value>(request)).await
    }

    async fn started<T>(&self, action: &str, start: impl Future<Output = Result<T, kube::Error>>) -> Result<T, Error> {
        let started = match self.patience {
            None => start.await,
            Some(patience) => match tokio::time::timeout(patience, start).await {
                Ok(started) => started,
                Err(_) => return Err(Error::Unreachable(Box::new(blame::no_answer(&self.target, patience).await))),
            },
        };
        match started {
            Ok(started) => Ok(started),
            Err(error) => Err(self.blame(action, error).await),
        }
    }
}

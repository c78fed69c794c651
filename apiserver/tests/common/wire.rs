//! Requests as they go over the wire, with nothing between the test and the bytes.

use super::Server;
use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyDataStream, BodyExt, Full};
use hyper_util::{client::legacy::connect::HttpConnector, rt::TokioExecutor};
use serde_json::{Value, json};
use std::time::Duration;

/// How long anything may take before a test is over.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub const VMS: &str = "/apis/basalt.dev/v1alpha1/namespaces/default/virtualmachines";
pub const HOSTS: &str = "/apis/basalt.dev/v1alpha1/hosts";
pub const NAMESPACES: &str = "/api/v1/namespaces";
pub const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";

pub const MERGE: &str = "application/merge-patch+json";
pub const JSON_PATCH: &str = "application/json-patch+json";
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
pub const APPLY: &str = "application/apply-patch+yaml";

pub type Client = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;

pub fn client() -> Client {
    hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http()
}

/// What a server answers.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    /// The body, of an answer with this code.
    #[track_caller]
    pub fn ok(self, code: u16) -> Value {
        assert_eq!(self.code, code, "{}", String::from_utf8_lossy(&self.body));
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The Status of a refusal with this code and reason.
    #[track_caller]
    pub fn refused(self, code: u16, reason: &str) -> Value {
        let status = self.ok(code);
        let (kind, code) = (("Status", "v1", "Failure"), json!(code));
        assert_eq!(
            (status["kind"].as_str(), status["apiVersion"].as_str(), status["status"].as_str()),
            (Some(kind.0), Some(kind.1), Some(kind.2))
        );
        assert_eq!((&status["reason"], &status["code"]), (&json!(reason), &code), "{status}");
        assert!(status["message"].as_str().is_some_and(|message| !message.is_empty()), "{status}");
        status
    }

    pub fn warnings(&self) -> Vec<&str> {
        self.headers.get_all(header::WARNING).iter().map(|value| value.to_str().unwrap()).collect()
    }
}

impl Server {
    /// Sends a request as it is: the path is not brought into another form.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = tokio::time::timeout(PATIENCE, async {
            let answer = self.wire.request(request.body(Full::new(body.into())).unwrap()).await.unwrap();
            let (head, body) = answer.into_parts();
            Answer { code: head.status.as_u16(), headers: head.headers, body: body.collect().await.unwrap().to_bytes() }
        });
        answer.await.expect("an answer comes")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], "").await
    }

    pub async fn post(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::POST, path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn put(&self, path: &str, object: &Value) -> Answer {
        self.send(Method::PUT, path, &[("content-type", "application/json")], object.to_string()).await
    }

    pub async fn patch(&self, path: &str, media: &str, patch: &Value) -> Answer {
        self.send(Method::PATCH, path, &[("content-type", media)], patch.to_string()).await
    }

    pub async fn delete(&self, path: &str, options: Value) -> Answer {
        let body = if options.is_null() { String::new() } else { options.to_string() };
        self.send(Method::DELETE, path, &[("content-type", "application/json")], body).await
    }

    /// The newest revision: every write makes a new one.
    pub async fn revision(&self) -> u64 {
        resource_version(&self.get("/api/v1/namespaces?limit=1").await.ok(200))
    }

    /// Starts a watch; the answer must be one.
    pub async fn watch(&self, path: &str) -> Watch {
        self.watch_with(path, &[]).await
    }

    /// The same, in the form of a media type.
    pub async fn watch_as(&self, path: &str, accept: &str) -> Watch {
        self.watch_with(path, &[(header::ACCEPT.as_str(), accept)]).await
    }

    /// The same, with headers.
    pub async fn watch_with(&self, path: &str, headers: &[(&str, &str)]) -> Watch {
        let mark = if path.contains('?') { '&' } else { '?' };
        let mut request = Request::get(format!("http://{}{path}{mark}watch=true", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        let answer = self.wire.request(request).await.unwrap();
        assert_eq!(answer.status(), 200);
        Watch { body: BodyDataStream::new(answer.into_body()).map(Result::unwrap).boxed(), read: Vec::new() }
    }
}

/// A watch that is under way.
pub struct Watch {
    body: BoxStream<'static, Bytes>,
    read: Vec<u8>,
}

/// A line of a watch.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub type_: String,
    pub object: Value,
}

impl Line {
    /// What happened to what, in a word: `ADDED web`.
    pub fn brief(&self) -> String {
        format!("{} {}", self.type_, self.object["metadata"]["name"].as_str().unwrap_or_default())
    }

    pub fn version(&self) -> u64 {
        resource_version(&self.object)
    }
}

impl Watch {
    /// The next line; none when the watch is over.
    pub async fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let mut line: Value = serde_json::from_slice(&line).unwrap();
                return Some(Line { type_: line["type"].as_str().unwrap().to_owned(), object: line["object"].take() });
            }
            let piece = tokio::time::timeout(PATIENCE, self.body.next()).await.expect("the watch goes on");
            match piece {
                Some(piece) => self.read.extend_from_slice(&piece),
                None => {
                    assert!(self.read.is_empty(), "a watch ends between lines");
                    return None;
                }
            }
        }
    }

    /// The next lines in brief.
    pub async fn take(&mut self, count: usize) -> Vec<String> {
        let mut lines = Vec::new();
        while lines.len() < count {
            lines.push(self.next().await.expect("another line").brief());
        }
        lines
    }
}

/// The resource version of an object or list.
pub fn resource_version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|version| version.parse().ok()).expect("a resource version")
}

/// The names of a list's objects.
pub fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

/// A VM.
pub fn vm(name: &str) -> Value {
    json!({
        "apiVersion": "basalt.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": { "name": name },
        "spec": { "memory": "1Gi", "boot": { "kernel": { "image": "k" } } },
    })
}

/// A host.
pub fn host(name: &str) -> Value {
    json!({ "apiVersion": "basalt.dev/v1alpha1", "kind": "Host", "metadata": { "name": name }, "spec": {} })
}

/// An object with labels.
pub fn labelled(mut object: Value, labels: Value) -> Value {
    object["metadata"]["labels"] = labels;
    object
}

//! Requests to the API server by those who change things: the test, and the kubelet that it plays.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio::time::timeout;

/// One who is allowed everything.
pub const TOKEN: &str = "admin-token";

/// The longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of the API server that waits for each answer.
pub struct Api {
    server: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Runtime,
}

impl Api {
    pub fn new(port: u16, ca: &Path) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca)?)?;
        let tls = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http1().build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { server: format!("https://127.0.0.1:{port}"), client, runtime })
    }

    pub fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::GET, path, "", None)
    }

    pub fn post(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        self.ask(Method::POST, path, "application/json", Some(object))
    }

    pub fn patch(&self, path: &str, change: &Value) -> anyhow::Result<Value> {
        self.ask(Method::PATCH, path, "application/strategic-merge-patch+json", Some(change))
    }

    pub fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(Method::DELETE, path, "", None)
    }

    fn ask(&self, method: Method, path: &str, kind: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.server));
        request = request.header("authorization", format!("Bearer {TOKEN}"));
        if !kind.is_empty() {
            request = request.header("content-type", kind);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        self.runtime.block_on(async {
            let answer = timeout(PATIENCE, self.client.request(request)).await.context("no answer")??;
            let status = answer.status();
            let text = timeout(PATIENCE, answer.into_body().collect()).await.context("no body")??.to_bytes();
            if !status.is_success() {
                bail!("{method} {path}: {status} {}", String::from_utf8_lossy(&text));
            }
            serde_json::from_slice(&text).context("no JSON")
        })
    }
}

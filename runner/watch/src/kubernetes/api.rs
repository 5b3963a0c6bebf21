//! Requests to the API server.

use std::fs;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, HeaderValue, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::config::{Access, Token};

/// The longest wait for a connection, and for the head of an answer: the server lists up to 500 objects before.
const PATIENCE: Duration = Duration::from_secs(15);
/// When a connection has been quiet for so long, the peer is asked; it is given up after as long again.
const QUIET: Duration = Duration::from_secs(5);
/// The largest page of a list.
const PAGE_MAX: usize = 256 << 20;

/// A connection to the API server.
pub struct Api {
    access: Access,
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server says why.
    #[error("the server says {code} {message}")]
    Status {
        /// Status of HTTP, or that of an error in a watch.
        code: u16,
        /// In words.
        message: String,
    },
    /// No connection, or it broke.
    #[error("{0}")]
    Connection(String),
    /// Too slow.
    #[error("no answer for {} s", PATIENCE.as_secs())]
    Patience,
    /// Not what was expected.
    #[error("cannot read the answer: {0}")]
    Content(String),
}

impl ApiError {
    /// The status, if the server has sent one.
    pub const fn code(&self) -> Option<u16> {
        match self {
            Self::Status { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// An error as the server describes it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) message: String,
    pub(super) reason: String,
}

impl Status {
    pub(super) fn into_error(self) -> ApiError {
        let message = if self.message.is_empty() { self.reason } else { self.message };
        ApiError::Status { code: self.code, message }
    }
}

impl Api {
    /// No connection is made before the first request.
    pub fn new(access: Access) -> Self {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_connect_timeout(Some(PATIENCE));
        http.set_nodelay(true);
        // For HTTP/1, which cannot ask its peer.
        http.set_keepalive(Some(QUIET));
        http.set_keepalive_interval(Some(QUIET / 5));
        http.set_keepalive_retries(Some(5));
        let tls = (*access.tls).clone();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .http2_keep_alive_interval(QUIET)
            .http2_keep_alive_timeout(QUIET)
            .build(connector);
        Self { access, client }
    }

    /// Asks for something; the answer is a success.
    pub(super) async fn get(&self, path: &str) -> Result<Response<Incoming>, ApiError> {
        let mut request = Request::get(format!("{}{path}", self.access.server))
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("skreap-watch/", env!("CARGO_PKG_VERSION")));
        if let Some(token) = self.token()? {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Empty::new()).map_err(|e| ApiError::Connection(e.to_string()))?;
        let answer = timeout(PATIENCE, self.client.request(request)).await.map_err(|_| ApiError::Patience)?;
        let answer = answer.map_err(|e| ApiError::Connection(chain(&e)))?;
        if answer.status() == StatusCode::OK {
            return Ok(answer);
        }
        let code = answer.status().as_u16();
        let text = body(answer, 64 << 10).await.unwrap_or_default();
        let status: Status = serde_json::from_slice(&text).unwrap_or_default();
        let message = if status.message.is_empty() {
            String::from_utf8_lossy(&text).into_owned()
        } else {
            status.message
        };
        Err(ApiError::Status { code, message: message.trim().chars().take(500).collect() })
    }

    /// Asks for an object.
    pub(super) async fn object<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        let text = body(self.get(path).await?, PAGE_MAX).await?;
        serde_json::from_slice(&text).map_err(|e| ApiError::Content(e.to_string()))
    }

    fn token(&self) -> Result<Option<HeaderValue>, ApiError> {
        let text = match &self.access.token {
            None => return Ok(None),
            Some(Token::Text(text)) => text.clone(),
            Some(Token::File(path)) => fs::read_to_string(path)
                .map_err(|e| ApiError::Connection(format!("{}: {e}", path.display())))?,
        };
        let header = HeaderValue::from_str(&format!("Bearer {}", text.trim()));
        let mut header = header.map_err(|_| ApiError::Connection("the token is not text".to_owned()))?;
        header.set_sensitive(true);
        Ok(Some(header))
    }
}

/// A whole body, given up when it rests for long.
async fn body(answer: Response<Incoming>, most: usize) -> Result<Vec<u8>, ApiError> {
    let mut body = Limited::new(answer.into_body(), most);
    let mut text = Vec::new();
    while let Some(frame) = timeout(PATIENCE, body.frame()).await.map_err(|_| ApiError::Patience)? {
        let frame = frame.map_err(|e| ApiError::Connection(e.to_string()))?;
        text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
    }
    Ok(text)
}

/// An error and its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

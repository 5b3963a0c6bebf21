//! A connection to etcd.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};

/// Sent when a connection has been quiet for so long, because a peer that is silent for good is noticed by nothing else.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// The longest wait for the answer to that, for a connection, and for the answer to a request.
const PATIENCE: Duration = Duration::from_secs(3);

/// Name and password.
#[derive(Clone)]
pub struct Login {
    /// Name of the user.
    pub user: String,
    /// File with the password, read for each connection.
    pub password: PathBuf,
}

/// Certificates, each a file in PEM form, read for each connection: they are renewed while the process runs.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// Authority that the server's certificate is checked against.
    pub ca: Option<PathBuf>,
    /// Certificate and key of this client.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Name that the server's certificate has to be for, if it is not that of the endpoint.
    pub server_name: Option<String>,
}

/// Where etcd is.
#[derive(Clone)]
pub struct Server {
    /// Its members, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// With `https`.
    pub credentials: Credentials,
    /// If it asks for one.
    pub login: Option<Login>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A file.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Too slow.
    #[error("no answer for {} s", PATIENCE.as_secs())]
    Patience,
    /// The client.
    #[error(transparent)]
    Etcd(#[from] etcd_client::Error),
}

impl Server {
    /// Connects. A connection is used for one watch, and a new one is made when that breaks: so no state of the old one,
    /// such as an expired token, lives on.
    pub(super) async fn connect(&self) -> Result<Client, ConnectError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(PATIENCE)
            .with_timeout(PATIENCE)
            .with_keep_alive(KEEP_ALIVE, PATIENCE)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true);
        if self.endpoints.iter().any(|endpoint| endpoint.starts_with("https:")) {
            options = options.with_tls(self.credentials.options()?);
        }
        if let Some(login) = &self.login {
            let password = String::from_utf8_lossy(&read(&login.password)?).trim_end().to_owned();
            options = options.with_user(&*login.user, password);
        }
        let connected = tokio::time::timeout(PATIENCE, Client::connect(&self.endpoints, Some(options))).await;
        Ok(connected.map_err(|_| ConnectError::Patience)??)
    }
}

impl Credentials {
    fn options(&self) -> Result<TlsOptions, ConnectError> {
        let mut tls = TlsOptions::new();
        if let Some(ca) = &self.ca {
            tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
        }
        if let Some((certificate, key)) = &self.identity {
            tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, ConnectError> {
    fs::read(path).map_err(|error| ConnectError::File { path: path.clone(), error })
}

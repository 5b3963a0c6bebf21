//! Where the API server is, and who we are: of a pod, or of a kubeconfig.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;

/// Files of every pod.
const POD: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// How the server is reached. Read anew for each list, since tokens and certificates are renewed while we run.
#[derive(Clone)]
pub struct Access {
    /// Such as `https://10.96.0.1:443`, without a slash at its end.
    pub(super) server: String,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) token: Option<Token>,
}

/// A bearer token.
#[derive(Clone)]
pub(super) enum Token {
    Text(String),
    /// Read for each request.
    File(PathBuf),
}

/// Why the access is not known.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file.
    #[error("cannot read {}: {error}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not in a pod.
    #[error("this is not a pod: $KUBERNETES_SERVICE_HOST is not set; name a --kubeconfig")]
    NoPod,
    /// A kubeconfig that cannot be understood.
    #[error("{}: {what}", path.display())]
    Kubeconfig {
        /// Its path.
        path: PathBuf,
        /// Why.
        what: String,
    },
    /// Certificates.
    #[error("certificates: {0}")]
    Pem(#[from] pem::Error),
    /// Certificates that do not fit.
    #[error("certificates: {0}")]
    Tls(#[from] rustls::Error),
}

fn read(path: &Path) -> Result<Vec<u8>, ConfigError> {
    fs::read(path).map_err(|error| ConfigError::File { path: path.to_owned(), error })
}

impl Access {
    /// Of this kubeconfig, or of the pod that this process is in.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn read(kubeconfig: Option<&Path>) -> Result<Self, ConfigError> {
        kubeconfig.map_or_else(Self::of_this_pod, Self::of_kubeconfig)
    }

    fn of_this_pod() -> Result<Self, ConfigError> {
        let host = std::env::var("KUBERNETES_SERVICE_HOST").map_err(|_| ConfigError::NoPod)?;
        let port = std::env::var("KUBERNETES_SERVICE_PORT").unwrap_or_else(|_| "443".to_owned());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let ca = read(&Path::new(POD).join("ca.crt"))?;
        Ok(Self {
            server: format!("https://{host}:{port}"),
            tls: Arc::new(tls(Some(&ca), None)?),
            token: Some(Token::File(Path::new(POD).join("token"))),
        })
    }

    fn of_kubeconfig(path: &Path) -> Result<Self, ConfigError> {
        let wrong = |what: String| ConfigError::Kubeconfig { path: path.to_owned(), what };
        let text = String::from_utf8(read(path)?).map_err(|e| wrong(e.to_string()))?;
        let config: Kubeconfig = serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        let context = find(&config.contexts, &config.current_context)
            .ok_or_else(|| wrong(format!("it has no context {:?}", config.current_context)))?;
        let cluster = find(&config.clusters, &context.cluster)
            .ok_or_else(|| wrong(format!("it has no cluster {:?}", context.cluster)))?;
        let user = find(&config.users, &context.user)
            .ok_or_else(|| wrong(format!("it has no user {:?}", context.user)))?;
        let not_here = [
            ("exec", user.exec.is_some()),
            ("auth-provider", user.auth_provider.is_some()),
            ("username", user.username.is_some()),
            ("insecure-skip-tls-verify", cluster.insecure_skip_tls_verify),
        ];
        if let Some((what, _)) = not_here.iter().find(|(_, there)| *there) {
            return Err(wrong(format!(
                "{what} is not supported; use a token, a tokenFile or a client certificate"
            )));
        }
        // Relative paths are meant from the folder of the file.
        let folder = path.parent().unwrap_or_else(|| Path::new("."));
        let data = |data: &Option<String>, file: &Option<PathBuf>| match (data, file) {
            (Some(data), _) => {
                STANDARD.decode(data.trim()).map(Some).map_err(|e| wrong(format!("its base64: {e}")))
            }
            (None, Some(file)) => read(&folder.join(file)).map(Some),
            (None, None) => Ok(None),
        };
        let ca = data(&cluster.certificate_authority_data, &cluster.certificate_authority)?;
        let certificate = data(&user.client_certificate_data, &user.client_certificate)?;
        let key = data(&user.client_key_data, &user.client_key)?;
        let token = user.token_file.as_ref().map(|file| Token::File(folder.join(file)));
        Ok(Self {
            server: cluster.server.trim_end_matches('/').to_owned(),
            tls: Arc::new(tls(ca.as_deref(), certificate.as_deref().zip(key.as_deref()))?),
            token: token.or_else(|| user.token.clone().map(Token::Text)),
        })
    }
}

/// What a server's certificate is checked against, and the certificate of this client.
fn tls(ca: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<ClientConfig, ConfigError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let mut roots = RootCertStore::empty();
    for certificate in ca.map(CertificateDer::pem_slice_iter).into_iter().flatten() {
        roots.add(certificate?)?;
    }
    let builder = builder.with_root_certificates(roots);
    let Some((certificate, key)) = identity else { return Ok(builder.with_no_client_auth()) };
    let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>()?;
    Ok(builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?)
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Context>,
    clusters: Vec<Cluster>,
    users: Vec<User>,
}

/// The entry with this name.
fn find<'a, T: Named>(entries: &'a [T], name: &str) -> Option<&'a T::Content> {
    entries.iter().find(|entry| entry.name() == name).map(Named::content)
}

trait Named {
    type Content;
    fn name(&self) -> &str;
    fn content(&self) -> &Self::Content;
}

macro_rules! named {
    ($entry:ident, $field:ident, $content:ident) => {
        #[derive(Deserialize)]
        struct $entry {
            name: String,
            $field: $content,
        }

        impl Named for $entry {
            type Content = $content;
            fn name(&self) -> &str {
                &self.name
            }
            fn content(&self) -> &$content {
                &self.$field
            }
        }
    };
}

named!(Context, context, ContextContent);
named!(Cluster, cluster, ClusterContent);
named!(User, user, UserContent);

#[derive(Deserialize)]
struct ContextContent {
    cluster: String,
    user: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterContent {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    #[serde(default)]
    insecure_skip_tls_verify: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct UserContent {
    token: Option<String>,
    #[serde(rename = "tokenFile")]
    token_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    exec: Option<serde::de::IgnoredAny>,
    auth_provider: Option<serde::de::IgnoredAny>,
    username: Option<serde::de::IgnoredAny>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "input of the tests is written here")]

    use super::*;

    fn of(text: &str) -> Result<Access, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        Access::read(Some(file.path())).map_err(|e| e.to_string())
    }

    fn config(user: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: me@here\nclusters:\n- name: here\n  cluster:\n    \
             server: http://127.0.0.1:8001/\ncontexts:\n- name: me@here\n  context: {{cluster: here, user: me}}\n\
             users:\n- name: me\n  user: {user}\n"
        )
    }

    #[test]
    fn kubeconfigs() {
        let access = of(&config("{token: abc}")).unwrap();
        assert_eq!(access.server, "http://127.0.0.1:8001");
        assert!(matches!(access.token, Some(Token::Text(token)) if token == "abc"));
        let access = of(&config("{tokenFile: token}")).unwrap();
        assert!(
            matches!(access.token, Some(Token::File(file)) if file.is_absolute() && file.ends_with("token"))
        );
        assert!(of(&config("{}")).unwrap().token.is_none());
        for (text, part) in [
            (config("{exec: {command: x}}"), "exec is not supported"),
            (config("{username: x, password: y}"), "username is not supported"),
            (config("{client-certificate-data: '%', client-key-data: ''}"), "base64"),
            (config("{}").replace("user: me}", "user: you}"), "no user \"you\""),
            ("[]".to_owned(), ""),
            (String::new(), "no context"),
        ] {
            let error = of(&text).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}

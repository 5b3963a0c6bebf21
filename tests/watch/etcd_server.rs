//! A real etcd, on loopback and with a folder of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use etcd_client::{Client, ConnectOptions};
use nix::sys::signal::Signal;

use crate::process::{Process, until};

/// What is missing for a real etcd.
pub fn lacks() -> Option<String> {
    let there = Command::new("etcd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let missing = "etcd is missing: install Debian's etcd-server";
    (!there.is_ok_and(|status| status.success())).then(|| missing.to_owned())
}

/// A server, which can be ended and started again on the same data.
pub struct Etcd {
    folder: PathBuf,
    scheme: &'static str,
    /// Files for TLS: authority, certificate and key.
    tls: Option<PathBuf>,
    port: u16,
    peer_port: u16,
    process: Option<Process>,
    runtime: tokio::runtime::Runtime,
}

/// Two ports that nobody uses. They were free a moment ago; servers of tests that run beside take others.
fn free_ports() -> anyhow::Result<(u16, u16)> {
    let (a, b) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok((a.local_addr()?.port(), b.local_addr()?.port()))
}

impl Etcd {
    pub fn start(folder: &Path) -> anyhow::Result<Self> {
        Self::start_with(folder, None)
    }

    pub fn start_with(folder: &Path, tls: Option<PathBuf>) -> anyhow::Result<Self> {
        let (port, peer_port) = free_ports()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut etcd =
            Self { folder: folder.join("etcd"), scheme, tls, port, peer_port, process: None, runtime };
        etcd.run_on(port)?;
        Ok(etcd)
    }

    pub fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    fn run_on(&mut self, port: u16) -> anyhow::Result<()> {
        let (client, peer) =
            (format!("{}://127.0.0.1:{port}", self.scheme), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&self.folder).args(["--name", "one", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        if let Some(tls) = &self.tls {
            command.arg("--cert-file").arg(tls.join("cert.pem")).arg("--key-file").arg(tls.join("key.pem"));
            command.arg("--trusted-ca-file").arg(tls.join("cert.pem")).arg("--client-cert-auth");
        }
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.process = Some(Process::start(&mut command)?);
        self.port = port;
        if self.tls.is_none() {
            until("etcd answers", || self.ask(async |mut client| Ok(client.get("x", None).await?)).is_ok())?;
        }
        Ok(())
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.as_ref().context("etcd does not run")?.signal(signal)
    }

    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("etcd does not run")?.end(Signal::SIGKILL)?;
        Ok(())
    }

    /// Starts it again where it was.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        self.run_on(self.port)
    }

    /// Runs it where nobody who watches looks, for as long as this takes; it is down before and after.
    pub fn elsewhere(&mut self, act: impl FnOnce(&Self) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let port = self.port;
        self.run_on(free_ports()?.0)?;
        let acted = act(self);
        self.kill()?;
        self.port = port;
        acted
    }

    /// Does something as an ordinary client.
    pub fn ask<T>(&self, act: impl AsyncFnOnce(Client) -> anyhow::Result<T>) -> anyhow::Result<T> {
        self.ask_with(None, act)
    }

    pub fn ask_with<T>(
        &self,
        options: Option<ConnectOptions>,
        act: impl AsyncFnOnce(Client) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        self.runtime.block_on(async { act(Client::connect([self.endpoint()], options).await?).await })
    }

    pub fn put(&self, keys: &[&str]) -> anyhow::Result<()> {
        self.ask(async |mut client| {
            for key in keys {
                client.put(*key, "", None).await?;
            }
            Ok(())
        })
    }

    pub fn delete(&self, key: &str) -> anyhow::Result<i64> {
        self.ask(async |mut client| {
            let answer = client.delete(key, None).await?;
            answer.header().map(|header| header.revision()).context("no header")
        })
    }
}

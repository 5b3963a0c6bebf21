//! `skreap-watch etcd`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use skreap_core::Backend;
use skreap_watch::etcd::{self, Credentials, Keys, Login, Server, Value};

use super::common::{self, Common};

/// Watches keys of etcd.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct Etcd {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Keep the key of a backend alive until this process is ended, which deletes it
    Register(Register),
}

#[derive(Args)]
struct Register {
    /// Such as udp://10.0.0.1:53
    backend: Backend,
    /// Seconds after which the key is deleted if this process does not live or cannot reach etcd
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    ttl: u32,
    /// Address that clients name; only those who did are concerned when the key is deleted
    #[arg(long, value_name = "FRONTEND,…", value_delimiter = ',')]
    frontends: Vec<Backend>,
    /// What is done with the sockets of the clients then: destroy, revive, move, none
    #[arg(long)]
    action: Option<skreap_watch::state::Action>,
    #[command(flatten)]
    place: Place,
}

/// Where the keys are.
#[derive(Args)]
struct Place {
    /// Members of etcd
    #[arg(long, value_name = "URL,…", value_delimiter = ',', default_value = "http://127.0.0.1:2379")]
    endpoints: Vec<String>,
    /// The keys are PREFIX/udp/10.0.0.1:53
    #[arg(long, default_value = "/skreap")]
    prefix: String,
    /// User, if etcd asks for one
    #[arg(long, value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// File with the password
    #[arg(long, value_name = "PATH", requires = "user")]
    password_file: Option<PathBuf>,
    /// Certificate of the authority, PEM, for endpoints with https
    #[arg(long, value_name = "PATH")]
    ca: Option<PathBuf>,
    /// Certificate of this client, PEM
    #[arg(long, value_name = "PATH", requires = "key")]
    cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "PATH", requires = "cert")]
    key: Option<PathBuf>,
    /// Name in the certificate of the server, if it is not that of the endpoint
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,
}

impl Place {
    fn open(self) -> (Server, Keys) {
        let credentials =
            Credentials { ca: self.ca, identity: self.cert.zip(self.key), server_name: self.server_name };
        let login = self.user.zip(self.password_file).map(|(user, password)| Login { user, password });
        (Server { endpoints: self.endpoints, credentials, login }, Keys::below(&self.prefix))
    }
}

impl Etcd {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        if let Some(Command::Register(register)) = self.command {
            let (server, keys) = register.place.open();
            let action = register.action.map(|action| action.name().to_owned());
            let value = Value { frontends: register.frontends, action };
            let stop = common::stopped()?;
            return Ok(etcd::register(&server, &keys, register.backend, &value, register.ttl, stop).await?);
        }
        let (server, keys) = self.place.open();
        let source = async |tell| Ok(etcd::run(&server, &keys, &tell).await?);
        self.common.watch(source).await
    }
}

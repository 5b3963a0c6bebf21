//! `skreap-watch kubernetes`

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use skreap_watch::kubernetes::{self, Access};

use super::common::Common;

/// Watches EndpointSlices and Services.
#[derive(Args)]
pub(super) struct Kubernetes {
    /// Where the API server is and who we are [default: the pod that this process is in]
    #[arg(long, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Addresses of nodes, at which clients find node ports
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',', env = "SKREAP_NODE_ADDRESSES")]
    node_addresses: Vec<IpAddr>,
    #[command(flatten)]
    common: Common,
}

impl Kubernetes {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (kubeconfig, nodes) = (self.kubeconfig, self.node_addresses);
        let access = || Access::read(kubeconfig.as_deref());
        // What is wrong now is so until somebody puts it right.
        access()?;
        self.common.watch(async |tell| Ok(kubernetes::run(access, &nodes, &tell).await?)).await
    }
}

//! The control plane: etcd, the API server and its controllers, on loopback.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{Api, TOKEN};
use crate::process::{Process, until};

/// A program that `tests/fleet/build.sh` has built.
pub fn server(name: &str) -> PathBuf {
    crate::cache().join("kubernetes/1.20.2").join(name)
}

/// Debian's.
pub fn kubectl() -> PathBuf {
    crate::cache().join("packages/usr/bin/kubectl")
}

/// Parts of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Etcd,
    ApiServer,
    Controllers,
}

const PARTS: [Part; 3] = [Part::Etcd, Part::ApiServer, Part::Controllers];

/// A cluster without nodes.
pub struct Cluster {
    pub folder: TempDir,
    pub port: u16,
    etcd_port: u16,
    peer_port: u16,
    /// In the order of [`PARTS`].
    processes: [Option<Process>; 3],
    pub api: Api,
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Cluster {
    /// Everything runs, and the manifests of `runner/dist/kubernetes` are applied.
    pub fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let [port, etcd_port, peer_port] = [free_port()?, free_port()?, free_port()?];
        certificates(folder.path())?;
        fs::write(folder.path().join("tokens"), format!("{TOKEN},admin,admin,system:masters\n"))?;
        let api = Api::new(port, &folder.path().join("ca.crt"))?;
        let mut cluster = Self { folder, port, etcd_port, peer_port, processes: [None, None, None], api };
        cluster.write_kubeconfig("admin.conf", TOKEN)?;
        for part in PARTS {
            cluster.run(part)?;
        }
        cluster.kubectl(&["apply", "--kustomize", "runner/dist/kubernetes"])?;
        let token = cluster.service_account_token()?;
        cluster.write_kubeconfig("watch.conf", &token)?;
        Ok(cluster)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    /// Runs Debian's kubectl as one who may do everything.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new(kubectl());
        command.arg("--kubeconfig").arg(self.path("admin.conf")).args(arguments);
        let ended = command.env("HOME", self.folder.path()).current_dir(crate::root()).output()?;
        ensure!(ended.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    }

    /// Kills a part, without a warning.
    pub fn kill(&mut self, part: Part) -> anyhow::Result<()> {
        let process =
            self.processes[part as usize].take().with_context(|| format!("{part:?} does not run"))?;
        process.end(Signal::SIGKILL)?;
        Ok(())
    }

    /// Starts a part, and waits until it answers.
    pub fn run(&mut self, part: Part) -> anyhow::Result<()> {
        let mut command = match part {
            Part::Etcd => self.etcd(),
            Part::ApiServer => self.api_server(),
            Part::Controllers => self.controllers(),
        };
        let log = fs::File::options().create(true).append(true).open(self.path(&format!("{part:?}.log")))?;
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(log))?;
        match part {
            Part::Etcd => until("etcd answers", || self.etcdctl(&["get", "x"]).is_ok())?,
            Part::ApiServer => until("the API server is ready", || {
                process.ended().is_some() || self.api.get("/api/v1/namespaces/default").is_ok()
            })?,
            Part::Controllers => {}
        }
        if let Some(status) = process.ended() {
            bail!("{part:?} has ended with {status}: {}", self.log(&format!("{part:?}.log")));
        }
        self.processes[part as usize] = Some(process);
        Ok(())
    }

    fn etcd(&self) -> Command {
        let (client, peer) =
            (format!("http://127.0.0.1:{}", self.etcd_port), format!("http://127.0.0.1:{}", self.peer_port));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.path("etcd")).args(["--name", "one", "--log-level", "error"]);
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("one={peer}")]);
        command
    }

    pub fn etcdctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("etcdctl");
        command.args(["--endpoints", &format!("http://127.0.0.1:{}", self.etcd_port)]).args(arguments);
        let ended = command.env("ETCDCTL_API", "3").output()?;
        ensure!(ended.status.success(), "etcdctl {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
        Ok(String::from_utf8(ended.stdout)?)
    }

    fn api_server(&self) -> Command {
        let mut command = Command::new(server("kube-apiserver"));
        let port = self.port.to_string();
        command.args(["--etcd-servers", &format!("http://127.0.0.1:{}", self.etcd_port)]);
        command.args(["--secure-port", &port, "--bind-address", "127.0.0.1", "--insecure-port", "0"]);
        command.args(["--advertise-address", "127.0.0.1", "--endpoint-reconciler-type", "none"]);
        command.args(["--service-cluster-ip-range", "10.96.0.0/16", "--authorization-mode", "RBAC"]);
        command.args(["--service-account-issuer", "https://kubernetes.default.svc", "--allow-privileged"]);
        command.args(["--feature-gates", "EndpointSliceTerminatingCondition=true"]);
        for (option, file) in [
            ("--tls-cert-file", "server.crt"),
            ("--tls-private-key-file", "server.key"),
            ("--service-account-key-file", "accounts.key"),
            ("--service-account-signing-key-file", "accounts.key"),
            ("--token-auth-file", "tokens"),
            ("--cert-dir", "."),
        ] {
            command.arg(option).arg(self.path(file));
        }
        command
    }

    fn controllers(&self) -> Command {
        let mut command = Command::new(server("kube-controller-manager"));
        // None that looks after nodes: there are no kubelets that report.
        let controllers = "deployment,replicaset,endpoint,endpointslice,endpointslicemirroring,garbagecollector,\
             podgc,namespace,serviceaccount,serviceaccount-token,disruption";
        command.args(["--controllers", controllers, "--leader-elect=false", "--port=0", "--secure-port=0"]);
        command.args(["--feature-gates", "EndpointSliceTerminatingCondition=true"]);
        command.arg("--kubeconfig").arg(self.path("admin.conf"));
        command.arg("--service-account-private-key-file").arg(self.path("accounts.key"));
        command.arg("--root-ca-file").arg(self.path("ca.crt"));
        command
    }

    /// The token of the account that the DaemonSet runs as.
    pub fn service_account_token(&self) -> anyhow::Result<String> {
        let mut token = None;
        until("the account has a token", || {
            let secrets = self.api.get("/api/v1/namespaces/skreap/secrets").unwrap_or_default();
            let of_account = |secret: &&Value| {
                secret["metadata"]["annotations"]["kubernetes.io/service-account.name"] == "skreap"
            };
            token = secrets["items"].as_array().and_then(|items| {
                items.iter().find(of_account)?["data"]["token"].as_str().map(str::to_owned)
            });
            token.is_some()
        })?;
        let bytes = STANDARD.decode(token.unwrap())?;
        Ok(String::from_utf8(bytes)?)
    }

    /// The token is in a file beside, `NAME.token`.
    pub fn write_kubeconfig(&self, name: &str, token: &str) -> anyhow::Result<()> {
        fs::write(self.path(&format!("{name}.token")), token)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.path("ca.crt")}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {"tokenFile": self.path(&format!("{name}.token"))}}],
        });
        Ok(fs::write(self.path(name), config.to_string())?)
    }

    /// A Deployment of UDP servers and its Service; returns the Service's address.
    pub fn deploy(&self, name: &str, replicas: u32) -> anyhow::Result<String> {
        let labels = json!({"app": name});
        let service = json!({"metadata": {"name": name}, "spec": {"selector": labels,
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53, "targetPort": 5353}]}});
        let service = self.api.post("/api/v1/namespaces/default/services", &service)?;
        let deployment = json!({"metadata": {"name": name}, "spec": {"replicas": replicas,
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "server", "image": "server"}]}}}});
        self.api.post("/apis/apps/v1/namespaces/default/deployments", &deployment)?;
        Ok(service["spec"]["clusterIP"].as_str().context("no address")?.to_owned())
    }

    pub fn scale(&self, name: &str, replicas: u32) -> anyhow::Result<()> {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        self.api.patch(&path, &json!({"spec": {"replicas": replicas}}))?;
        Ok(())
    }

    /// Replaces all pods, one after the other.
    pub fn roll(&self, name: &str, version: &str) -> anyhow::Result<()> {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        let template = json!({"metadata": {"annotations": {"version": version}}});
        self.api.patch(&path, &json!({"spec": {"template": template}}))?;
        Ok(())
    }

    /// The pods of a Deployment that are ready and not about to go: name, address, and node, in the order of addresses.
    pub fn pods(&self, name: &str) -> anyhow::Result<Vec<Pod>> {
        let list = self.api.get(&format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}"))?;
        let mut pods: Vec<Pod> = list["items"].as_array().into_iter().flatten().filter_map(Pod::of).collect();
        pods.sort_by_key(|pod| pod.address);
        Ok(pods)
    }

    /// Waits until a Deployment has these many pods, all of them ready and in its slices, and no others are left.
    pub fn settled(&self, name: &str, replicas: usize) -> anyhow::Result<Vec<Pod>> {
        let path = format!("/apis/apps/v1/namespaces/default/deployments/{name}");
        let mut pods = Vec::new();
        until(&format!("{name} has {replicas} pods"), || {
            let deployment = self.api.get(&path).unwrap_or_default();
            let (meta, status) = (&deployment["metadata"], &deployment["status"]);
            let count = |field: &str| status[field].as_u64().unwrap_or(0) == replicas as u64;
            let selector = format!("/api/v1/namespaces/default/pods?labelSelector=app%3D{name}");
            let all = self.api.get(&selector).unwrap_or_default();
            pods = self.pods(name).unwrap_or_default();
            // Controllers that were away have an old status for a moment.
            status["observedGeneration"] == meta["generation"]
                && count("replicas")
                && count("updatedReplicas")
                && count("availableReplicas")
                && all["items"].as_array().is_some_and(|items| items.len() == replicas)
                && pods.len() == replicas
                && self
                    .in_slices(name)
                    .is_ok_and(|addresses| pods.iter().map(|pod| pod.address).eq(addresses))
        })?;
        Ok(pods)
    }

    /// Addresses in the slices of a Service that is there; a dataplane leads clients to no others.
    fn in_slices(&self, name: &str) -> anyhow::Result<BTreeSet<Ipv4Addr>> {
        let selector = format!("labelSelector=kubernetes.io%2Fservice-name%3D{name}");
        let path = format!("/apis/discovery.k8s.io/v1beta1/namespaces/default/endpointslices?{selector}");
        let list = self.api.get(&path)?;
        let slices = list["items"].as_array().into_iter().flatten();
        let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().into_iter().flatten());
        Ok(endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str()?.parse().ok()).collect())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Those who use a server end before it.
        self.processes.reverse();
        for process in &mut self.processes {
            drop(process.take());
        }
        if std::env::var_os("SKREAP_FLEET_KEEP").is_some() {
            let kept = Path::new("/tmp").join(format!("skreap-fleet-{}", std::process::id()));
            _ = fs::create_dir_all(&kept);
            for name in ["watch.log", "serve.log", "ApiServer.log", "Controllers.log"] {
                _ = fs::copy(self.path(name), kept.join(name));
            }
        }
    }
}

/// A pod that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub address: Ipv4Addr,
    pub node: String,
}

impl Pod {
    fn of(object: &Value) -> Option<Self> {
        let (metadata, status) = (&object["metadata"], &object["status"]);
        let ready =
            status["conditions"].as_array()?.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
        if !ready || !metadata["deletionTimestamp"].is_null() {
            return None;
        }
        Some(Self {
            name: metadata["name"].as_str()?.to_owned(),
            address: status["podIP"].as_str()?.parse().ok()?,
            node: object["spec"]["nodeName"].as_str()?.to_owned(),
        })
    }
}

/// An authority, a certificate for loopback and for the link to a pod (`image.rs`), and a key for tokens.
fn certificates(folder: &Path) -> anyhow::Result<()> {
    let openssl = |arguments: &str| {
        let ended = Command::new("openssl").args(arguments.split(' ')).current_dir(folder).output()?;
        ensure!(ended.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&ended.stderr));
        Ok(())
    };
    fs::write(folder.join("names"), "subjectAltName=IP:127.0.0.1,IP:10.96.0.1,IP:169.254.77.1\n")?;
    let new = "req -newkey rsa:2048 -nodes";
    openssl(&format!("{new} -x509 -days 2 -subj /CN=authority -keyout ca.key -out ca.crt"))?;
    openssl(&format!("{new} -subj /CN=server -keyout server.key -out server.csr"))?;
    openssl(
        "x509 -req -days 2 -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -extfile names -out server.crt",
    )?;
    openssl("genrsa -out accounts.key 2048")
}

//! The container image under OCI runtimes, with exactly what the DaemonSet grants: capabilities, users, read-only root,
//! seccomp, namespaces. The watcher finds the API server as in every pod.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use skreap_testbed::{Cgroup, Netns};

use crate::cluster::Cluster;
use crate::kubelet::Kubelet;
use crate::node::{Node, Totals};
use crate::process::{Process, until};
use crate::story::EACH;

crate::tests!(under_runc, under_crun);

/// The ends of the link between the pod and the API server.
const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 77, 1));
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 77, 2));

/// Where a pod has its account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

fn tool(name: &str) -> PathBuf {
    crate::cache().join("packages/usr").join(name)
}

/// The image, of `make image`.
fn image() -> PathBuf {
    std::env::var_os("SKREAP_IMAGE")
        .map_or_else(|| crate::root().join("target/image/skreap.tar"), PathBuf::from)
}

/// What is missing.
pub fn lacks() -> Option<String> {
    if !image().exists() {
        return Some(format!("{} is missing: run make image", image().display()));
    }
    let tools = ["bin/umoci", "bin/crun", "sbin/runc", "share/containers/seccomp.json"].map(tool);
    let missing = tools.iter().find(|path| !path.exists())?;
    Some(format!("{} is missing: see test-fleet in the Makefile", missing.display()))
}

/// Why crun cannot run here at all.
pub fn crun_refuses() -> Option<String> {
    let hybrid = Path::new("/sys/fs/cgroup/unified").exists();
    hybrid.then(|| {
        "crun runs nothing where cgroups of version 2 are mounted beside those of version 1".to_owned()
    })
}

fn under_runc() -> anyhow::Result<()> {
    the_manifest_is_enough("runc", &tool("sbin/runc"))
}

fn under_crun() -> anyhow::Result<()> {
    the_manifest_is_enough("crun", &tool("bin/crun"))
}

fn the_manifest_is_enough(label: &'static str, runtime: &Path) -> anyhow::Result<()> {
    let cluster = Cluster::start()?;
    let _kubelet = Kubelet::start(cluster.port, &cluster.path("ca.crt"), &["node-a"])?;
    let service = cluster.deploy("dns", 3)?;
    let mut node = Node::bare(&cluster, label, &[])?;
    let mut pod = Pod::new(&cluster, &node, label, runtime)?;
    pod.serve()?;
    // After the first start, so that their frontends are known.
    for pod in cluster.settled("dns", 3)? {
        node.open(&service, pod.address, EACH)?;
    }
    pod.watch()?;
    until("the slices are listed", || node.lists() > 0)?;
    pod.is_as_the_manifest_says()?;

    cluster.scale("dns", 2)?;
    node.look(&cluster.settled("dns", 2)?)?;
    ensure!(node.totals == Totals { destroyed: 20, kept: 40, ..Totals::default() }, "{:?}", node.totals);
    // The next pod of the DaemonSet goes on with what the last one has pinned.
    pod.end_serve()?;
    let pins = fs::read_dir(cluster.path("pod/bpf"))?.count();
    ensure!(pins > 0, "nothing is pinned");
    pod.serve()?;
    cluster.scale("dns", 1)?;
    node.look(&cluster.settled("dns", 1)?)?;
    ensure!(node.totals == Totals { destroyed: 40, kept: 20, ..Totals::default() }, "{:?}", node.totals);
    pod.end()
}

/// The pod of the DaemonSet, on this machine.
struct Pod {
    folder: PathBuf,
    runtime: PathBuf,
    label: &'static str,
    spec: Value,
    /// Folders of this machine by the names of volumes.
    volumes: Vec<(&'static str, PathBuf)>,
    port: u16,
    netns: Netns,
    serve: Option<Process>,
    watch: Option<Process>,
    cgroup: Cgroup,
    _bpf: Mount,
}

impl Pod {
    fn new(cluster: &Cluster, node: &Node, label: &'static str, runtime: &Path) -> anyhow::Result<Self> {
        let manifest = fs::read_to_string(crate::root().join("runner/dist/kubernetes/daemonset.yaml"))?;
        let daemonset: Value = serde_saphyr::from_str(&manifest)?;
        let folder = cluster.path("pod");
        let (run, bpf, account) = (folder.join("run"), folder.join("bpf"), folder.join("account"));
        for path in [&run, &bpf, &account] {
            fs::create_dir_all(path)?;
        }
        // As the kubelet makes an emptyDir.
        fs::set_permissions(&run, fs::Permissions::from_mode(0o777))?;
        fs::copy(cluster.path("ca.crt"), account.join("ca.crt"))?;
        fs::write(account.join("token"), cluster.service_account_token()?)?;
        let netns = Netns::create(&format!("{label}-pod"))?;
        Netns::current()?.join("skreap-pod", HOST, &netns, POD, 30)?;
        let port = forward(cluster.port)?;
        let mount = Mount::bpf(&bpf)?;
        unpack(&folder)?;
        let volumes =
            vec![("run", run), ("cgroup", node.cgroup().to_owned()), ("bpf", bpf), ("account", account)];
        Ok(Self {
            folder: cluster.folder.path().to_owned(),
            runtime: runtime.to_owned(),
            label,
            spec: daemonset["spec"]["template"]["spec"].clone(),
            volumes,
            port,
            netns,
            serve: None,
            watch: None,
            cgroup: Cgroup::create(&format!("{label}-pod"))?,
            _bpf: mount,
        })
    }

    fn id(&self, container: &str) -> String {
        format!("skreap-{}-{}-{container}", std::process::id(), self.label)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime);
        command.env("LD_LIBRARY_PATH", tool("lib/x86_64-linux-gnu"));
        command.arg("--root").arg(self.folder.join("state"));
        command
    }

    fn run(&self, container: usize) -> anyhow::Result<Process> {
        let name = self.spec["containers"][container]["name"].as_str().context("no name")?;
        let bundle = self.folder.join("pod").join(name);
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), self.config(container)?.to_string())?;
        let log =
            fs::File::options().create(true).append(true).open(self.folder.join(format!("{name}.log")))?;
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(&bundle).arg(self.id(name));
        Process::start(command.stdout(Stdio::null()).stderr(log))
    }

    fn serve(&mut self) -> anyhow::Result<()> {
        let mut process = self.run(0)?;
        let socket = self.folder.join("pod/run/skreap.sock");
        until("the service listens", || {
            process.ended().is_some() || std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })?;
        let log = fs::read_to_string(self.folder.join("serve.log"))?;
        ensure!(process.ended().is_none(), "the service has ended: {log}");
        self.serve = Some(process);
        Ok(())
    }

    fn watch(&mut self) -> anyhow::Result<()> {
        self.watch = Some(self.run(1)?);
        Ok(())
    }

    fn end_serve(&mut self) -> anyhow::Result<()> {
        let process = self.serve.take().context("no service")?;
        self.end_container("serve", process)
    }

    /// As the kubelet ends a container.
    fn end_container(&self, name: &str, mut process: Process) -> anyhow::Result<()> {
        let id = self.id(name);
        let signalled = self.command().args(["kill", &id, "TERM"]).status()?;
        ensure!(signalled.success(), "the container {id} cannot be ended");
        until("the container has ended", || process.ended().is_some())?;
        ensure!(process.ended().is_some_and(|status| status.success()), "{id} does not end well");
        // Those that have ended are gone already.
        _ = self.command().args(["delete", "--force", &id]).stderr(Stdio::null()).status();
        Ok(())
    }

    fn end(mut self) -> anyhow::Result<()> {
        self.end_serve()?;
        let process = self.watch.take().context("no watcher")?;
        self.end_container("watch", process)
    }

    /// The OCI configuration of what the manifest says of a container, with what runtimes add to every pod.
    fn config(&self, container: usize) -> anyhow::Result<Value> {
        let manifest = &self.spec["containers"][container];
        let security = &manifest["securityContext"];
        let uid = security["runAsUser"].as_u64().context("no user")?;
        let gid = security["runAsGroup"].as_u64().unwrap_or(uid);
        let capabilities: Vec<String> =
            strings(&security["capabilities"]["add"]).map(|c| format!("CAP_{c}")).collect();
        ensure!(security["capabilities"]["drop"] == json!(["ALL"]), "not all capabilities are dropped");
        ensure!(security["seccompProfile"]["type"] == "RuntimeDefault", "no profile of seccomp");
        let arguments: Vec<&str> = strings(&manifest["command"]).chain(strings(&manifest["args"])).collect();
        let env = [
            "PATH=/usr/bin".to_owned(),
            format!("KUBERNETES_SERVICE_HOST={HOST}"),
            format!("KUBERNETES_SERVICE_PORT={}", self.port),
        ];
        let mut namespaces = vec![
            json!({"type": "mount"}),
            json!({"type": "uts"}),
            json!({"type": "ipc"}),
            json!({"type": "cgroup"}),
            json!({"type": "network", "path": format!("/run/netns/{}", self.netns.name())}),
        ];
        if self.spec["hostPID"] != true {
            namespaces.push(json!({"type": "pid"}));
        }
        let cgroup = self.cgroup.path().strip_prefix(skreap_testbed::cgroup2_root()?)?;
        Ok(json!({
            "ociVersion": "1.0.2",
            "hostname": "node-a",
            "root": {"path": self.folder.join("pod/image/rootfs"), "readonly": security["readOnlyRootFilesystem"]},
            "process": {
                "user": {"uid": uid, "gid": gid}, "args": arguments, "env": env, "cwd": "/",
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
                "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
            },
            "mounts": self.mounts(manifest)?,
            "linux": {
                "namespaces": namespaces,
                "cgroupsPath": format!("/{}/{}", cgroup.display(), container),
                "seccomp": seccomp(&capabilities)?,
                "maskedPaths": ["/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                    "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"],
                "readonlyPaths": ["/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        }))
    }

    fn mounts(&self, manifest: &Value) -> anyhow::Result<Vec<Value>> {
        let tight = ["nosuid", "noexec", "nodev"];
        let mut mounts = vec![
            json!({"destination": "/proc", "type": "proc", "source": "proc", "options": tight}),
            json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
            json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
            json!({"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777"]}),
            json!({"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]}),
            json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "noexec", "nodev", "ro"]}),
        ];
        let source = |name: &str| {
            let found = self.volumes.iter().find(|(of, _)| *of == name);
            found.map(|(_, path)| path).with_context(|| format!("no volume {name}"))
        };
        for mount in manifest["volumeMounts"].as_array().into_iter().flatten() {
            let name = mount["name"].as_str().unwrap_or_default();
            let mut options = vec!["rbind", "rprivate"];
            options.push(if mount["readOnly"] == true { "ro" } else { "rw" });
            mounts.push(json!({"destination": mount["mountPath"], "type": "bind", "source": source(name)?, "options": options}));
        }
        // The kubelet gives the account to every container.
        mounts.push(json!({"destination": ACCOUNT, "type": "bind", "source": source("account")?, "options": ["rbind", "ro"]}));
        Ok(mounts)
    }

    /// What the kernel says of the processes, for the manifest's promises.
    fn is_as_the_manifest_says(&self) -> anyhow::Result<()> {
        for (container, uid) in [("serve", "0"), ("watch", "65532")] {
            let state = self.command().args(["state", &self.id(container)]).output()?;
            let state: Value = serde_json::from_slice(&state.stdout)?;
            let pid = state["pid"].as_u64().context("no pid")?;
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let field = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.unwrap_or_default().split_whitespace().next().unwrap_or_default().to_owned()
            };
            ensure!(
                field("Uid:") == uid && field("NoNewPrivs:") == "1" && field("Seccomp:") == "2",
                "{status}"
            );
            let bits = u64::from_str_radix(&field("CapBnd:"), 16)?;
            // DAC_READ_SEARCH, NET_ADMIN, SYS_PTRACE, SYS_ADMIN, PERFMON, BPF (linux/capability.h)
            let granted = [2, 12, 19, 21, 38, 39].iter().map(|bit| 1_u64 << bit).sum();
            let expected = if container == "serve" { granted } else { 0 };
            ensure!(bits == expected, "{container} has the capabilities {bits:x}");
            let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
            let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap_or_default();
            ensure!(root.split(' ').nth(3).is_some_and(|o| o.split(',').any(|o| o == "ro")), "{root}");
        }
        Ok(())
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        for container in ["serve", "watch"] {
            let mut command = self.command();
            command.args(["delete", "--force", &self.id(container)]);
            // Those that have ended are gone.
            _ = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        // On a machine with cgroups of version 1, runc has made the parent in each of their hierarchies.
        let name = self.cgroup.path().file_name().unwrap_or_default();
        for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let made = hierarchy.path().join(name);
            if made != self.cgroup.path() {
                _ = fs::remove_dir(made);
            }
        }
    }
}

fn strings(value: &Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// The image as a root file system, by an implementation that is not ours.
fn unpack(folder: &Path) -> anyhow::Result<()> {
    let layout = folder.join("layout");
    fs::create_dir_all(&layout)?;
    let tar = Command::new("tar").arg("xf").arg(image()).arg("-C").arg(&layout).status()?;
    ensure!(tar.success(), "{} is no archive", image().display());
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let tag = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .context("no tag")?;
    let mut umoci = Command::new(tool("bin/umoci"));
    umoci.arg("unpack").arg("--image").arg(format!("{}:{tag}", layout.display())).arg(folder.join("image"));
    let ended = umoci.output()?;
    ensure!(ended.status.success(), "umoci: {}", String::from_utf8_lossy(&ended.stderr));
    Ok(())
}

/// The default profile of seccomp, as runtimes make it for these capabilities.
fn seccomp(capabilities: &[String]) -> anyhow::Result<Value> {
    let profile: Value = serde_json::from_slice(&fs::read(tool("share/containers/seccomp.json"))?)?;
    let has = |c: &str| capabilities.iter().any(|have| have == c);
    let rules = profile["syscalls"].as_array().context("no rules")?.iter().filter(|rule| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = &includes["arches"];
        strings(&includes["caps"]).all(has)
            && !strings(&excludes["caps"]).any(has)
            && (strings(arches).next().is_none() || strings(arches).any(|arch| arch == "amd64"))
            && !strings(&excludes["arches"]).any(|arch| arch == "amd64")
    });
    let rules: Vec<Value> = rules
        .map(|rule| {
            let mut kept = json!({"names": rule["names"], "action": rule["action"]});
            for field in ["args", "errnoRet"] {
                if !rule[field].is_null() {
                    kept[field] = rule[field].clone();
                }
            }
            kept
        })
        .collect();
    Ok(json!({"defaultAction": profile["defaultAction"], "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": ["SCMP_ARCH_X86_64"], "syscalls": rules}))
}

/// Lets the pod reach the API server, which listens on loopback; returns the port.
fn forward(to: u16) -> anyhow::Result<u16> {
    let listener = TcpListener::bind((HOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for near in listener.incoming().flatten() {
            let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else { continue };
            let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) else { continue };
            for (mut from, mut to) in [(near, far2), (far, near2)] {
                thread::spawn(move || {
                    _ = io::copy(&mut from, &mut to);
                    _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    Ok(port)
}

/// A bpf filesystem of the test's own.
struct Mount(PathBuf);

impl Mount {
    fn bpf(at: &Path) -> anyhow::Result<Self> {
        let mounted = Command::new("mount").args(["-t", "bpf", "bpf"]).arg(at).status()?;
        ensure!(mounted.success(), "no bpf filesystem at {}", at.display());
        Ok(Self(at.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        _ = Command::new("umount").arg(&self.0).status();
    }
}

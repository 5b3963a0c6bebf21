//! What this kernel and these privileges offer, each found out by doing it.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::path::Path;

use serde::Serialize;
use skreap_bpf::hooks::Hooks;
use skreap_bpf::order::{Hook, Order};
use skreap_bpf::{Config, Index, WalkCounts};
use skreap_core::{Target, Unconnected};

use crate::engine::select;
use crate::sys::cgroup;
use crate::sys::sock_diag::{DiagSocket, Verdict};

/// A feature, and whether it works here.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// Name of the feature.
    pub feature: &'static str,
    /// True if it was seen to work.
    pub works: bool,
    /// True if `skreap` cannot do its main job without it.
    pub required: bool,
    /// What was seen, or what is missing and what to do about it.
    pub detail: String,
}

/// All findings, and what follows.
#[derive(Clone, Debug, Serialize)]
pub struct Findings {
    /// Kernel release.
    pub kernel: String,
    /// One for each feature, in the order in which they depend on each other.
    pub features: Vec<Finding>,
    /// For each hook that an address can be translated at, the programs on the root cgroup in the order in which
    /// they run, and the place that ours would have.
    pub order: Vec<Order>,
    /// What `auto` takes.
    pub engine: Option<skreap_core::EngineName>,
    /// Why.
    pub why: String,
}

impl Findings {
    /// True if the main job can be done here.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.engine.is_some() && self.features.iter().all(|f| f.works || !f.required)
    }
}

/// What did not work, in one sentence.
#[derive(Clone, Debug)]
pub struct Missing {
    /// What is missing, and what to do about it.
    pub detail: String,
}

fn missing<T>(detail: impl Into<String>) -> Result<T, Missing> {
    Err(Missing { detail: detail.into() })
}

/// Each hook, and the program that is attached to it.
const HOOKS: [(&str, &str); 5] = [
    ("cgroup/connect4", "skreap_connect4"),
    ("cgroup/connect6", "skreap_connect6"),
    ("cgroup/sendmsg4", "skreap_sendmsg4"),
    ("cgroup/sendmsg6", "skreap_sendmsg6"),
    ("cgroup/sock_release", "skreap_sock_release"),
];

/// Probes everything.
#[must_use]
pub fn all() -> Findings {
    let finding = |feature, required, result: Result<String, Missing>| Finding {
        feature,
        required,
        works: result.is_ok(),
        detail: result.unwrap_or_else(|m| m.detail),
    };
    let mut features = vec![finding("BTF", true, btf()), finding("cgroup2", true, cgroup2())];
    let mut order = Vec::new();
    match Index::load(&Config { max_sockets: 16, buckets: 1, ..Config::default() }) {
        Ok(index) => {
            features.push(finding("BPF programs", true, Ok("loaded".to_owned())));
            for (feature, program) in HOOKS {
                features.push(finding(feature, true, hook(&index, program, &mut order)));
            }
            features.push(finding("SYSCALL test_run", true, test_run(&index)));
        }
        Err(e) => features.push(finding("BPF programs", true, missing(e.to_string()))),
    }
    features.push(finding("bpf_sock_destroy in iterators", false, iterator_destroy()));
    features.push(finding("SOCK_DESTROY", false, sock_destroy()));
    features.push(finding("lock-taking kfunc", false, lock_taking_kfunc()));
    let decision = select::decide();
    Findings { kernel: kernel_release(), features, order, engine: decision.engine, why: decision.why }
}

/// `uname -r`.
#[must_use]
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or_else(|_| "unknown".to_owned(), |s| s.trim().to_owned())
}

fn btf() -> Result<String, Missing> {
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    if Path::new(PATH).exists() {
        Ok(PATH.to_owned())
    } else {
        missing("no BTF: use a kernel built with CONFIG_DEBUG_INFO_BTF=y")
    }
}

fn cgroup2() -> Result<String, Missing> {
    match cgroup::root() {
        Ok(path) => Ok(path.display().to_string()),
        Err(e) => missing(format!("{e}: mount it (`mount -t cgroup2 none /sys/fs/cgroup/unified`)")),
    }
}

fn hook(index: &Index, program: &str, orders: &mut Vec<Order>) -> Result<String, Missing> {
    let path = cgroup::root().map_err(|e| Missing { detail: e.to_string() })?;
    let dir = cgroup::open(&path).map_err(|e| Missing { detail: format!("{}: {e}", path.display()) })?;
    match Hooks::attach_one(index, program, dir.as_fd()) {
        Ok(attached_for_a_moment) => {
            let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program);
            let ours = attached_for_a_moment.program_ids();
            if let (Some(hook), Some(ours)) = (hook, ours.first()) {
                let order = Order::read(dir.as_fd(), hook, *ours);
                orders.push(order.map_err(|e| Missing { detail: format!("cannot read the order: {e}") })?);
            }
            Ok("attached to the root cgroup and detached".to_owned())
        }
        Err(e) => missing(e.to_string()),
    }
}

/// Walks an index once.
pub(crate) fn test_run(index: &Index) -> Result<String, Missing> {
    let target = Target {
        backend: skreap_core::Backend::new(skreap_core::Protocol::Udp, Ipv4Addr::LOCALHOST.into(), 1)
            .map_err(|e| Missing { detail: e.to_string() })?,
        unconnected: Unconnected::Preserve,
        dry_run: true,
    };
    let mut victims = Vec::new();
    match index.walker().and_then(|mut walker| walker.walk(&target, &mut victims)) {
        Ok(_) => Ok("walked an empty index".to_owned()),
        Err(e) => missing(e.to_string()),
    }
}

/// A connected UDP socket of our own that has nobody to talk to, for a trial destroy.
pub(crate) fn private_socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Its own address: what it sent would only reach itself.
    socket.connect(socket.local_addr()?)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// True if the socket was destroyed: the error is delivered once, and only then.
pub(crate) fn was_destroyed(socket: &UdpSocket) -> bool {
    socket.recv(&mut [0; 1]).is_err_and(|e| e.raw_os_error() == Some(libc::ECONNABORTED))
}

/// Destroys a private socket by netlink.
pub(crate) fn sock_destroy() -> Result<String, Missing> {
    let failed = |what: &str, e: io::Error| Missing {
        detail: match e.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => format!("{what}: {e}; run as root or with CAP_NET_ADMIN"),
            Some(libc::EPROTONOSUPPORT | libc::ENOENT | libc::EOPNOTSUPP) => {
                format!("{what}: {e}; use a kernel built with CONFIG_INET_DIAG_DESTROY=y and inet_diag")
            }
            _ => format!("{what}: {e}"),
        },
    };
    let socket = private_socket().map_err(|e| failed("cannot create a trial socket", e))?;
    let victim =
        skreap_bpf::Victim::of_udp_socket(&socket).map_err(|e| failed("cannot name the trial socket", e))?;
    let mut diag = DiagSocket::open().map_err(|e| failed("NETLINK_SOCK_DIAG", e))?;
    let mut verdicts = Vec::new();
    diag.destroy(&[victim], &mut verdicts).map_err(|e| failed("SOCK_DESTROY", e))?;
    match verdicts.as_slice() {
        [Verdict::Destroyed] if was_destroyed(&socket) => Ok("destroyed a private UDP socket".to_owned()),
        [Verdict::Failed(errno)] => Err(failed("SOCK_DESTROY", io::Error::from_raw_os_error(*errno))),
        _ => missing(
            "SOCK_DESTROY was accepted, but the socket is still alive: use a kernel with CONFIG_INET_DIAG_DESTROY=y",
        ),
    }
}

/// Destroys a private socket from an iterator.
pub(crate) fn iterator_destroy() -> Result<String, Missing> {
    let socket = private_socket().map_err(|e| Missing { detail: e.to_string() })?;
    let victim = skreap_bpf::Victim::of_udp_socket(&socket).map_err(|e| Missing { detail: e.to_string() })?;
    match skreap_bpf::probe::iterator_destroy(&victim) {
        Ok(1) if was_destroyed(&socket) => Ok("iter/udp destroyed a private UDP socket".to_owned()),
        Ok(n) => missing(format!("iter/udp found {n} private sockets, and the socket is still alive")),
        Err(e) => missing(e.to_string()),
    }
}

/// How many sockets the index of a trial has room for: this process may share its cgroup with busy ones, whose sockets
/// are recorded meanwhile as well.
const TRIAL_SOCKETS: u32 = 8192;
/// How often a trial is begun anew if they were too many.
const TRIALS: u32 = 3;

/// Destroys a private socket in the walk of an index of its own, whose hooks see this process's cgroup for a
/// moment.
pub(crate) fn lock_taking_kfunc() -> Result<String, Missing> {
    let found = skreap_bpf::module::look().map_err(|e| Missing { detail: e.to_string() })?;
    let mut trials = 0;
    loop {
        let (destroyed, counts) = destroy_in_walk()?;
        trials += 1;
        if destroyed {
            return Ok(format!("{found}: a walk destroyed a private UDP socket"));
        }
        if !counts.incomplete_full || trials == TRIALS {
            return missing(format!(
                "{found} is there, but a walk did not destroy a private UDP socket: {counts:?}"
            ));
        }
    }
}

/// True if the walk has destroyed the socket.
fn destroy_in_walk() -> Result<(bool, WalkCounts), Missing> {
    let failed = |e: &dyn std::fmt::Display| Missing { detail: format!("trial destroy in a walk: {e}") };
    let config = Config { max_sockets: TRIAL_SOCKETS, buckets: 1024, hold: true, ..Config::default() };
    let index = Index::load(&config).map_err(|e| failed(&e))?;
    index.can_destroy().map_err(|e| Missing { detail: e.to_string() })?;
    let cgroup = cgroup::own().and_then(|path| cgroup::open(&path)).map_err(|e| failed(&e))?;
    let hooks = Hooks::attach(&index, cgroup.as_fd()).map_err(|e| failed(&e))?;
    let socket = private_socket().map_err(|e| failed(&e))?;
    let peer = socket.local_addr().map_err(|e| failed(&e))?;
    let backend = skreap_core::Backend::new(skreap_core::Protocol::Udp, peer.ip(), peer.port());
    let target = Target {
        backend: backend.map_err(|e| failed(&e))?,
        unconnected: Unconnected::Preserve,
        dry_run: false,
    };
    let counts = index
        .walker()
        .and_then(|mut walker| walker.destroy(&target, 0, false, &mut Vec::new()))
        .map_err(|e| failed(&e))?;
    drop(hooks);
    Ok((counts.destroyed == 1 && was_destroyed(&socket), counts))
}

//! The features that this kernel and these privileges offer, each found by trying.

use std::os::fd::AsFd as _;
use std::path::Path;

use serde::Serialize;
use skreap_bpf::attach_order::{Hook, Order, foreign_before};
use skreap_bpf::hooks::Hooks;
use skreap_bpf::{Config, Index};

use super::select;
use super::trial::{iterator_destroy, lock_taking_kfunc, missing, sock_destroy, test_run};
use crate::sys::cgroup::{self, PartOnly};

pub use super::trial::Missing;

/// A feature, and whether it works here.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Finding {
    /// Name of the feature.
    pub feature: &'static str,
    /// True if it was seen to work.
    pub works: bool,
    /// True if `skreap` cannot do its main job without it.
    pub required: bool,
    /// The evidence, or the missing feature and the next step.
    pub detail: String,
}

/// All findings, and the conclusion.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Findings {
    /// Kernel release.
    pub kernel: String,
    /// One for each feature, in the order in which they depend on each other.
    pub features: Vec<Finding>,
    /// For each hook that an address can be translated at, the programs on the root cgroup in the order in which
    /// they run, and the place that ours would have.
    pub order: Vec<Order>,
    /// The choice of `auto`.
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

/// Each hook, and the program that is attached to it.
const HOOKS: [(&str, &str); 5] = [
    ("cgroup/connect4", "skreap_connect4"),
    ("cgroup/connect6", "skreap_connect6"),
    ("cgroup/sendmsg4", "skreap_sendmsg4"),
    ("cgroup/sendmsg6", "skreap_sendmsg6"),
    ("cgroup/sock_release", "skreap_sock_release"),
];

/// Probes everything, for a service on the root of cgroup2.
#[must_use]
pub fn all() -> Findings {
    all_on(None)
}

/// Probes everything, for a service on this cgroup; `None`: on the root of cgroup2.
#[must_use]
pub fn all_on(cgroup: Option<&Path>) -> Findings {
    let finding = |feature, required, result: Result<String, Missing>| Finding {
        feature,
        required,
        works: result.is_ok(),
        detail: result.unwrap_or_else(|m| m.detail),
    };
    let mut features = vec![finding("BTF", true, btf()), finding("cgroup2", true, cgroup2(cgroup))];
    let mut order = Vec::new();
    match Index::load(&Config::default().max_sockets(16).buckets(1)) {
        Ok(index) => {
            features.push(finding("BPF programs", true, Ok("loaded".to_owned())));
            for (feature, program) in HOOKS {
                features.push(finding(feature, true, hook(&index, cgroup, program, &mut order)));
            }
            features.push(finding("SYSCALL test_run", true, test_run(&index)));
        }
        Err(e) => features.push(finding("BPF programs", true, missing(e.to_string()))),
    }
    features.push(finding("frontends", false, frontends(cgroup)));
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

fn cgroup2(named: Option<&Path>) -> Result<String, Missing> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => match cgroup::mount() {
            Ok(mount) if !mount.whole => return missing(PartOnly(mount.path).to_string()),
            Ok(mount) => mount.path,
            Err(e) => {
                return missing(format!("{e}: mount it (`mount -t cgroup2 none /sys/fs/cgroup/unified`)"));
            }
        },
    };
    let failed = |e| Missing { detail: format!("{}: {e}", path.display()) };
    cgroup::open(&path).map_err(failed)?;
    Ok(match cgroup::not_seen(&path).map_err(failed)? {
        Some(not_seen) => format!("{}; not seen: {not_seen}", path.display()),
        None => path.display().to_string(),
    })
}

/// Tries to run programs before all others, which `serve --frontends` needs.
fn frontends(cgroup: Option<&Path>) -> Result<String, Missing> {
    let config = Config::default().max_sockets(16).buckets(1).frontends(1);
    let index = Index::load(&config).map_err(|e| Missing { detail: e.to_string() })?;
    let path = match cgroup {
        Some(path) => path.to_owned(),
        None => cgroup::mount().map_err(|e| Missing { detail: e.to_string() })?.path,
    };
    let dir = cgroup::open(&path).map_err(|e| Missing { detail: format!("{}: {e}", path.display()) })?;
    for hook in Hook::ALL {
        let attached = Hooks::attach_first(&index, hook, dir.as_fd());
        let attached = attached.map_err(|e| Missing { detail: e.to_string() })?;
        let before = attached.first_program_id(hook).and_then(|id| foreign_before(dir.as_fd(), hook, id));
        let before = before.map_err(|e| Missing { detail: format!("cannot read the order: {e}") })?;
        if let Some(first) = before.iter().flatten().next() {
            return missing(format!(
                "{hook}: program {first} would run before ours, so no frontends would be recorded; attach to the cgroup it is \
                 attached to"
            ));
        }
    }
    Ok("our programs would run before all others".to_owned())
}

fn hook(
    index: &Index,
    cgroup: Option<&Path>,
    program: &str,
    orders: &mut Vec<Order>,
) -> Result<String, Missing> {
    let (path, place) = match cgroup {
        Some(path) => (path.to_owned(), path.display().to_string()),
        None => {
            let mount = cgroup::mount().map_err(|e| Missing { detail: e.to_string() })?;
            let place =
                if mount.whole { "the root cgroup".to_owned() } else { mount.path.display().to_string() };
            (mount.path, place)
        }
    };
    let dir = cgroup::open(&path).map_err(|e| Missing { detail: format!("{}: {e}", path.display()) })?;
    match Hooks::attach_one(index, program, dir.as_fd()) {
        Ok(attached_for_a_moment) => {
            let hook = Hook::ALL.into_iter().find(|hook| hook.program() == program);
            let ours = attached_for_a_moment.program_ids();
            if let (Some(hook), Some(ours)) = (hook, ours.first()) {
                let order = Order::read(dir.as_fd(), hook, *ours);
                orders.push(order.map_err(|e| Missing { detail: format!("cannot read the order: {e}") })?);
            }
            Ok(format!("attached to {place} and detached"))
        }
        Err(e) => missing(e.to_string()),
    }
}

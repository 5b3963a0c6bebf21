//! `skreap-watch` and `skreap serve` in a cluster whose control plane is real: etcd, kube-apiserver and
//! kube-controller-manager of Debian's source. Kubelets are played by [`kubelet`], pods are addresses in a network
//! namespace, and the dataplane is a load balancer in the cgroup of the clients.
//!
//! Needs root, Linux 6.15 with BTF, etcd, openssl, `tests/fleet/build.sh`, and the packages that `make test-fleet` unpacks.
//! What is missing is said, and the test ignored; with `SKREAP_TESTS=required` it fails.

#![allow(clippy::unwrap_used, reason = "it fails the test")]

mod api;
mod cluster;
mod image;
mod kubelet;
mod load;
mod node;
#[path = "../watch/process.rs"]
mod process;
mod story;
mod trouble;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A test: fails by an error or by a panic of an assertion.
type Test = (&'static str, fn() -> anyhow::Result<()>);

/// Names a test after its function.
macro_rules! tests {
    ($($run:ident),* $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            vec![$((concat!(module_path!(), "::", stringify!($run)), $run)),*]
        }
    };
}
pub(crate) use tests;

/// Where `tests/fleet/build.sh` and `tests/fleet/unpack.sh` put what they make.
fn cache() -> PathBuf {
    let home = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache");
    env::var_os("XDG_CACHE_HOME").map_or_else(home, PathBuf::from).join("skreap")
}

/// The folder of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The command beside ours.
fn skreap() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_skreap-watch")).with_file_name("skreap")
}

/// What is missing.
fn lacks() -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("needs root: sockets are destroyed".to_owned());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("the kernel has no BTF".to_owned());
    }
    let files = [
        (skreap(), "build the package skreap first"),
        (cluster::server("kube-apiserver"), "run tests/fleet/build.sh"),
        (cluster::server("kube-controller-manager"), "run tests/fleet/build.sh"),
        (cluster::kubectl(), "run tests/fleet/unpack.sh kubernetes-client"),
    ];
    if let Some((path, what)) = files.iter().find(|(path, _)| !path.exists()) {
        return Some(format!("{} is missing: {what}", path.display()));
    }
    let runs = |program: &&str| {
        let asked = Command::new(program).arg("version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_err()
    };
    ["etcd", "etcdctl", "openssl"]
        .iter()
        .find(|program| runs(program))
        .map(|program| format!("{program} is missing"))
}

fn main() -> ExitCode {
    skreap_testbed::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    // Each has a control plane of its own, and two processors are few.
    arguments.test_threads = Some(1);
    let required = env::var("SKREAP_TESTS").is_ok_and(|value| value == "required");
    let trials = [story::tests(), trouble::tests(), image::tests(), load::tests()].into_iter().flatten().map(
        |(name, run)| {
            let name = name.split_once("::").map_or(name, |(_, name)| name);
            let (of_image, of_load) = (name.starts_with("image"), name.starts_with("load"));
            let lacks = move || {
                let of_group = || if of_image { image::lacks() } else { None };
                lacks().or_else(of_group)
            };
            // Measurements are asked for, and nobody can make crun run on some machines.
            let refused = || image::crun_refuses().filter(|_| name == "image::under_crun");
            let skipped = load::lacks().filter(|_| of_load).or_else(refused);
            Trial::ignorable_test(name, move || match skipped.clone().or_else(lacks) {
                Some(lacks) if required && skipped.is_none() => Err(Failed::from(lacks)),
                Some(lacks) => Ok(Completion::ignored_with(lacks)),
                None => run().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:?}"))),
            })
        },
    );
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

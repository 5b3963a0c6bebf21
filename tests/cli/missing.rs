//! What a machine or a user may lack: exit code 3, and one sentence that names it.

use std::ffi::CString;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use skreap_testbed::{Cgroup, cgroup2_root};
use tempfile::TempDir;

use crate::process::{Ended, run, run_with, skreap};

crate::tests![
    probe_finds_everything_needed,
    an_ordinary_user_is_told_so,
    no_cgroup2,
    no_btf,
    a_cgroup_that_is_none_is_exit_1,
    an_engine_that_is_not_there,
];

/// The commands that need the kernel.
const NEEDY: [&[&str]; 4] = [&["probe"], &["probe", "--json"], &["serve"], &["demo", "--json"]];

/// What `probe` tries, in this order.
const FEATURES: [&str; 13] = [
    "BTF",
    "cgroup2",
    "BPF programs",
    "cgroup/connect4",
    "cgroup/connect6",
    "cgroup/sendmsg4",
    "cgroup/sendmsg6",
    "cgroup/sock_release",
    "SYSCALL test_run",
    "frontends",
    "bpf_sock_destroy in iterators",
    "SOCK_DESTROY",
    "lock-taking kfunc",
];

fn probe_finds_everything_needed() -> Result<()> {
    let ended = run(&["probe", "--json"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let [findings] = &ended.json()?[..] else { anyhow::bail!("not one object: {ended:?}") };
    let features = findings["features"].as_array().context("no features")?;
    let names: Vec<_> = features.iter().filter_map(|f| f["feature"].as_str()).collect();
    ensure!(names == FEATURES, "{names:?}");
    ensure!(features.iter().all(|f| f["works"] == true || f["required"] == false), "{findings}");
    let engine = findings["engine"].as_str().context("no engine")?;
    ensure!(findings["why"].is_string(), "{findings}");

    let ended = run(&["probe"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let lines: Vec<&str> = ended.out.lines().collect();
    // The order has a heading and a line for each of four hooks.
    ensure!(lines.len() == FEATURES.len() + 7 && lines[0].starts_with("kernel "), "{ended:?}");
    for (line, name) in lines.iter().skip(1).zip(FEATURES) {
        let (mark, rest) = line.trim_start().split_once(' ').context("no mark")?;
        // "NO" in capitals is something that is needed.
        ensure!(["yes", "no"].contains(&mark) && rest.trim_start().starts_with(name), "{line}");
    }
    let last = lines[FEATURES.len() + 6];
    ensure!(last.starts_with(&format!("auto takes the engine {engine}: ")), "{last}");
    ensure!(!last.contains("another engine"), "{last}");
    if engine == "netlink" {
        // What speaks for it comes first, then what speaks against the one before it.
        let (works, not) = last.split_once("; ").context("nothing speaks against kfunc")?;
        ensure!(works.ends_with(": SOCK_DESTROY of a private socket works"), "{last}");
        ensure!(not.starts_with("not kfunc: "), "{last}");
    }
    Ok(())
}

/// Exit code 3, and a single line on stderr that has these words.
fn cannot(args: &[&str], ended: &Ended, words: &[&str]) -> Result<()> {
    ensure!(ended.code == Some(3), "{args:?}: {ended:?}");
    let mut lines = ended.err.lines();
    let line = lines.next().with_context(|| format!("{args:?} says nothing: {ended:?}"))?;
    ensure!(lines.next().is_none(), "{args:?}: more than one line: {ended:?}");
    ensure!(line.starts_with("skreap: "), "{args:?}: {line}");
    for word in words {
        ensure!(line.contains(word), "{args:?}: no word of {word:?}: {line}");
    }
    Ok(())
}

fn an_ordinary_user_is_told_so() -> Result<()> {
    // The binary may lie where only root can go.
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let binary = directory.path().join("skreap");
    fs::copy(env!("CARGO_BIN_EXE_skreap"), &binary)?;
    fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
    for args in NEEDY {
        let mut command = Command::new(&binary);
        // Changing the user gives up supplementary groups and capabilities too.
        command.args(args).env_remove("SKREAP_LOG").uid(65_534).gid(65_534);
        let ended = run_with(command, Vec::new())?;
        cannot(args, &ended, &["run as root, or with CAP_BPF"])?;
    }
    Ok(())
}

/// Lets a command see a mount table of its own, changed by `change` between fork and exec.
pub fn in_other_mounts(command: &mut Command, change: impl Fn() -> io::Result<()> + Send + Sync + 'static) {
    let prepare = move || {
        // SAFETY: unshare takes no pointers.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        let flags = libc::MS_REC | libc::MS_PRIVATE;
        let null = std::ptr::null();
        // SAFETY: the path is a C string; what is null is not read for a change of propagation.
        check(unsafe { libc::mount(null, c"/".as_ptr(), null.cast(), flags, null.cast()) })?;
        change()
    };
    // SAFETY: only system calls with memory that was made before the fork.
    unsafe { command.pre_exec(prepare) };
}

pub fn check(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn no_cgroup2() -> Result<()> {
    for args in NEEDY {
        let root = CString::new(cgroup2_root()?.as_os_str().as_bytes())?;
        let mut command = skreap(args);
        in_other_mounts(&mut command, move || {
            // SAFETY: the path is a C string.
            check(unsafe { libc::umount2(root.as_ptr(), libc::MNT_DETACH) })
        });
        let ended = run_with(command, Vec::new())?;
        cannot(args, &ended, &["no cgroup2 hierarchy is mounted", "mount"])?;
    }
    Ok(())
}

fn no_btf() -> Result<()> {
    for args in NEEDY {
        let mut command = skreap(args);
        in_other_mounts(&mut command, || {
            let (kind, target) = (c"tmpfs".as_ptr(), c"/sys/kernel/btf".as_ptr());
            // SAFETY: C strings; tmpfs takes no data here.
            check(unsafe { libc::mount(kind, target, kind, libc::MS_RDONLY, std::ptr::null()) })
        });
        let ended = run_with(command, Vec::new())?;
        cannot(args, &ended, &["BTF", "CONFIG_DEBUG_INFO_BTF=y"])?;
    }
    Ok(())
}

fn a_cgroup_that_is_none_is_exit_1() -> Result<()> {
    let directory = TempDir::new()?;
    let path = directory.path().to_str().context("the path is not UTF-8")?;
    let gone = format!("{path}/gone");
    for (path, why) in [(path, "not a cgroup2 directory"), (&gone, "No such file or directory")] {
        let ended = run(&["serve", "--cgroup", path])?;
        ensure!(ended.code == Some(1) && ended.out.is_empty(), "{ended:?}");
        ensure!(ended.err.contains(path) && ended.err.contains(why), "{ended:?}");
        ensure!(ended.err.lines().count() == 1, "{ended:?}");
    }
    Ok(())
}

fn an_engine_that_is_not_there() -> Result<()> {
    if Path::new("/sys/kernel/btf/skreap").exists() {
        // The module is loaded: the engine is there.
        return Ok(());
    }
    let cgroup = Cgroup::create("cli-engine")?;
    let path = cgroup.path().to_str().context("the path is not UTF-8")?;
    for args in [&["serve", "--cgroup", path, "--engine", "kfunc"][..], &["demo", "--engine", "kfunc"]] {
        cannot(
            args,
            &run(args)?,
            &["engine kfunc cannot be used", "; engine auto is the best that works here"],
        )?;
    }
    ensure!(crate::hooks::attached(&cgroup)? == 0, "hooks are still attached");
    Ok(())
}

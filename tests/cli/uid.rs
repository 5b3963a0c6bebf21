//! Who may talk to a unix socket, and whose file it is.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skreap_testbed::Cgroup;
use tempfile::TempDir;

use crate::process::{self, Ended, run_with, skreap};
use crate::serve::{Serve, event};

crate::tests![
    another_user_is_sent_away_with_one_line,
    a_user_who_is_allowed,
    mode_and_owner,
    only_root_by_default,
    the_usual_path,
    a_service_without_descriptors_goes_on,
];

/// `nobody`, on every Debian.
pub const NOBODY: u32 = 65_534;

/// The binary where that user can run it.
pub struct Anyone {
    _directory: TempDir,
    pub binary: PathBuf,
}

impl Anyone {
    pub fn new() -> Result<Self> {
        let directory = TempDir::new()?;
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
        let binary = directory.path().join("skreap");
        fs::copy(env!("CARGO_BIN_EXE_skreap"), &binary)?;
        fs::set_permissions(&binary, Permissions::from_mode(0o755))?;
        Ok(Self { _directory: directory, binary })
    }

    /// Runs `skreap` as user 65534.
    pub fn run(&self, args: &[&str]) -> Result<Ended> {
        let mut command = Command::new(&self.binary);
        command.args(args).env_remove("SKREAP_LOG").env_remove("SKREAP_SOCKET");
        command.env_remove("XDG_RUNTIME_DIR").env_remove("RUNTIME_DIRECTORY").uid(NOBODY).gid(NOBODY);
        run_with(command, Vec::new())
    }
}

/// The counts of clients, asked of the service.
fn clients(serve: &Serve) -> Result<Value> {
    let mut talk = serve.client()?;
    talk.send("{\"id\":\"s\",\"type\":\"status\"}\n")?;
    let answer = talk.answer()?.context("closed")?;
    ensure!(answer["id"] == "s", "{answer}");
    Ok(answer["status"]["clients"].clone())
}

fn another_user_is_sent_away_with_one_line() -> Result<()> {
    // A file that lets anyone connect: the uid still decides.
    let serve = Serve::start_with("cli-uid", &["--socket-mode", "666", "--allow-uid", "12345"])?;
    let socket = serve.socket_arg()?;
    let before = clients(&serve)?;
    ensure!(before["refused_uid"] == 0, "{before}");
    let anyone = Anyone::new()?;
    for args in [&["status", "--socket", &socket][..], &["reap", "udp://10.96.0.9:53", "--socket", &socket]] {
        let ended = anyone.run(args)?;
        ensure!(ended.code == Some(1) && ended.out.is_empty(), "{ended:?}");
        let says = "skreap: uid 65534 may not talk to this service; start it with --allow-uid 65534\n";
        ensure!(ended.err == says, "{ended:?}");
    }
    let after = clients(&serve)?;
    ensure!(after["refused_uid"] == 2 && after["refused_full"] == 0, "{after}");
    // It did nothing for them.
    let mut talk = serve.client()?;
    talk.send("{\"id\":\"s\",\"type\":\"status\"}\n")?;
    let status = talk.answer()?.context("closed")?;
    ensure!(status["status"]["totals"]["events"] == json!({}), "{status}");
    drop(talk);
    serve.finish()
}

fn a_user_who_is_allowed() -> Result<()> {
    let serve = Serve::start_with("cli-allow", &["--allow-uid", "nobody", "--allow-uid", "12345"])?;
    let socket = serve.socket_arg()?;
    let mode = fs::metadata(serve.socket())?.permissions().mode() & 0o7777;
    ensure!(mode == 0o666, "mode {mode:o}");
    let anyone = Anyone::new()?;
    let ended = anyone.run(&["reap", "udp://10.96.0.9:53", "--socket", &socket])?;
    ensure!(ended.code == Some(0) && ended.out.starts_with("udp://10.96.0.9:53: 0 of 0 "), "{ended:?}");
    ensure!(clients(&serve)?["refused_uid"] == 0, "someone was refused");
    serve.finish()
}

fn mode_and_owner() -> Result<()> {
    let args = ["--socket-mode", "640", "--socket-owner", "nobody", "--socket-group", "54321"];
    let serve = Serve::start_with("cli-mode", &args)?;
    let file = fs::symlink_metadata(serve.socket())?;
    ensure!(file.permissions().mode() & 0o7777 == 0o640, "mode {:o}", file.permissions().mode());
    ensure!((file.uid(), file.gid()) == (NOBODY, 54321), "{}:{}", file.uid(), file.gid());
    // The owner of the file may connect to it, but that alone does not let it talk.
    let ended = Anyone::new()?.run(&["status", "--socket", &serve.socket_arg()?])?;
    ensure!(ended.code == Some(1) && ended.err.contains("uid 65534 may not talk"), "{ended:?}");
    serve.finish()
}

fn only_root_by_default() -> Result<()> {
    let serve = Serve::start("cli-root")?;
    let file = fs::symlink_metadata(serve.socket())?;
    ensure!(file.permissions().mode() & 0o7777 == 0o600 && file.uid() == 0, "{file:?}");
    let ended = Anyone::new()?.run(&["status", "--socket", &serve.socket_arg()?])?;
    ensure!(ended.code == Some(1) && ended.err.contains("Permission denied"), "{ended:?}");
    ensure!(ended.err.contains("--allow-uid 65534") && ended.err.lines().count() == 1, "{ended:?}");
    serve.finish()
}

fn the_usual_path() -> Result<()> {
    let cgroup = Cgroup::create("cli-usual")?;
    let directory = TempDir::new()?;
    let runtime = directory.path().join("skreap");
    let socket = runtime.join("skreap.sock");
    let mut command = crate::serve::command(&cgroup, &["unix"]);
    let mut child =
        command.env("RUNTIME_DIRECTORY", &runtime).stderr(std::process::Stdio::piped()).spawn()?;
    let talked = (|| {
        process::until("the service to listen", || UnixStream::connect(&socket).is_ok())?;
        let mut status = skreap(&["status", "--json"]);
        status.env("RUNTIME_DIRECTORY", &runtime).env_remove("SKREAP_SOCKET");
        let ended = run_with(status, Vec::new())?;
        ensure!(ended.code == Some(0), "{ended:?}");
        ensure!(ended.json()?[0]["pid"] == child.id(), "another service answered: {ended:?}");
        let mut status = skreap(&["status", "--json"]);
        status.env("SKREAP_SOCKET", &socket).env("RUNTIME_DIRECTORY", "/nowhere");
        let ended = run_with(status, Vec::new())?;
        ensure!(ended.code == Some(0), "{ended:?}");
        Ok(())
    })();
    process::signal(&child, libc::SIGTERM)?;
    let ended = process::collect(&mut child)?;
    ensure!(ended.code == Some(0), "{ended:?}");
    talked
}

/// The descriptors of a process.
fn descriptors(pid: i32) -> Result<BTreeSet<u64>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().parse()?)).collect()
}

/// More clients than the service can have descriptors for: those it has are served, and later ones too.
fn a_service_without_descriptors_goes_on() -> Result<()> {
    let serve = Serve::start("cli-fds")?;
    let mut first = serve.client()?;
    first.ask("before")?;
    let pid = i32::try_from(serve.pid())?;
    // A limit of descriptors is one of their numbers: six of those below it are free, and it has some above.
    let used = descriptors(pid)?;
    let most = (0..).filter(|fd| !used.contains(fd)).nth(6).context("no end of descriptors")?;
    let limit = libc::rlimit { rlim_cur: most, rlim_max: most };
    // SAFETY: the new limit is read only, and no old one is asked for.
    let result = unsafe { libc::prlimit(pid, libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut()) };
    ensure!(result == 0, "prlimit: {}", std::io::Error::last_os_error());
    let crowd: Vec<UnixStream> =
        (0..20).map(|_| UnixStream::connect(serve.socket())).collect::<Result<_, _>>()?;
    let full = || descriptors(pid).is_ok_and(|used| used.range(..most).count() as u64 == most);
    process::until("the descriptors to be used up", full)?;
    for i in 0..20 {
        first.ask(&format!("during-{i}"))?;
    }
    // These wait like the rest of the crowd, with whatever number of descriptors becomes free at a time.
    let mut later = (0..3).map(|_| serve.client()).collect::<Result<Vec<_>>>()?;
    drop(crowd);
    for (i, client) in later.iter_mut().enumerate() {
        client.ask(&format!("after-{i}"))?;
    }
    first.send(&event("last"))?;
    ensure!(first.answer()?.context("closed")?["id"] == "last", "not the last");
    serve.finish()
}

//! `serve --pin`: hooks and index outlive the process, and the next one goes on where it was.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use skreap_testbed::{Bpffs, Selection};

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::hooks;
use crate::process::{run, skreap, until};
use crate::serve::Serve;

crate::tests![
    a_killed_service_is_taken_over,
    killed_at_any_moment,
    sigterm_leaves_the_pins,
    other_sizes_replace_the_pins,
    a_map_that_is_missing_replaces_the_pins,
    another_layout_replaces_the_pins,
    a_layout_of_another_version_replaces_the_pins,
    a_hook_that_is_missing_replaces_the_pins,
    half_made_pins_are_cleared_away,
    two_services_on_one_directory,
    unload_while_it_serves,
    no_bpf_filesystem,
    a_start_that_fails_leaves_no_pins,
];

/// A bpf filesystem and a `serve --pin` on it.
struct Pinned {
    serve: Serve,
    directory: String,
    bpffs: Bpffs,
}

impl Pinned {
    fn start(label: &str) -> Result<Self> {
        let bpffs = Bpffs::create()?;
        let directory = bpffs.path("skreap").to_str().context("not UTF-8")?.to_owned();
        let serve =
            Serve::start_with(label, &["--log", "info", "--max-sockets", "2000", "--pin", &directory])?;
        Ok(Self { serve, directory, bpffs })
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        Path::new(&self.directory).join(name)
    }

    fn index(&self) -> Result<Value> {
        good_json(&["index", "--socket", &self.serve.socket_arg()?, "--json"])
    }

    /// Ends the service, and gives what it has logged.
    fn stop(&mut self) -> Result<String> {
        self.serve.signal(libc::SIGTERM)?;
        let ended = self.serve.ended()?;
        ensure!(ended.code == Some(0) && !ended.err.contains("panicked"), "{ended:?}");
        ensure!(hooks::attached(&self.serve.cgroup)? == 5, "the hooks did not stay, or there are more");
        Ok(ended.err)
    }

    /// Ends it, looks for this line in its log, and unloads: nothing stays.
    fn finish(mut self, line: &str) -> Result<()> {
        let log = self.stop()?;
        ensure!(log.contains(line), "no {line:?} in {log}");
        let out = good(&["unload", "--pin", &self.directory])?;
        ensure!(out == format!("{}: hooks detached, index freed\n", self.directory), "{out}");
        self.serve.nothing_left()?;
        let left: Vec<_> = fs::read_dir(self.bpffs.path(""))?
            .flatten()
            .map(|e| e.file_name())
            // The kernel's own.
            .filter(|name| !name.to_string_lossy().ends_with(".debug"))
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        let out = good(&["unload", "--pin", &self.directory])?;
        ensure!(out == format!("{}: nothing is pinned\n", self.directory), "{out}");
        Ok(())
    }
}

/// Ten sockets before the end, some of which close while nobody serves, and three that come meanwhile.
fn a_killed_service_is_taken_over() -> Result<()> {
    let mut pinned = Pinned::start("cli-takeover")?;
    let mut ten = Ten::new(&pinned.serve)?;
    pinned.serve.kill()?;
    for socket in [0, 1, 6] {
        ten.client.close(socket)?;
    }
    let more = ten.connect(UDP, 3)?;
    pinned.serve.restart()?;

    let index = pinned.index()?;
    let entry = |n: u32| json!({"connected": n, "unconnected": 0, "netns": 1});
    ensure!(index["backends"] == json!({UDP: entry(7), TCP: entry(3)}), "{index}");
    // The counters go on from where they were.
    ensure!(index["counters"]["inserts"] == 13 && index["counters"]["removals"] == 3, "{index}");
    let report = good_json(&["reap", UDP, "--socket", &pinned.serve.socket_arg()?, "--json"])?;
    ensure!(report["destroyed"] == 7 && report["complete"] == true, "{report}");
    let mut destroyed: Vec<u32> = ten.states()?.iter().filter(|s| s.destroyed()).map(|s| s.socket).collect();
    destroyed.sort_unstable();
    ensure!(destroyed == [2, 3, 4, 5, more, more + 1, more + 2], "{destroyed:?}");
    ensure!(ten.client.echo_all(Selection::List(vec![7, 8, 9]), 10_000)?.answered() == 3, "TCP was touched");

    // Once more, with nothing in between.
    pinned.serve.replace()?;
    drop(ten);
    let index = pinned.index()?;
    ensure!(index["nodes"] == 0 && index["counters"]["removals"] == 13, "{index}");
    ensure!(index["counters"]["free_nodes"] == index["counters"]["capacity"], "{index}");
    pinned.finish("taken over, with all sockets")
}

/// Killed sooner or later after its start, with the same size as before or with another: whoever comes next finds
/// every socket, and nothing is left of those before.
fn killed_at_any_moment() -> Result<()> {
    const KILLS: u64 = 12;
    let mut pinned = Pinned::start("cli-any-moment")?;
    let ten = Ten::new(&pinned.serve)?;
    pinned.serve.kill()?;
    for i in 0..KILLS {
        pinned.serve.args[3] = if i % 3 == 2 { "3000".to_owned() } else { "2000".to_owned() };
        pinned.serve.begin()?;
        thread::sleep(Duration::from_millis(40 * i));
        pinned.serve.kill()?;
    }
    pinned.serve.args[3] = "2500".to_owned();
    pinned.serve.restart()?;
    let index = pinned.index()?;
    ensure!(index["sockets"] == 10 && index["nodes"] == 10, "{index}");
    ensure!(!pinned.at("building").exists(), "half an index is still there");
    drop(ten);
    let index = pinned.index()?;
    ensure!(index["nodes"] == 0 && index["counters"]["free_nodes"] == 2500, "{index}");
    pinned.finish("replaced: max_sockets is ")
}

fn sigterm_leaves_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-stay")?;
    let log = pinned.stop()?;
    ensure!(log.contains("pinned pins="), "{log}");
    let ten = Ten::new(&pinned.serve)?;
    pinned.serve.restart()?;
    ensure!(pinned.index()?["sockets"] == 10, "sockets that came while nobody served are missing");
    drop(ten);
    pinned.finish("taken over, with all sockets")
}

fn other_sizes_replace_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-sizes")?;
    pinned.serve.kill()?;
    pinned.serve.args[3] = "1000".to_owned();
    pinned.serve.restart()?;
    ensure!(pinned.index()?["counters"]["capacity"] == 1000, "not the size that was asked for");
    pinned.finish("replaced: max_sockets is 2000, 1000 is requested")
}

fn a_map_that_is_missing_replaces_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-map")?;
    pinned.serve.kill()?;
    fs::remove_file(pinned.at("index/maps/records"))?;
    pinned.serve.restart()?;
    pinned.finish("replaced: map records: is missing")
}

/// Another version of this program knows a map that this one does not.
fn another_layout_replaces_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-layout")?;
    pinned.serve.kill()?;
    fs::rename(pinned.at("index/maps/records"), pinned.at("index/maps/registers"))?;
    fs::hard_link(pinned.at("index/maps/registers"), pinned.at("index/maps/records"))?;
    pinned.serve.restart()?;
    pinned.finish("replaced: map registers: is not known here")
}

/// The sizes are the same, and what is in the maps means something else.
fn a_layout_of_another_version_replaces_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-version")?;
    pinned.serve.kill()?;
    let known = raise_layout(&pinned.at("index/maps/cfg"))?;
    pinned.serve.restart()?;
    pinned.finish(&format!("replaced: its layout is version {}, this program's {known}", known + 1))
}

/// Raises the layout version, the first word of the pinned map `cfg`; answers what it was.
fn raise_layout(path: &Path) -> Result<u32> {
    const LOOKUP: libc::c_long = 1;
    const UPDATE: libc::c_long = 2;
    const OBJ_GET: libc::c_long = 7;
    let bpf = |command: libc::c_long, attr: &mut [u64]| -> Result<libc::c_long> {
        // SAFETY: the attributes are as long as is said, and what they point to outlives the call.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
        if result < 0 { Err(std::io::Error::last_os_error().into()) } else { Ok(result) }
    };
    let name = CString::new(path.to_str().context("not UTF-8")?)?;
    let map = bpf(OBJ_GET, &mut [name.as_ptr() as u64, 0])?;
    // SAFETY: a fresh descriptor that nobody else owns.
    let map = unsafe { OwnedFd::from_raw_fd(i32::try_from(map)?) };
    let key = 0_u32;
    // Longer than the value is.
    let mut value = [0_u32; 64];
    let mut attr = [map.as_raw_fd() as u64, &raw const key as u64, value.as_mut_ptr() as u64, 0];
    bpf(LOOKUP, &mut attr)?;
    let known = value[0];
    value[0] += 1;
    attr[2] = value.as_ptr() as u64;
    bpf(UPDATE, &mut attr)?;
    Ok(known)
}

fn a_hook_that_is_missing_replaces_the_pins() -> Result<()> {
    let mut pinned = Pinned::start("cli-hook")?;
    pinned.serve.kill()?;
    fs::remove_file(pinned.at("index/links/skreap_connect6"))?;
    until("the hook to be detached", || hooks::attached(&pinned.serve.cgroup).is_ok_and(|n| n == 4))?;
    pinned.serve.restart()?;
    pinned.finish("replaced: hook skreap_connect6: is missing")
}

/// Killed before or after the old index was replaced: what is in `building` is of no value.
fn half_made_pins_are_cleared_away() -> Result<()> {
    let mut pinned = Pinned::start("cli-half-made")?;
    pinned.serve.kill()?;
    // As if killed just before the rename that completes it: its hooks are attached, and it is not in use.
    fs::rename(pinned.at("index"), pinned.at("building"))?;
    pinned.serve.restart()?;
    let log = pinned.stop()?;
    ensure!(log.contains("pinned pins=") && !pinned.at("building").exists(), "{log}");
    // As if killed while a hook was made the last one again.
    fs::hard_link(pinned.at("index/links/skreap_connect4"), pinned.at("index/links/skreap_connect4_next"))?;
    pinned.serve.restart()?;
    ensure!(fs::read_dir(pinned.at("index/links"))?.count() == 5, "a pin too many");
    pinned.finish("taken over, with all sockets")
}

fn two_services_on_one_directory() -> Result<()> {
    let pinned = Pinned::start("cli-two")?;
    let cgroup = pinned.serve.cgroup.path().to_str().context("not UTF-8")?;
    let ended = run(&["serve", "--cgroup", cgroup, "--pin", &pinned.directory])?;
    ensure!(ended.code == Some(1) && ended.err.lines().count() == 1, "{ended:?}");
    ensure!(
        ended.err.contains(&pinned.directory) && ended.err.contains("in use by another process"),
        "{ended:?}"
    );
    ensure!(hooks::attached(&pinned.serve.cgroup)? == 5, "it has touched the hooks");
    pinned.serve.client()?.ask("still there")?;
    pinned.finish("pinned pins=")
}

fn unload_while_it_serves() -> Result<()> {
    let pinned = Pinned::start("cli-unload")?;
    let ended = run(&["unload", "--pin", &pinned.directory])?;
    ensure!(ended.code == Some(1) && ended.err.contains("in use by another process"), "{ended:?}");
    ensure!(hooks::attached(&pinned.serve.cgroup)? == 5, "it has touched the hooks");
    pinned.finish("pinned pins=")
}

fn no_bpf_filesystem() -> Result<()> {
    let directory = tempfile::TempDir::new()?;
    let path = directory.path().join("pins");
    let path = path.to_str().context("not UTF-8")?;
    let ended = crate::process::run_with(skreap(&["serve", "--pin", path]), Vec::new())?;
    ensure!(ended.code == Some(3) && ended.err.lines().count() == 1, "{ended:?}");
    ensure!(ended.err.contains("bpf filesystem") && ended.err.contains("mount -t bpf"), "{ended:?}");
    ensure!(fs::read_dir(directory.path())?.count() == 0, "it has left something behind");
    let ended = run(&["unload", "--pin", path])?;
    ensure!(ended.code == Some(0) && ended.out.contains("nothing is pinned"), "{ended:?}");
    Ok(())
}

/// Nothing is attached when it must fail, and what is found out later is undone; pins that were there stay.
fn a_start_that_fails_leaves_no_pins() -> Result<()> {
    let pinned = Pinned::start("cli-fails")?;
    let socket = pinned.serve.socket_arg()?;
    let cgroup = skreap_testbed::Cgroup::create("cli-fails-other")?;
    let path = cgroup.path().to_str().context("not UTF-8")?;
    let other = pinned.bpffs.path("other");
    let directory = other.to_str().context("not UTF-8")?;
    let free = format!("{socket}-free");
    let serve = ["serve", "--cgroup", path, "--max-sockets", "2000", "--log", "info", "--pin", directory];
    let unix = |path: &str| format!("unix:{path}");
    let (used, unused) = (unix(&socket), unix(&free));
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = taken.local_addr()?.to_string();
    for (more, says, attaches) in [
        (&["--source", &used][..], "already", false),
        (&["--source", "unix:/nonexistent/socket"], "No such file", false),
        (&["--source", &unused, "--metrics", &address], "name another address with --metrics", false),
        (&["--source", &unused, "--metrics", &used], "name another address with --metrics", false),
        // Each of the two is free before the other is there.
        (&["--source", &unused, "--source", &unused], "already", true),
    ] {
        let ended = run(&[&serve[..], more].concat())?;
        ensure!(ended.code == Some(1) && ended.err.contains(says), "{more:?}: {ended:?}");
        ensure!(ended.err.contains(" attached ") == attaches, "{more:?}: {ended:?}");
        ensure!(!other.exists() && hooks::attached(&cgroup)? == 0, "{more:?}: something is left");
        ensure!(!Path::new(&free).exists(), "{more:?}: the socket is left");
    }
    // What an earlier service has left is not this one's.
    let mut first =
        skreap(&[&serve[..], &["--source", &unused]].concat()).stderr(std::process::Stdio::null()).spawn()?;
    until("the first to listen", || std::os::unix::net::UnixStream::connect(&free).is_ok())?;
    crate::process::signal(&first, libc::SIGTERM)?;
    ensure!(crate::process::wait(&mut first, crate::process::PATIENCE)?.success());
    let ended = run(&[&serve[..], &["--source", &unused, "--source", &unused]].concat())?;
    ensure!(ended.code == Some(1) && hooks::attached(&cgroup)? == 5, "{ended:?}");
    good(&["unload", "--pin", directory])?;
    pinned.finish("pinned pins=")
}

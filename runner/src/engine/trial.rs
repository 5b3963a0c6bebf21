//! Trials of the features that engines need, each on a private socket or an index of its own.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;

use skreap_bpf::{Config, Index, Scan, WalkCounts};
use skreap_core::{Target, Unconnected, counted};

use crate::sys::sock_diag::{DiagSocket, Verdict};
use crate::sys::{cgroup, objects};

/// What did not work, in one sentence.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Missing {
    /// What is missing, and what to do about it.
    pub detail: String,
}

pub(super) fn missing<T>(detail: impl Into<String>) -> Result<T, Missing> {
    Err(Missing { detail: detail.into() })
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
    match Scan::load(None).and_then(|mut scan| scan.destroy_udp(&victim)) {
        Ok(1) if was_destroyed(&socket) => Ok("iter/udp destroyed a private UDP socket".to_owned()),
        Ok(n) => missing(format!("iter/udp found {}, and it is still alive", counted(n, "private socket"))),
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
    let config = Config::default().max_sockets(TRIAL_SOCKETS).buckets(1024).refs(true);
    let cgroup = cgroup::own().and_then(|path| cgroup::open(&path)).map_err(|e| failed(&e))?;
    let (index, _) = objects::load(&config, None, cgroup.as_fd()).map_err(|e| failed(&e))?;
    index.can_destroy().map_err(|e| Missing { detail: e.to_string() })?;
    let hooks = objects::attach(&index, cgroup.as_fd(), None).map_err(|e| failed(&e))?;
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
        .and_then(|mut walker| walker.destroy(&target, 0, false, None, &mut Vec::new()))
        .map_err(|e| failed(&e))?;
    drop(hooks);
    Ok((counts.destroyed == 1 && was_destroyed(&socket), counts))
}

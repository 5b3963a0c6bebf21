//! More netns than descriptors.

use anyhow::{Result, ensure};
use skreap_testbed::{Client, Netns, OpenMany, Protocol, SpawnOptions, raise_nofile_limit};

use crate::commands::good_json;
use crate::serve::Serve;

crate::tests![more_netns_than_descriptors];

const NETNS: usize = 300;
const DESCRIPTORS: libc::rlim_t = 256;
const ADDR: &str = "10.96.7.1:53";
const UDP: &str = "udp://10.96.7.1:53";

/// Event after event, and an audit: nothing fails for want of descriptors.
fn more_netns_than_descriptors() -> Result<()> {
    raise_nofile_limit()?;
    let addr: std::net::SocketAddr = ADDR.parse()?;
    let netns = (0..NETNS)
        .map(|i| {
            let netns = Netns::create(&format!("few{i}"))?;
            netns.add_address(addr.ip())?;
            Ok(netns)
        })
        .collect::<Result<Vec<_>>>()?;
    for engine in ["netlink", "diag"] {
        let serve = Serve::start_with("cli-few", &["--engine", engine])?;
        limit(serve.pid())?;
        let socket = serve.socket_arg()?;
        let options = SpawnOptions { label: "few", cgroup: Some(&serve.cgroup), netns: None };
        let mut client = Client::spawn(&options)?;
        for round in 0..2 {
            for one in &netns {
                let opened = client.open_many(OpenMany {
                    netns: one.reference()?,
                    protocol: Protocol::Udp,
                    count: 1,
                    connect: addr,
                    timeout_ms: 10_000,
                })?;
                ensure!(opened.failed == 0, "{opened:?}");
            }
            let audit = good_json(&["audit", "--socket", &socket, "--json"])?;
            ensure!(audit["complete"] == true && audit["sockets"] == NETNS, "{engine} {round}: {audit}");
            let report = good_json(&["reap", UDP, "--socket", &socket, "--json"])?;
            ensure!(report["destroyed"] == NETNS && report["complete"] == true, "{engine} {round}: {report}");
        }
        drop(client);
        serve.finish()?;
    }
    Ok(())
}

/// Of a process that has started.
fn limit(pid: u32) -> Result<()> {
    let limit = libc::rlimit { rlim_cur: DESCRIPTORS, rlim_max: DESCRIPTORS };
    // SAFETY: the new limit is readable, and the old one not asked for.
    let set = unsafe {
        libc::prlimit(pid.cast_signed(), libc::RLIMIT_NOFILE, &raw const limit, std::ptr::null_mut())
    };
    ensure!(set == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}

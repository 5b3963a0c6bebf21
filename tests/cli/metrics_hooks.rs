//! The metrics of the hooks: their order beside a load balancer, and what they cost.

use std::io;
use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skreap::core::Backend;
use skreap_testbed::bpf::{LoadBalancer, Placing};

use crate::commands::{Ten, UDP, good_json};
use crate::metrics::{Served, expect};
use crate::process;

crate::tests![a_balancer_that_comes_after_ours, one_that_insists_on_being_last, the_cost_of_a_run];

const VIP: &str = "udp://10.96.7.9:5353";

/// Stops the whole service, so that it cannot look at the order while something is attached in several steps.
struct Paused<'a>(&'a Served);

impl<'a> Paused<'a> {
    fn new(served: &'a Served) -> Result<Self> {
        served.serve.signal(libc::SIGSTOP)?;
        let pid = served.serve.pid();
        process::until("the service to stand still", || {
            std::fs::read_to_string(format!("/proc/{pid}/stat"))
                .is_ok_and(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')))
        })?;
        // Its system calls of before are over, too: a stopped thread has left the kernel.
        thread::sleep(Duration::from_millis(20));
        Ok(Self(served))
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        let _ = self.0.serve.signal(libc::SIGCONT);
    }
}

/// The metrics of the order: last, behind, moves, held back, re-keyed.
fn expect_order(served: &Served, [last, behind, moves, held_back, rekeyed]: [u32; 5]) -> Result<()> {
    let is = |n: u32| Some(f64::from(n));
    expect(
        &served.scrape()?,
        &[
            ("hook_order_last", is(last)),
            ("hook_order_behind", is(behind)),
            ("hook_order_moves_total", is(moves)),
            ("hook_order_held_back_total", is(held_back)),
            ("hook_order_rekeyed_total", is(rekeyed)),
        ],
    )
}

fn entries() -> Result<[(Backend, Backend); 1]> {
    Ok([(VIP.parse()?, UDP.parse()?)])
}

/// Four sockets connect while its program runs after ours, and are recorded under the virtual address; the next event
/// moves our hooks and puts all four right.
fn a_balancer_that_comes_after_ours() -> Result<()> {
    let served = Served::start("cli-order-metrics")?;
    let socket = served.serve.socket_arg()?;
    let mut ten = Ten::new(&served.serve)?;
    expect_order(&served, [1, 0, 0, 0, 0])?;
    let paused = Paused::new(&served)?;
    let balancer = LoadBalancer::attach(&entries()?, served.serve.cgroup.open()?.as_fd())?;
    ten.connect(VIP, 4)?;
    drop(paused);
    let report = good_json(&["reap", UDP, "--socket", &socket, "--json"])?;
    ensure!(report["destroyed"] == 10 && report["complete"] == true, "{report}");
    expect_order(&served, [1, 0, 1, 0, 4])?;
    // Ours are last now: nothing more to put right.
    ten.connect(VIP, 3)?;
    let report = good_json(&["reap", UDP, "--socket", &socket, "--json"])?;
    ensure!(report["destroyed"] == 3, "{report}");
    expect_order(&served, [1, 0, 1, 0, 4])?;
    drop((balancer, ten));
    served.serve.finish()
}

/// Moved eight times, then held back on all four hooks, until the other one goes.
fn one_that_insists_on_being_last() -> Result<()> {
    let served = Served::start("cli-insists")?;
    let socket = served.serve.socket_arg()?;
    let cgroup = served.serve.cgroup.open()?;
    let look = || -> Result<()> {
        let report = good_json(&["reap", UDP, "--dry-run", "--socket", &socket, "--json"])?;
        ensure!(report["complete"] == true, "{report}");
        Ok(())
    };
    let paused = Paused::new(&served)?;
    let mut balancer = LoadBalancer::attach(&entries()?, cgroup.as_fd())?;
    drop(paused);
    look()?;
    for moves in 2..=8 {
        let paused = Paused::new(&served)?;
        balancer.attach_again(cgroup.as_fd(), Placing::Last)?;
        drop(paused);
        look()?;
        expect_order(&served, [1, 0, moves, 0, 0])?;
    }
    for held_back in 1..=2 {
        let paused = Paused::new(&served)?;
        balancer.attach_again(cgroup.as_fd(), Placing::Last)?;
        drop(paused);
        look()?;
        expect_order(&served, [0, 4, 8, held_back, 0])?;
    }
    drop(balancer);
    look()?;
    expect_order(&served, [1, 0, 8, 2, 0])?;
    served.serve.finish()
}

/// As long as the descriptor is open, the kernel counts runs and their time (`BPF_ENABLE_STATS`).
fn keep_statistics() -> Result<OwnedFd> {
    /// `BPF_ENABLE_STATS` (linux/bpf.h); `BPF_STATS_RUN_TIME` is 0.
    const ENABLE_STATS: libc::c_long = 32;
    let run_time = 0_u32;
    // SAFETY: the attribute is four bytes long, as is said.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, ENABLE_STATS, &raw const run_time, size_of::<u32>()) };
    ensure!(fd >= 0, "BPF_ENABLE_STATS: {}", io::Error::last_os_error());
    // SAFETY: the call has just made this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd)?) })
}

/// Ten connects are ten runs, and ten closes ten more, in a cgroup where nobody else is.
fn the_cost_of_a_run() -> Result<()> {
    let statistics = keep_statistics()?;
    let served = Served::start("cli-cost")?;
    let ten = Ten::new(&served.serve)?;
    let scrape = served.scrape()?;
    expect(
        &scrape,
        &[
            ("hook_runs_total{hook=\"connect4\"}", Some(10.0)),
            ("hook_runs_total{hook=\"connect6\"}", None),
            ("hook_runs_total{hook=\"sendmsg4\"}", None),
            ("hook_run_time_seconds_total{hook=\"connect6\"}", None),
        ],
    )?;
    let time = scrape.get("skreap_hook_run_time_seconds_total{hook=\"connect4\"}").context("no time")?;
    ensure!(*time > 0.0 && *time < 1.0, "ten runs took {time} s");
    drop(ten);
    let released = "skreap_hook_runs_total{hook=\"sock_release\"}";
    process::until("the sockets to be closed", || {
        served.scrape().is_ok_and(|scrape| scrape.get(released) == Some(&10.0))
    })?;
    drop(statistics);
    served.serve.finish()
}

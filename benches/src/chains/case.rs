//! One case, and the index that it is measured in.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use skreap::bpf::hooks::Hooks;
use skreap::bpf::{Config, Index, Victim, Walker};
use skreap::core::{Backend, Protocol, Target, Unconnected};
use skreap_testbed::Cgroup;

use crate::crowd::{self, Crowd, Member};
use crate::stats::nearest_rank;
use crate::stop::Stop;

/// Sockets that are closed and replaced for one sample.
pub const RENEWALS: u32 = 200;
/// Walks for one sample, which is their median.
const WALKS: usize = 5;

/// An index with its hooks, and the sockets that it has seen. Fields are dropped in their order.
pub struct Site {
    crowd: Crowd,
    walker: Walker,
    victims: Vec<Victim>,
    _hooks: Hooks,
    index: Index,
    cgroup: Cgroup,
    buckets: u32,
}

/// Backends that are measured together.
pub struct Case {
    /// Backends.
    pub backends: u32,
    /// Sockets of all of them.
    pub sockets: u32,
    /// Sockets of the one that is walked.
    of_target: u32,
    /// The index they are in.
    pub site: usize,
    /// Buckets of that index, in each shard.
    pub buckets: u32,
    target: Target,
    /// The oldest first.
    members: VecDeque<Member>,
    /// Samples, round by round.
    pub samples: Vec<Sample>,
}

/// The sample of one round.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// In the hook of `connect()`, nanoseconds for one.
    pub connect_ns: f64,
    /// In the hook of the release, nanoseconds for one.
    pub close_ns: f64,
    /// A walk with all its calls, nanoseconds of processor time.
    pub walk_ns: f64,
    /// Nodes of the target.
    pub visited: u64,
    /// Nodes of others in its bucket.
    pub passed_over: u64,
}

impl Site {
    /// Loads an index and attaches its hooks to a new cgroup. `nofile`: limit of descriptors of a
    /// process.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn build(label: &'static str, config: &Config, nofile: u64) -> Result<Self> {
        let cgroup = Cgroup::create(label)?;
        let index = Index::load(config).context("load the index")?;
        let hooks = Hooks::attach(&index, cgroup.open()?.as_fd()).context("attach the hooks")?;
        Ok(Self {
            crowd: Crowd::new(label, nofile),
            walker: index.walker()?,
            victims: Vec::new(),
            _hooks: hooks,
            index,
            cgroup,
            buckets: config.buckets,
        })
    }

    /// Opens `sockets` sockets to one backend.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn one_backend(&mut self, site: usize, number: u32, sockets: u32, stop: &Stop) -> Result<Case> {
        let addr = crowd::of_chain(number);
        let members = self.crowd.join(addr, sockets, &self.cgroup, stop)?;
        self.case(site, 1, addr, members)
    }

    /// Opens one socket to each of `backends` backends.
    ///
    /// # Errors
    /// When one cannot be opened, or the user stops.
    pub fn many_backends(&mut self, site: usize, backends: u32, stop: &Stop) -> Result<Case> {
        let members = self.crowd.join_each(backends, &self.cgroup, stop)?;
        self.case(site, backends, crowd::backend(backends / 2), members)
    }

    fn case(
        &self,
        site: usize,
        backends: u32,
        target: SocketAddr,
        members: VecDeque<Member>,
    ) -> Result<Case> {
        let backend = Backend::new(Protocol::Udp, target.ip(), target.port())?;
        let sockets = u32::try_from(members.len()).context("too many sockets")?;
        Ok(Case {
            backends,
            sockets,
            of_target: sockets / backends,
            site,
            buckets: self.buckets,
            target: Target { backend, unconnected: Unconnected::Preserve, dry_run: true },
            members,
            samples: Vec::new(),
        })
    }

    /// Runs and nanoseconds of a hook so far.
    fn hook(&self, name: &str) -> Result<(u64, u64)> {
        let costs = self.index.hook_costs()?;
        let cost = costs.into_iter().find(|cost| cost.hook == name);
        let cost = cost.with_context(|| format!("there is no hook {name}"))?;
        Ok((cost.runs, cost.run_time_ns))
    }
}

impl Case {
    /// One sample.
    ///
    /// # Errors
    /// When a client fails, a hook did not run exactly as often as expected, or a walk did not find
    /// exactly the sockets of its target.
    pub fn measure(&mut self, site: &mut Site) -> Result<Sample> {
        let before = (site.hook("connect4")?, site.hook("sock_release")?);
        for _ in 0..RENEWALS {
            let oldest = self.members.pop_front().context("the case has no sockets")?;
            self.members.push_back(site.crowd.renew(oldest)?);
        }
        let connect_ns = per_run(before.0, site.hook("connect4")?)?;
        let close_ns = per_run(before.1, site.hook("sock_release")?)?;
        let mut times = Vec::with_capacity(WALKS);
        let mut sample = Sample { connect_ns, close_ns, ..Sample::default() };
        for _ in 0..WALKS {
            site.victims.clear();
            let start = processor_ns()?;
            let counts = site.walker.walk(&self.target, &mut site.victims)?;
            times.push(processor_ns()?.saturating_sub(start));
            let of_target = self.of_target as usize;
            ensure!(
                site.victims.len() == of_target && counts.visited == of_target as u64,
                "the walk has found {} sockets, there are {of_target}: {counts:?}",
                site.victims.len()
            );
            (sample.visited, sample.passed_over) = (counts.visited, counts.passed_over);
        }
        times.sort_unstable();
        sample.walk_ns = nearest_rank(&times, 0.5) as f64;
        Ok(sample)
    }
}

/// Nanoseconds of one run, of [`RENEWALS`] of them.
fn per_run(before: (u64, u64), after: (u64, u64)) -> Result<f64> {
    let runs = after.0.saturating_sub(before.0);
    ensure!(runs == u64::from(RENEWALS), "the hook ran {runs} times in place of {RENEWALS}");
    Ok(after.1.saturating_sub(before.1) as f64 / f64::from(RENEWALS))
}

/// Processor time of this thread: a long walk is preempted on a busy machine.
fn processor_ns() -> Result<u64> {
    let time =
        clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("read the processor time of this thread")?;
    // Neither is negative.
    Ok(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}

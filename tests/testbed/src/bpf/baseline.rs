//! The baselines that the cost of the hooks is compared with.

use std::os::fd::BorrowedFd;

use skreap_bpf::Error;
use skreap_bpf::hooks::Hooks;
use skreap_bpf::plumbing::{load_error, open};

use super::skel::BASELINE_OBJECT;

/// A set of programs for the same five hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// Programs that do nothing.
    Empty,
    /// Programs that record each socket in an LRU hash keyed by cookie and peer, as Cilium does.
    Lru,
}

impl Baseline {
    fn programs(self) -> [&'static str; 5] {
        match self {
            Self::Empty => {
                ["empty_sock_release", "empty_connect4", "empty_connect6", "empty_sendmsg4", "empty_sendmsg6"]
            }
            Self::Lru => ["lru_sock_release", "lru_connect4", "lru_connect6", "lru_sendmsg4", "lru_sendmsg6"],
        }
    }

    /// Loads the programs and attaches them to the cgroup. Dropping the hooks detaches them.
    ///
    /// # Errors
    /// As [`Index::load`](skreap_bpf::Index::load) and [`Hooks::attach`].
    pub fn attach(self, cgroup: BorrowedFd<'_>) -> Result<Hooks, Error> {
        let mut open = open(BASELINE_OBJECT)?;
        for mut program in open.progs_mut() {
            let wanted = self.programs().iter().any(|name| program.name() == *name);
            program.set_autoload(wanted);
        }
        let object = open.load().map_err(load_error)?;
        // The links keep the programs loaded, and the programs their maps, after the object is
        // dropped.
        Hooks::attach_programs(&object, &self.programs(), cgroup)
    }
}

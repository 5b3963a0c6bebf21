//! The cost of the hooks, from the kernel's own statistics.

use serde::{Deserialize, Serialize};

use crate::object::{self, failure};
use crate::{Error, Index, hooks, prog};

/// Runs of one hook since its program was loaded. All 0 unless the kernel keeps run time statistics
/// (`sysctl kernel.bpf_stats_enabled=1`, or `BPF_ENABLE_STATS`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct HookCost {
    /// The hook, such as `connect4`.
    pub hook: String,
    /// How often it ran while statistics were kept.
    pub runs: u64,
    /// How long all these runs took, in nanoseconds.
    pub run_time_ns: u64,
}

impl Index {
    /// The cost of each hook, in the order of attachment.
    ///
    /// # Errors
    /// [`Error::Object`] if a program cannot be asked.
    pub fn hook_costs(&self) -> Result<Vec<HookCost>, Error> {
        hooks::NAMES.iter().map(|name| self.hook_cost(name)).collect()
    }

    fn hook_cost(&self, name: &str) -> Result<HookCost, Error> {
        let info = object::program(self.object(), name).and_then(|program| prog::info(&program));
        let info = info.map_err(failure(format!("program {name}")))?;
        let hook = name.strip_prefix("skreap_").unwrap_or(name).to_owned();
        Ok(HookCost { hook, runs: info.run_cnt, run_time_ns: info.run_time_ns })
    }
}

//! Which tests are built at all, where a machine is slow or has only some engines. Each program run lists and runs
//! the same.
//!
//! `SKREAP_TEST_ENGINES`: names of engines with commas, in place of all.
//! `SKREAP_TEST_NAMES`: a file with names of tests, one a line, in place of all. A line may begin with `#`.

use std::env;
use std::fs;

use anyhow::{Context as _, Result};
use skreap::core::EngineName;

pub struct Selection {
    engines: Vec<EngineName>,
    /// All if there is no list.
    names: Option<Vec<String>>,
    /// Nothing was chosen.
    everything: bool,
}

impl Selection {
    /// What the environment says; everything if it says nothing.
    pub fn from_env() -> Result<Self> {
        let engines = match env::var("SKREAP_TEST_ENGINES") {
            Ok(names) => names
                .split(',')
                .map(|name| name.parse().with_context(|| format!("SKREAP_TEST_ENGINES={names}")))
                .collect::<Result<_>>()?,
            Err(_) => EngineName::ALL.to_vec(),
        };
        let names = env::var_os("SKREAP_TEST_NAMES")
            .map(|path| {
                fs::read_to_string(&path).with_context(|| format!("SKREAP_TEST_NAMES={}", path.display()))
            })
            .transpose()?
            .map(|text| {
                text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned).collect()
            });
        let everything = names.is_none() && env::var_os("SKREAP_TEST_ENGINES").is_none();
        Ok(Self { engines, names, everything })
    }

    pub fn engines(&self) -> &[EngineName] {
        &self.engines
    }

    #[allow(dead_code, reason = "shared with the fault tests, which ask")]
    pub fn is_everything(&self) -> bool {
        self.everything
    }

    pub fn takes(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|n| n == name))
    }
}

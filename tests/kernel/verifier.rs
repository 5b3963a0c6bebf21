//! What the programs cost the verifier of this kernel, held against what is recorded for it.
//!
//! The record of a kernel is a file in `tests/vm/verifier`, named after the kernel's row in `tests/vm/kernels`, or after
//! its version (`6.18`) for the machine that runs the tests; `make verifier-record` writes it.
//!
//! `SKREAP_VERIFIER_RECORD`: the file, in place of the one of that version.
//! `SKREAP_VERIFIER=print`: print what was found, and compare nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use anyhow::{Context as _, Result, bail, ensure};
use skreap::bpf::{Config, Index};
use skreap::core::EngineName;
use skreap_testbed::bpf::verifier;

use crate::case::{Case, Skip, case};
use crate::world::World;

pub fn cases() -> Vec<Case> {
    vec![
        case!(programs_cost_the_verifier_what_is_recorded).only(EngineName::Netlink),
        case!(programs_with_references_cost_the_verifier_what_is_recorded).only(EngineName::Kfunc),
    ]
}

/// A program may take this part of what is recorded more before somebody has to look: a fifth.
const TOLERANCE: u32 = 5;

/// Large enough for several shards: with one, much of the arithmetic is gone.
const CONFIG: Config = Config::new().max_sockets(65_536).buckets(1024);

fn programs_cost_the_verifier_what_is_recorded(_: &mut World) -> Result<()> {
    let mut found = verifier::of_index(&Index::load(&CONFIG)?)?;
    found.extend(verifier::others()?);
    compare(found.into_iter().map(|v| (v.program, v.insns)).collect())
}

fn programs_with_references_cost_the_verifier_what_is_recorded(_: &mut World) -> Result<()> {
    let index = Index::load(&CONFIG.refs(true))?;
    index.can_destroy()?;
    compare(
        verifier::of_index(&index)?.into_iter().map(|v| (format!("refs:{}", v.program), v.insns)).collect(),
    )
}

fn compare(found: BTreeMap<String, u32>) -> Result<()> {
    ensure!(found.values().all(|insns| *insns > 0), "not counted: {found:?}");
    if env::var_os("SKREAP_VERIFIER").is_some_and(|value| value == "print") {
        found.iter().for_each(|(program, insns)| eprintln!("verified {program} {insns}"));
        return Ok(());
    }
    let path = match env::var_os("SKREAP_VERIFIER_RECORD") {
        Some(path) => path.into(),
        None => record_of_this_kernel()?,
    };
    let Ok(text) = fs::read_to_string(&path) else {
        return Err(Skip("what this kernel's verifier needs is not recorded: make verifier-record").into());
    };
    let recorded = parse(&text).with_context(|| path.display().to_string())?;
    let mut wrong = Vec::new();
    for (program, insns) in found {
        match recorded.get(&program) {
            Some(&was) if insns <= was + was / TOLERANCE => {}
            Some(was) => wrong.push(format!("{program}: {insns}, recorded are {was}")),
            // A new one has nothing that it could have grown from.
            None => eprintln!("{program} is not recorded yet: make verifier-record"),
        }
    }
    ensure!(
        wrong.is_empty(),
        "instructions that the verifier looks at (if that must be, `make verifier-record`): {}",
        wrong.join("; ")
    );
    Ok(())
}

fn record_of_this_kernel() -> Result<PathBuf> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let version: Vec<&str> = release.trim().split(['.', '-']).take(2).collect();
    Ok([env!("CARGO_MANIFEST_DIR"), "../tests/vm/verifier", &version.join(".")].iter().collect())
}

/// Lines of a program and a number; `#` begins a remark.
fn parse(text: &str) -> Result<BTreeMap<String, u32>> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(' ') {
            Some((program, insns)) => Ok((program.to_owned(), insns.parse()?)),
            None => bail!("no program and number: {line}"),
        })
        .collect()
}

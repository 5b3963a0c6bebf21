//! How much work the programs are for the verifier of this kernel.
//!
//! It gives up after walking through a million instructions, counted over all paths of a program.
//! The number depends on the kernel, and a small change of a program may multiply it.

use libbpf_rs::Object;
use skreap_bpf::plumbing::{NETNS_OBJECT, OWNER_OBJECT, SCAN_OBJECT, TABLES_OBJECT, info, load_error, open};
use skreap_bpf::{Error, Index};

use super::skel::{BASELINE_OBJECT, TEST_LB_OBJECT, WITNESS_OBJECT};

/// The verifier's work for one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name of the program.
    pub program: String,
    /// Instructions that it walked through (`processed N insns` in its log).
    pub insns: u32,
}

/// The verifier's work for the programs of the index, by name.
///
/// # Errors
/// [`Error::Object`] if a program cannot be asked.
pub fn of_index(index: &Index) -> Result<Vec<Verified>, Error> {
    of(index.object())
}

/// Loads all programs other than those of the index (full scan, owners, list of netns, tables of
/// sockets, baselines, load balancer of the tests), and returns the verifier's work for them, by name.
///
/// # Errors
/// [`Error::Load`] with the verifier's words; [`Error::Object`] if a program cannot be queried.
pub fn others() -> Result<Vec<Verified>, Error> {
    let mut all = Vec::new();
    for object in [
        SCAN_OBJECT,
        OWNER_OBJECT,
        NETNS_OBJECT,
        TABLES_OBJECT,
        BASELINE_OBJECT,
        TEST_LB_OBJECT,
        WITNESS_OBJECT,
    ] {
        all.extend(of(&open(object)?.load().map_err(load_error)?)?);
    }
    all.sort_unstable_by(|a, b| a.program.cmp(&b.program));
    Ok(all)
}

fn of(object: &Object) -> Result<Vec<Verified>, Error> {
    let mut all = Vec::new();
    for program in object.progs() {
        let name = program.name().to_string_lossy().into_owned();
        let info =
            info(&program).map_err(|source| Error::Object { what: format!("program {name}"), source })?;
        all.push(Verified { program: name, insns: info.verified_insns });
    }
    all.sort_unstable_by(|a, b| a.program.cmp(&b.program));
    Ok(all)
}

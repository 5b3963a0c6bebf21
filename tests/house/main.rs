//! The plan of the house: which part of the product may import which, read from the sources themselves.
//!
//! `make house` runs it and prints the numbers that CONTRIBUTING.md lists.

#![allow(clippy::unwrap_used, reason = "a source that cannot be read is a failure of the test")]

mod arrows;
mod msrv;
mod numbers;
#[cfg(feature = "schema")]
mod schema;
mod source;

use std::path::Path;

use source::Crate;

/// The repository.
fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The crates of the product.
fn product() -> Vec<Crate> {
    ["core", "bpf", "runner", "runner/watch"]
        .iter()
        .map(|name| Crate::read(&root().join(name).join("src")))
        .collect()
}

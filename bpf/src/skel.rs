//! What libbpf-cargo generated from the BTF of the programs: the only Rust view of `include/abi.h`.

// The generated code comes with its own `allow` list; these lints are the workspace's.
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    reason = "generated code"
)]

include!(concat!(env!("OUT_DIR"), "/skreap.skel.rs"));

/// The compiled programs.
pub(crate) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skreap.bpf.o"));

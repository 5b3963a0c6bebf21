//! The code that libbpf-cargo generated from the BTF of the programs: the only Rust view of
//! `include/abi.h`.

// The generated code comes with its own `allow` list; these lints are the workspace's.
#![allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    missing_docs,
    unused_qualifications,
    unsafe_op_in_unsafe_fn,
    reason = "generated code"
)]

/// The index: hooks and walk.
mod skreap {
    include!(concat!(env!("OUT_DIR"), "/skreap.skel.rs"));
}

/// The full scan.
mod scan {
    include!(concat!(env!("OUT_DIR"), "/scan.skel.rs"));
}

/// Whose a socket is.
mod owner {
    include!(concat!(env!("OUT_DIR"), "/owner.skel.rs"));
}

/// The list of all netns.
mod netns {
    include!(concat!(env!("OUT_DIR"), "/netns.skel.rs"));
}

/// The load balancer of the tests.
mod test_lb {
    include!(concat!(env!("OUT_DIR"), "/test_lb.skel.rs"));
}

/// The second witness of the tests.
mod witness {
    include!(concat!(env!("OUT_DIR"), "/witness.skel.rs"));
}

pub(crate) use netns::types as netns_types;
pub(crate) use owner::types as owner_types;
pub(crate) use scan::types as scan_types;
pub(crate) use skreap::types;
pub(crate) use test_lb::types as test_lb_types;
pub(crate) use witness::types as witness_types;

/// The compiled programs of the index.
pub(crate) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skreap.bpf.o"));

/// The compiled programs of the full scan.
pub(crate) static SCAN_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scan.bpf.o"));

/// The compiled program that finds out whose a socket is.
pub(crate) static OWNER_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/owner.bpf.o"));

/// The compiled program that lists all netns.
pub(crate) static NETNS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netns.bpf.o"));

/// The compiled programs that the hooks are compared with.
pub(crate) static BASELINE_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/baseline.bpf.o"));

/// The compiled load balancer of the tests.
pub(crate) static TEST_LB_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/test_lb.bpf.o"));

/// The compiled witness of the tests.
pub(crate) static WITNESS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/witness.bpf.o"));

/// The compiled pause of the tests.
pub(crate) static PAUSE_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause.bpf.o"));

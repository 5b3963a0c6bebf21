//! The code that libbpf-cargo generated from the BTF of the programs.

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

/// The load balancer.
mod test_lb {
    include!(concat!(env!("OUT_DIR"), "/test_lb.skel.rs"));
}

/// The second witness.
mod witness {
    include!(concat!(env!("OUT_DIR"), "/witness.skel.rs"));
}

pub(super) use test_lb::types as test_lb_types;
pub(super) use witness::types as witness_types;

/// The compiled programs that the hooks are compared with.
pub(super) static BASELINE_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/baseline.bpf.o"));

/// The compiled load balancer.
pub(super) static TEST_LB_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/test_lb.bpf.o"));

/// The compiled witness.
pub(super) static WITNESS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/witness.bpf.o"));

/// The compiled pause.
pub(super) static PAUSE_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause.bpf.o"));

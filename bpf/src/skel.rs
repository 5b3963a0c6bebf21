//! The types that libbpf-cargo generated from the BTF of the programs: the only Rust view of
//! `include/abi.h`.

#![allow(
    clippy::all,
    dead_code,
    non_camel_case_types,
    non_snake_case,
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
    include!(concat!(env!("OUT_DIR"), "/skreap.types.rs"));
}

/// The index of a service that records frontends: the same, and what they need.
mod frontends {
    include!(concat!(env!("OUT_DIR"), "/frontends.skel.rs"));
}

/// The full scan.
mod scan {
    include!(concat!(env!("OUT_DIR"), "/scan.types.rs"));
}

/// Whose a socket is.
mod owner {
    include!(concat!(env!("OUT_DIR"), "/owner.types.rs"));
}

/// The list of all netns.
mod netns {
    include!(concat!(env!("OUT_DIR"), "/netns.types.rs"));
}

/// The tables of sockets.
mod tables {
    include!(concat!(env!("OUT_DIR"), "/tables.types.rs"));
}

/// The processes that have sockets open.
mod openers {
    include!(concat!(env!("OUT_DIR"), "/openers.types.rs"));
}

/// The selection.
mod select {
    include!(concat!(env!("OUT_DIR"), "/select.skel.rs"));
}

pub(crate) use frontends::types as frontends_types;
pub(crate) use netns::types as netns_types;
pub(crate) use openers::types as openers_types;
pub(crate) use owner::types as owner_types;
pub(crate) use scan::types as scan_types;
pub(crate) use select::types as select_types;
pub(crate) use skreap::types;
pub(crate) use tables::types as tables_types;

/// The compiled programs of the index.
pub(crate) static OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skreap.bpf.o"));

/// The same for a service that records frontends.
pub(crate) static FRONTENDS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/frontends.bpf.o"));

/// The compiled programs of the full scan.
pub static SCAN_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/scan.bpf.o"));

/// The compiled program that finds out whose a socket is.
pub static OWNER_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/owner.bpf.o"));

/// The compiled program that lists all netns.
pub static NETNS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/netns.bpf.o"));

/// The compiled programs that read the tables of sockets.
pub static TABLES_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/tables.bpf.o"));

/// The compiled program that finds the processes that have sockets open.
pub static OPENERS_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/openers.bpf.o"));

/// The compiled program that selects sockets by a filter.
pub static SELECT_OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/select.bpf.o"));

/// The same for an index that records frontends.
pub static SELECT_FRONTENDS_OBJECT: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/select_frontends.bpf.o"));

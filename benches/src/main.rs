//! The `skreap-bench` command.

fn main() {}

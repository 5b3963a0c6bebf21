//! Limits that requests and their refusals both name.

/// Most backends one event may name. As many of any kind fit in one line of 1 MiB.
pub const MAX_BACKENDS: usize = 16_384;

//! The link that sockets are on.

/// One link of one network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Cookie of the netns.
    pub netns: u64,
    /// Number of the interface in it.
    pub ifindex: u32,
}

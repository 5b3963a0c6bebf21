//! The interfaces of the host: cgroups, network namespaces, sock_diag, capabilities. Without policy.

pub(crate) mod alone;
pub mod cgroup;
pub(crate) mod descriptors;
pub mod netns;
pub(crate) mod objects;
pub(crate) mod pidfd;
pub mod privileges;
pub(crate) mod processes;
pub(crate) mod rcu;
pub mod sock_diag;
pub(crate) mod sockets;
pub(crate) mod udp;

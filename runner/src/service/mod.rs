//! `skreap serve`: sources of requests on one side, a reaper on the other, metrics and a service manager beside.

pub mod daemon;
pub mod metrics;
pub mod source;
pub mod systemd;

//! Backends as keys of etcd: `PREFIX/udp/10.0.0.1:53`. A key that is there is a backend that lives.

mod connect;
mod key;
mod list;
mod register;
mod watch;

pub use connect::{Credentials, Login, Server};
pub use key::{Keys, Value, ValueError};
pub use register::{RegisterError, register};
pub use watch::run;

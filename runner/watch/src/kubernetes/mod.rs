//! Backends as endpoints of Kubernetes: EndpointSlices and Services, each listed and watched.

mod api;
mod config;
mod object;
mod stream;
mod watch;

pub use api::{Api, ApiError};
pub use config::{Access, ConfigError};
pub use object::Nodes;
pub use watch::run;

//! How objects are loaded and their programs attached and asked, for crates of this repository that bring programs of
//! their own (`tests/testbed`). No part of the public interface.

pub use crate::address::words;
pub use crate::error::{io_error, load_error};
pub use crate::hooks::attach_program;
pub use crate::object::{map, open, program, read, write};
pub use crate::prog::{by_id, info};
pub use crate::skel::{
    NETNS_OBJECT, OWNER_OBJECT, SCAN_OBJECT, SELECT_FRONTENDS_OBJECT, SELECT_OBJECT, TABLES_OBJECT,
};

/// The messages of libbpf.
pub mod log {
    pub use crate::log::{install, take_warnings};
}

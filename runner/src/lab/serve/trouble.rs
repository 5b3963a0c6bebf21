//! How errors become answers.

use std::io;

use crate::lab::op::OpError;
use crate::lab::sys::errno_of;

/// The result of an op.
pub(super) type Answer<T> = Result<T, OpError>;

/// An error that says what was tried.
pub(super) fn refused(what: String, errno: i32) -> OpError {
    OpError { what, errno }
}

/// Adds what was tried to an error of the kernel.
pub(super) trait Context<T> {
    /// `what` is an infinitive: "connect socket 5 to 10.96.0.1:53".
    fn at(self, what: impl FnOnce() -> String) -> Answer<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, what: impl FnOnce() -> String) -> Answer<T> {
        self.map_err(|error| OpError { what: what(), errno: errno_of(&error) })
    }
}

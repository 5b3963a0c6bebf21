//! Converts errors to replies.

use std::io;

use crate::reply::OpError;
use crate::sys::errno_of;

/// The result of an op.
pub(super) type Answer<T> = Result<T, OpError>;

/// An error with the operation that was tried.
pub(super) fn refused(what: String, errno: i32) -> OpError {
    OpError { what, errno }
}

/// An error of the lab's own parts. The errno becomes a field, so the text ends before it.
pub(super) fn from_lab(error: &anyhow::Error) -> OpError {
    let root = error.root_cause().downcast_ref::<io::Error>();
    let errno = root.map_or(libc::EINVAL, errno_of);
    let steps: Vec<String> = error.chain().map(ToString::to_string).collect();
    let said = steps.len() - usize::from(root.is_some() && steps.len() > 1);
    OpError { what: steps[..said].join(": "), errno }
}

/// Adds the operation that was tried to an error of the kernel.
pub(super) trait Context<T> {
    /// `what` is an infinitive: "connect socket 5 to 10.96.0.1:53".
    fn at(self, what: impl FnOnce() -> String) -> Answer<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn at(self, what: impl FnOnce() -> String) -> Answer<T> {
        self.map_err(|error| OpError { what: what(), errno: errno_of(&error) })
    }
}

//! Names of the errors that a destroy can end with.

use std::borrow::Cow;

/// Number, name, and meaning for the destroy of a socket. The numbers are those of
/// `include/uapi/asm-generic/errno*.h` (x86-64, arm64, riscv, s390, ppc64le); the last one is
/// kernel-internal (`include/linux/errno.h`) and reaches user space through BPF.
const ERRNOS: &[(u32, &str, &str)] = &[
    (1, "EPERM", "not permitted; run with CAP_NET_ADMIN in the socket's network namespace"),
    (2, "ENOENT", "no socket has exactly this id now (closed, or in state CLOSE)"),
    (3, "ESRCH", "there is no such process or object any more"),
    (4, "EINTR", "interrupted by a signal; try again"),
    (5, "EIO", "input/output error"),
    (7, "E2BIG", "the argument does not fit"),
    (9, "EBADF", "the file descriptor is not open"),
    (11, "EAGAIN", "not now; try again"),
    (12, "ENOMEM", "out of kernel memory"),
    (13, "EACCES", "access denied, for example by a security module"),
    (14, "EFAULT", "bad address"),
    (16, "EBUSY", "busy; try again"),
    (17, "EEXIST", "it exists already"),
    (19, "ENODEV", "there is no such device"),
    (22, "EINVAL", "the kernel did not understand the request"),
    (23, "ENFILE", "too many open files in the system"),
    (24, "EMFILE", "too many open files in this process"),
    (28, "ENOSPC", "no space left in a kernel table"),
    (34, "ERANGE", "a value is out of range"),
    (38, "ENOSYS", "this kernel does not have the operation"),
    (71, "EPROTO", "protocol error"),
    (75, "EOVERFLOW", "a value does not fit"),
    (90, "EMSGSIZE", "the message is too long"),
    (92, "ENOPROTOOPT", "the protocol does not have the option"),
    (93, "EPROTONOSUPPORT", "this kernel does not have the protocol"),
    (
        95,
        "EOPNOTSUPP",
        "a socket of this kind or in this state cannot be destroyed; check CONFIG_INET_DIAG_DESTROY",
    ),
    (97, "EAFNOSUPPORT", "this kernel does not have the address family"),
    (103, "ECONNABORTED", "the connection was aborted"),
    (104, "ECONNRESET", "the connection was reset"),
    (105, "ENOBUFS", "a socket buffer is full; try again"),
    (107, "ENOTCONN", "the socket is not connected any more"),
    (110, "ETIMEDOUT", "its owner holds its lock; the kernel destroys it when the owner lets go"),
    (111, "ECONNREFUSED", "refused"),
    (114, "EALREADY", "already under way"),
    (115, "EINPROGRESS", "under way"),
    (116, "ESTALE", "the network namespace is gone, or the cookie is another socket's"),
    (524, "ENOTSUPP", "the kernel does not support the operation"),
];

/// Name of an error number, for example `ENOENT`; `errno N` if it has no entry here. The sign is
/// ignored: kernel functions return negative numbers.
pub fn errno_name(errno: i32) -> Cow<'static, str> {
    let number = errno.unsigned_abs();
    match ERRNOS.iter().find(|(known, ..)| *known == number) {
        Some((_, name, _)) => Cow::Borrowed(name),
        None => Cow::Owned(format!("errno {number}")),
    }
}

/// Meaning of an error number for the destroy of a socket.
pub fn errno_reason(errno: i32) -> &'static str {
    let number = errno.unsigned_abs();
    match ERRNOS.iter().find(|(known, ..)| *known == number) {
        Some((.., reason)) => reason,
        None => "unexpected error; see errno(3)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for (errno, name) in [
            (1, "EPERM"),
            (2, "ENOENT"),
            (-2, "ENOENT"),
            (95, "EOPNOTSUPP"),
            (116, "ESTALE"),
            (-524, "ENOTSUPP"),
            (0, "errno 0"),
            (9999, "errno 9999"),
            (i32::MIN, "errno 2147483648"),
        ] {
            assert_eq!(errno_name(errno), name);
        }
        assert_eq!(errno_reason(2), "no socket has exactly this id now (closed, or in state CLOSE)");
        assert_eq!(errno_reason(9999), "unexpected error; see errno(3)");
    }

    #[test]
    fn table_is_sorted_without_repeats() {
        assert!(ERRNOS.is_sorted_by(|a, b| a.0 < b.0));
    }
}

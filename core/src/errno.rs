//! Names of all errors of Linux: those of system calls, netlink and BPF.

use std::borrow::Cow;

/// Number, name, and meaning for the destroy of a socket. The numbers are those of
/// `include/uapi/asm-generic/errno*.h` (x86-64, arm64, riscv, s390, ppc64le); those from 512 on are
/// kernel-internal (`include/linux/errno.h`) and may reach user space through BPF.
const ERRNOS: &[(u32, &str, &str)] = &[
    (1, "EPERM", "not permitted; run with CAP_NET_ADMIN in the socket's network namespace"),
    (2, "ENOENT", "no socket has exactly this id now (closed, or in state CLOSE)"),
    (3, "ESRCH", "there is no such process or object any more"),
    (4, "EINTR", "interrupted by a signal; try again"),
    (5, "EIO", "input/output error"),
    (6, "ENXIO", "there is no such device or address"),
    (7, "E2BIG", "the argument does not fit"),
    (8, "ENOEXEC", "not an executable format"),
    (9, "EBADF", "the file descriptor is not open"),
    (10, "ECHILD", "there is no such child process"),
    (11, "EAGAIN", "not now; try again"),
    (12, "ENOMEM", "out of kernel memory"),
    (13, "EACCES", "access denied, for example by a security module"),
    (14, "EFAULT", "bad address"),
    (15, "ENOTBLK", "not a block device"),
    (16, "EBUSY", "busy; try again"),
    (17, "EEXIST", "it exists already"),
    (18, "EXDEV", "a link to another file system or device"),
    (19, "ENODEV", "there is no such device"),
    (20, "ENOTDIR", "not a directory"),
    (21, "EISDIR", "a directory"),
    (22, "EINVAL", "the kernel did not understand the request"),
    (23, "ENFILE", "too many open files in the system"),
    (24, "EMFILE", "too many open files in this process"),
    (25, "ENOTTY", "the file does not have the operation"),
    (26, "ETXTBSY", "the file is being executed"),
    (27, "EFBIG", "the file is too large"),
    (28, "ENOSPC", "no space left in a kernel table"),
    (29, "ESPIPE", "the file has no position"),
    (30, "EROFS", "the file system is read-only"),
    (31, "EMLINK", "too many links"),
    (32, "EPIPE", "nobody reads the other end"),
    (33, "EDOM", "an argument is out of its domain"),
    (34, "ERANGE", "a value is out of range"),
    (35, "EDEADLK", "it would wait for itself"),
    (36, "ENAMETOOLONG", "the name is too long"),
    (37, "ENOLCK", "no locks are available"),
    (38, "ENOSYS", "this kernel does not have the operation"),
    (39, "ENOTEMPTY", "the directory is not empty"),
    (40, "ELOOP", "too many symbolic links, or too many programs in a chain"),
    (42, "ENOMSG", "there is no such message"),
    (43, "EIDRM", "the identifier was removed"),
    (44, "ECHRNG", "a channel number is out of range"),
    (45, "EL2NSYNC", "level 2 is not synchronized"),
    (46, "EL3HLT", "level 3 has halted"),
    (47, "EL3RST", "level 3 was reset"),
    (48, "ELNRNG", "a link number is out of range"),
    (49, "EUNATCH", "the protocol driver is not attached"),
    (50, "ENOCSI", "there is no CSI structure"),
    (51, "EL2HLT", "level 2 has halted"),
    (52, "EBADE", "the exchange is invalid"),
    (53, "EBADR", "the request descriptor is invalid"),
    (54, "EXFULL", "the exchange is full"),
    (55, "ENOANO", "there is no anode"),
    (56, "EBADRQC", "the request code is invalid"),
    (57, "EBADSLT", "the slot is invalid"),
    (59, "EBFONT", "the font file has a bad format"),
    (60, "ENOSTR", "not a stream"),
    (61, "ENODATA", "there are no data"),
    (62, "ETIME", "a timer has expired"),
    (63, "ENOSR", "out of streams"),
    (64, "ENONET", "the machine is not on the network"),
    (65, "ENOPKG", "the package is not installed"),
    (66, "EREMOTE", "the object is remote"),
    (67, "ENOLINK", "the link was cut"),
    (68, "EADV", "advertise error"),
    (69, "ESRMNT", "srmount error"),
    (70, "ECOMM", "communication error on send"),
    (71, "EPROTO", "protocol error"),
    (72, "EMULTIHOP", "a multihop was attempted"),
    (73, "EDOTDOT", "RFS specific error"),
    (74, "EBADMSG", "the message is not valid"),
    (75, "EOVERFLOW", "a value does not fit"),
    (76, "ENOTUNIQ", "the name is not unique on the network"),
    (77, "EBADFD", "the file descriptor is in a bad state"),
    (78, "EREMCHG", "the remote address has changed"),
    (79, "ELIBACC", "a shared library cannot be accessed"),
    (80, "ELIBBAD", "a shared library is corrupted"),
    (81, "ELIBSCN", "the .lib section is corrupted"),
    (82, "ELIBMAX", "too many shared libraries"),
    (83, "ELIBEXEC", "a shared library cannot be executed"),
    (84, "EILSEQ", "a byte sequence is not valid"),
    (85, "ERESTART", "interrupted; try again"),
    (86, "ESTRPIPE", "a stream pipe error"),
    (87, "EUSERS", "too many users"),
    (88, "ENOTSOCK", "the file descriptor is no socket"),
    (89, "EDESTADDRREQ", "the socket has no peer"),
    (90, "EMSGSIZE", "the message is too long"),
    (91, "EPROTOTYPE", "the protocol is not of the socket's type"),
    (92, "ENOPROTOOPT", "the protocol does not have the option"),
    (93, "EPROTONOSUPPORT", "this kernel does not have the protocol"),
    (94, "ESOCKTNOSUPPORT", "this kernel does not have the type of socket"),
    (
        95,
        "EOPNOTSUPP",
        "a socket of this kind or in this state cannot be destroyed; check CONFIG_INET_DIAG_DESTROY",
    ),
    (96, "EPFNOSUPPORT", "this kernel does not have the protocol family"),
    (97, "EAFNOSUPPORT", "this kernel does not have the address family"),
    (98, "EADDRINUSE", "the address and port are in use"),
    (99, "EADDRNOTAVAIL", "the address is not local, or no local port is free"),
    (100, "ENETDOWN", "the network interface is down"),
    (101, "ENETUNREACH", "there is no route to the network"),
    (102, "ENETRESET", "the network has dropped the connection"),
    (103, "ECONNABORTED", "the connection was aborted"),
    (104, "ECONNRESET", "the connection was reset"),
    (105, "ENOBUFS", "a socket buffer is full; try again"),
    (106, "EISCONN", "the socket is connected already"),
    (107, "ENOTCONN", "the socket is not connected any more"),
    (108, "ESHUTDOWN", "the socket was shut down"),
    (109, "ETOOMANYREFS", "too many descriptors are in flight"),
    (110, "ETIMEDOUT", "its owner holds its lock; the kernel destroys it when the owner lets go"),
    (111, "ECONNREFUSED", "refused"),
    (112, "EHOSTDOWN", "the host is down"),
    (113, "EHOSTUNREACH", "there is no route to the host, or a rule rejects it"),
    (114, "EALREADY", "already under way"),
    (115, "EINPROGRESS", "under way"),
    (116, "ESTALE", "the network namespace is gone, or the cookie is another socket's"),
    (117, "EUCLEAN", "a structure needs cleaning"),
    (118, "ENOTNAM", "not a XENIX named type file"),
    (119, "ENAVAIL", "no XENIX semaphores are available"),
    (120, "EISNAM", "a named type file"),
    (121, "EREMOTEIO", "remote input/output error"),
    (122, "EDQUOT", "the quota is used up"),
    (123, "ENOMEDIUM", "there is no medium"),
    (124, "EMEDIUMTYPE", "the medium is of the wrong type"),
    (125, "ECANCELED", "it was cancelled"),
    (126, "ENOKEY", "the required key is not there"),
    (127, "EKEYEXPIRED", "the key has expired"),
    (128, "EKEYREVOKED", "the key was revoked"),
    (129, "EKEYREJECTED", "the key was rejected"),
    (130, "EOWNERDEAD", "the owner of the lock has died"),
    (131, "ENOTRECOVERABLE", "the state cannot be recovered"),
    (132, "ERFKILL", "a radio is switched off"),
    (133, "EHWPOISON", "a page of memory has a hardware error"),
    (512, "ERESTARTSYS", "interrupted by a signal; try again"),
    (513, "ERESTARTNOINTR", "interrupted by a signal; try again"),
    (514, "ERESTARTNOHAND", "interrupted by a signal; try again"),
    (515, "ENOIOCTLCMD", "the kernel does not have the operation"),
    (516, "ERESTART_RESTARTBLOCK", "interrupted by a signal; try again"),
    (517, "EPROBE_DEFER", "not now; try again"),
    (518, "EOPENSTALE", "the open found a stale handle"),
    (519, "ENOPARAM", "there is no such parameter"),
    (521, "EBADHANDLE", "the file handle is not valid"),
    (522, "ENOTSYNC", "the update is not synchronized"),
    (523, "EBADCOOKIE", "the cookie is stale"),
    (524, "ENOTSUPP", "the kernel does not support the operation"),
    (525, "ETOOSMALL", "the buffer is too small"),
    (526, "ESERVERFAULT", "an untranslatable error occurred"),
    (527, "EBADTYPE", "the type is not supported"),
    (528, "EJUKEBOX", "not now; try again"),
    (529, "EIOCBQUEUED", "queued; a completion follows"),
    (530, "ERECALLCONFLICT", "it conflicts with a recall"),
];

/// Name of an error number, for example `ENOENT`; `errno N` if Linux has no such error. The sign is
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
            (101, "ENETUNREACH"),
            (113, "EHOSTUNREACH"),
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

    /// 41 and 58 are free: EWOULDBLOCK and EDEADLOCK are other names for EAGAIN and EDEADLK. So are 520 and others.
    #[test]
    fn every_number_of_linux_has_a_name() {
        let unnamed: Vec<i32> =
            (1..=530).filter(|n| (*n < 134 || *n >= 512) && errno_name(*n).starts_with("errno ")).collect();
        assert_eq!(unnamed, [41, 58, 520]);
        assert_eq!([134, 511, 531].map(|n| errno_name(n).starts_with("errno ")), [true; 3]);
    }

    #[test]
    fn table_is_sorted_without_repeats() {
        assert!(ERRNOS.is_sorted_by(|a, b| a.0 < b.0));
    }
}

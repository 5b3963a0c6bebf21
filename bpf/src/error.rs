//! Errors at the border to the kernel.

use std::io;
use std::path::PathBuf;

use crate::log;

/// An error of the kernel side. The message names the thing and the next step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size that cannot be.
    #[error("{what} = {value} is out of range ({range})")]
    Config {
        /// Name of the setting.
        what: &'static str,
        /// The value that was asked for.
        value: u32,
        /// The values that can be.
        range: &'static str,
    },
    /// This kernel cannot do it, whatever the privileges.
    #[error("this kernel lacks {missing}: {remedy}")]
    Unsupported {
        /// The missing feature.
        missing: String,
        /// The next step for the user.
        remedy: String,
    },
    /// The kernel can, this process may not.
    #[error("not permitted to {what}: {remedy}")]
    Denied {
        /// The operation that was tried.
        what: String,
        /// The next step for the user.
        remedy: String,
    },
    /// The kernel rejected the programs, and no known limit of an old kernel explains it.
    #[error("the BPF programs could not be loaded: {source}{}", .log.as_deref().map(|l| format!("\n{l}")).unwrap_or_default())]
    Load {
        /// Message of libbpf.
        source: io::Error,
        /// The last lines libbpf or the verifier printed, if any.
        log: Option<String>,
    },
    /// Programs and library were built from different versions of `abi.h`.
    #[error("ABI version {found} in the kernel, {expected} in this program: reload the programs")]
    Abi {
        /// Version of the loaded programs.
        found: u32,
        /// Version of this library.
        expected: u32,
    },
    /// A hook could not be attached.
    #[error("cannot attach {hook} to the cgroup: {source}")]
    Attach {
        /// Name of the program.
        hook: String,
        /// Errno of the kernel.
        source: io::Error,
    },
    /// A map or program of the loaded object is not as expected.
    #[error("BPF {what}: {source}")]
    Object {
        /// Which map or program.
        what: String,
        /// Message of the kernel or libbpf.
        source: io::Error,
    },
    /// Another process serves from these pins.
    #[error(
        "the pins in {} are in use by another process: stop it first, or name another directory with --pin",
        .0.display()
    )]
    PinsLocked(PathBuf),
    /// A pin cannot be created, opened, replaced or removed.
    #[error("pin {}: {source}{}", .path.display(), next_step(.source))]
    Pin {
        /// Which.
        path: PathBuf,
        /// Errno of the kernel.
        source: io::Error,
    },
    /// All walk slots are taken.
    #[error("all {0} walk slots are in use: drop a Walker first")]
    NoSlot(u32),
    /// Frontends were asked for, and the index records none.
    #[error("this index records no frontends: start the service with `serve --frontends`")]
    NoFrontends,
    /// The walk program refused or could not run.
    #[error("the walk failed: {0}")]
    Walk(io::Error),
    /// The re-key program refused or could not run.
    #[error("the re-key failed: {0}")]
    Rekey(io::Error),
    /// The program that sets and clears incomplete bits refused or could not run.
    #[error("cannot mark the index as incomplete: {0}")]
    Incomplete(io::Error),
}

impl Error {
    /// True if this kernel or these privileges do not allow it, so that a retry is useless.
    #[must_use]
    pub fn cannot(&self) -> bool {
        matches!(self, Self::Unsupported { .. } | Self::Denied { .. })
    }
}

/// The next step for a pin that cannot be created.
fn next_step(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::ReadOnlyFilesystem => "; mount it writable (mount -o remount,rw), or pin elsewhere",
        _ => "",
    }
}

/// The parts of an errno that libbpf-rs still exposes: its kind and its text.
#[must_use]
pub fn io_error(error: libbpf_rs::Error) -> io::Error {
    let kind = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied => io::ErrorKind::PermissionDenied,
        libbpf_rs::ErrorKind::NotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, format!("{error:#}"))
}

/// Tells a kernel that cannot and a process that may not from all else.
#[must_use]
pub fn load_error(error: libbpf_rs::Error) -> Error {
    let log = log::take_warnings();
    let text = log.as_deref().unwrap_or_default();
    let source = io_error(error);
    if let Some(kfunc) = text
        .split("extern (func ksym) '")
        .nth(1)
        .and_then(|rest| rest.split_once('\''))
        .filter(|(_, rest)| rest.starts_with(": not found"))
        .map(|(name, _)| name)
    {
        // The index needs more than its kfuncs, see below.
        let release = if kfunc == "bpf_sock_destroy" { "6.5" } else { "6.9" };
        return Error::Unsupported {
            missing: format!("the kfunc {kfunc}"),
            remedy: format!("use Linux {release} or later"),
        };
    }
    if text.contains("unknown opcode e5") {
        return Error::Unsupported {
            missing: "the BPF instruction may_goto".to_owned(),
            remedy: "use Linux 6.9 or later".to_owned(),
        };
    }
    if source.kind() == io::ErrorKind::PermissionDenied && !may_load() {
        return Error::Denied {
            what: "load BPF programs".to_owned(),
            remedy: "run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON".to_owned(),
        };
    }
    Error::Load { source, log }
}

/// True if this process has the capabilities that loading takes.
fn may_load() -> bool {
    // CAP_NET_ADMIN 12, CAP_SYS_ADMIN 21, CAP_PERFMON 38, CAP_BPF 39 (linux/capability.h)
    let has = |bits: u64, cap: u32| bits & 1 << cap != 0;
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let hex = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
            u64::from_str_radix(hex.trim(), 16).ok()
        })
        .is_some_and(|bits| has(bits, 12) && (has(bits, 21) || has(bits, 38) && has(bits, 39)))
}

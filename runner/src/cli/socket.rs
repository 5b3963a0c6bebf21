//! The socket between `serve` and its clients, and access to it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::{env, fs};

use anyhow::Context as _;
use nix::unistd::{Group, User, geteuid};
use skreap::source::{Access, Source};

/// Heading of the options of `serve` about where requests come from.
pub(super) const REQUESTS: &str = "Requests";

/// Name of the socket in its directory.
const NAME: &str = "skreap.sock";
/// Its path for root, and for clients without a service of their own.
const SYSTEM: &str = "/run/skreap/skreap.sock";

/// Names the socket for clients.
const VARIABLE: &str = "SKREAP_SOCKET";

/// The inputs for the default path of the socket.
struct Place {
    /// `$RUNTIME_DIRECTORY`, which systemd sets: absolute paths separated by colons.
    runtime: Option<OsString>,
    /// `$XDG_RUNTIME_DIR`
    xdg: Option<OsString>,
    root: bool,
}

impl Place {
    fn of_this_process() -> Self {
        Self {
            runtime: env::var_os("RUNTIME_DIRECTORY"),
            xdg: env::var_os("XDG_RUNTIME_DIR"),
            root: geteuid().is_root(),
        }
    }

    /// The path on which a service listens.
    fn to_serve(&self) -> PathBuf {
        let runtime = self.runtime.as_deref().and_then(OsStrExt::first_of_list);
        if let Some(directory) = runtime {
            return directory.join(NAME);
        }
        match &self.xdg {
            Some(directory) if !self.root && !directory.is_empty() => {
                Path::new(directory).join("skreap").join(NAME)
            }
            _ => SYSTEM.into(),
        }
    }

    /// The path to which a client connects: the user's own service if there is one, or the machine's.
    fn to_ask(&self) -> PathBuf {
        let own = self.to_serve();
        let there = fs::symlink_metadata(&own).is_ok_and(|m| m.file_type().is_socket());
        if there || self.root { own } else { SYSTEM.into() }
    }
}

trait OsStrExt {
    fn first_of_list(&self) -> Option<&Path>;
}

impl OsStrExt for std::ffi::OsStr {
    fn first_of_list(&self) -> Option<&Path> {
        use std::os::unix::ffi::OsStrExt as _;
        let first = self.as_bytes().split(|b| *b == b':').next().filter(|first| !first.is_empty())?;
        Some(Path::new(Self::from_bytes(first)))
    }
}

/// `--socket PATH`, for commands that talk to a running `serve`.
#[derive(Debug, clap::Args)]
pub(super) struct SocketArg {
    /// Unix socket of the running `serve --source unix[:PATH]`
    /// [default: $RUNTIME_DIRECTORY/skreap.sock, $XDG_RUNTIME_DIR/skreap/skreap.sock if that exists and the user
    /// is not root, /run/skreap/skreap.sock]
    #[arg(long, value_name = "PATH", env = VARIABLE, hide_env_values = true)]
    socket: Option<PathBuf>,
}

impl SocketArg {
    pub(super) fn path(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| Place::of_this_process().to_ask())
    }

    /// Where a client looks without `--socket`.
    pub(super) fn usual() -> PathBuf {
        env::var_os(VARIABLE).map_or_else(|| Place::of_this_process().to_ask(), PathBuf::from)
    }
}

/// `--source`, as given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceArg {
    Stdin,
    /// At the default path.
    Unix,
    UnixAt(PathBuf),
}

impl FromStr for SourceArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "stdin" => Ok(Self::Stdin),
            None if text == "unix" => Ok(Self::Unix),
            Some(("unix", path)) if !path.is_empty() => Ok(Self::UnixAt(path.into())),
            _ => Err("a source is stdin, unix, or unix:PATH".to_owned()),
        }
    }
}

impl SourceArg {
    /// The source; creates the directory for a socket at the default path.
    pub(super) fn source(&self, access: &Access) -> anyhow::Result<Source> {
        let path = match self {
            Self::Stdin => return Ok(Source::Stdin),
            Self::UnixAt(path) => path.clone(),
            Self::Unix => {
                let path = Place::of_this_process().to_serve();
                if let Some(parent) = path.parent() {
                    // Only the last component: if its parent is missing, something is wrong.
                    let made = fs::DirBuilder::new().mode(0o755).create(parent);
                    match made {
                        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
                            return Err(e).with_context(|| {
                                let place = parent.display();
                                format!(
                                    "cannot create {place} for the socket; name another path with --source unix:PATH"
                                )
                            });
                        }
                        _ => {}
                    }
                }
                path
            }
        };
        Ok(Source::Unix(path, access.clone()))
    }
}

/// Owner of the socket, and the users allowed to connect.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = REQUESTS)]
pub(super) struct AccessArgs {
    /// File mode of unix sockets, octal [default: 600; with --allow-uid 666, because then the uid decides]
    #[arg(long, value_name = "MODE", value_parser = mode)]
    socket_mode: Option<u32>,
    /// Owner of unix sockets, by name or uid [default: the user of the service]
    #[arg(long, value_name = "USER", value_parser = user)]
    socket_owner: Option<u32>,
    /// Group of unix sockets, by name or gid [default: the group of the service]
    #[arg(long, value_name = "GROUP", value_parser = group)]
    socket_group: Option<u32>,
    /// User, by name or uid, allowed to send requests besides root and the user of the service. Repeatable
    #[arg(long, value_name = "USER", value_parser = user)]
    allow_uid: Vec<u32>,
}

impl AccessArgs {
    pub(super) fn access(&self) -> Access {
        Access {
            mode: self.socket_mode,
            owner: self.socket_owner,
            group: self.socket_group,
            allow: self.allow_uid.iter().copied().collect::<BTreeSet<u32>>(),
        }
    }
}

fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("write up to three octal digits, for example 660".to_owned()),
    }
}

fn user(text: &str) -> Result<u32, String> {
    named(text, "user", |name| User::from_name(name).map(|user| user.map(|user| user.uid.as_raw())))
}

fn group(text: &str) -> Result<u32, String> {
    named(text, "group", |name| Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw())))
}

fn named(text: &str, what: &str, find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Result<u32, String> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    match find(text) {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(format!("there is no {what} of that name; write a name or a number")),
        Err(e) => Err(format!("cannot look up the {what}: {e}; write a number")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_it_listens() {
        let place = |runtime: Option<&str>, xdg: Option<&str>, root| Place {
            runtime: runtime.map(OsString::from),
            xdg: xdg.map(OsString::from),
            root,
        };
        for (place, path) in [
            (place(Some("/run/a:/run/b"), Some("/run/user/7"), true), "/run/a/skreap.sock"),
            (place(Some(""), Some("/run/user/7"), false), "/run/user/7/skreap/skreap.sock"),
            (place(None, Some("/run/user/7"), true), SYSTEM),
            (place(None, Some(""), false), SYSTEM),
            (place(None, None, false), SYSTEM),
        ] {
            assert_eq!(place.to_serve(), Path::new(path));
        }
        // No such socket: the machine's own service is asked.
        assert_eq!(place(None, Some("/nowhere"), false).to_ask(), Path::new(SYSTEM));
        assert_eq!(place(Some("/nowhere"), None, true).to_ask(), Path::new("/nowhere/skreap.sock"));
    }

    #[test]
    fn words_of_the_command_line() {
        assert_eq!("unix".parse(), Ok(SourceArg::Unix));
        assert_eq!("unix:a:b".parse(), Ok(SourceArg::UnixAt("a:b".into())));
        assert!("unix:".parse::<SourceArg>().is_err() && "file:x".parse::<SourceArg>().is_err());
        assert_eq!((mode("660"), user("0"), user("root"), group("0")), (Ok(0o660), Ok(0), Ok(0), Ok(0)));
        assert!(mode("1777").is_err() && mode("9").is_err() && user("no such user").is_err());
    }
}

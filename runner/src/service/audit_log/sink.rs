//! Where the audit log is written: a file, a socket, journald.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The socket of journald's native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).
const JOURNAL: &str = "/run/systemd/journal/socket";
/// The file's mode if it is made here: it names processes and their peers.
const MODE: u32 = 0o600;

/// Where an audit log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Destination {
    /// A file that is appended to, or a named pipe.
    File(PathBuf),
    /// A unix stream socket on which a collector listens.
    Unix(PathBuf),
    /// journald, by its native protocol.
    Journald(PathBuf),
}

/// What is not a destination.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("write an absolute path, unix:PATH or journald")]
#[non_exhaustive]
pub struct DestinationError;

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, DestinationError> {
        let absolute =
            |path: &str| Path::new(path).is_absolute().then(|| PathBuf::from(path)).ok_or(DestinationError);
        match text.split_once(':') {
            _ if text == "journald" => Ok(Self::Journald(JOURNAL.into())),
            Some(("journald", path)) => absolute(path).map(Self::Journald),
            Some(("unix", path)) => absolute(path).map(Self::Unix),
            _ => absolute(text).map(Self::File),
        }
    }
}

/// An open destination, or one that is to be opened again.
#[derive(Debug)]
pub(super) enum Sink {
    File { path: PathBuf, file: Option<File> },
    Unix { path: PathBuf, stream: Option<UnixStream> },
    Journald { path: PathBuf, socket: Option<UnixDatagram> },
}

impl Sink {
    /// A file must be there, or can be made, at once. A socket on which nobody listens yet is tried with the first line.
    pub(super) fn open(to: &Destination) -> io::Result<Self> {
        Ok(match to {
            Destination::File(path) => Self::File { path: path.clone(), file: Some(open(path)?) },
            Destination::Unix(path) => Self::Unix { path: path.clone(), stream: None },
            Destination::Journald(path) => Self::Journald { path: path.clone(), socket: None },
        })
    }

    /// Writes one line, which ends with a newline. After an error the line can be written again: what was written of it is
    /// taken back, or was written to a connection that is closed.
    pub(super) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::File { path, file } => {
                if file.as_ref().is_some_and(|file| was_moved(path, file)) {
                    *file = None;
                }
                let open = match file {
                    Some(file) => file,
                    None => file.insert(open(path)?),
                };
                append(open, line)
            }
            Self::Unix { path, stream } => {
                let open = match stream {
                    Some(stream) => stream,
                    None => stream.insert(UnixStream::connect(path)?),
                };
                open.write_all(line).inspect_err(|_| *stream = None)
            }
            Self::Journald { path, socket } => {
                let open = match socket {
                    Some(socket) => socket,
                    None => {
                        let new = UnixDatagram::unbound()?;
                        new.connect(path)?;
                        socket.insert(new)
                    }
                };
                open.send(&entry(line)).map(drop).inspect_err(|_| *socket = None)
            }
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Unix { path, .. } => write!(f, "unix:{}", path.display()),
            Self::Journald { path, .. } => write!(f, "journald ({})", path.display()),
        }
    }
}

fn open(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(MODE);
    // A named pipe without a reader would wait for one, and its writer would be killed by the end of one.
    if path.metadata().is_ok_and(|file| file.file_type().is_fifo()) {
        options = OpenOptions::new();
        options.read(true).write(true);
    }
    options.open(path).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// True if the path names another file by now, or none: the file was rotated.
fn was_moved(path: &Path, file: &File) -> bool {
    let Ok(open) = file.metadata() else { return true };
    !path.metadata().is_ok_and(|named| (named.dev(), named.ino()) == (open.dev(), open.ino()))
}

/// Appends a line, whole or not at all.
fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata().ok().filter(|file| file.is_file()).map(|file| file.len());
    file.write_all(line).inspect_err(|_| {
        if let Some(before) = before {
            // The disk is full: a part of a line would spoil the next one.
            let _ = file.set_len(before);
        }
    })
}

/// An entry of the journal. Lines contain no newline but the last one.
fn entry(line: &[u8]) -> Vec<u8> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    [&b"PRIORITY=6\nSYSLOG_IDENTIFIER=skreap-audit\nMESSAGE="[..], line, &b"\n"[..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let parse = |text: &str| text.parse::<Destination>();
        assert_eq!(parse("/var/log/a:b"), Ok(Destination::File("/var/log/a:b".into())));
        assert_eq!(parse("unix:/run/a"), Ok(Destination::Unix("/run/a".into())));
        assert_eq!(parse("journald"), Ok(Destination::Journald(JOURNAL.into())));
        assert_eq!(parse("journald:/run/j"), Ok(Destination::Journald("/run/j".into())));
        for wrong in ["", "audit.log", "unix:audit", "unix:", "journal"] {
            assert_eq!(parse(wrong), Err(DestinationError), "{wrong}");
        }
    }

    #[test]
    fn a_file_is_opened_again_when_it_was_renamed() {
        let directory = tempfile::TempDir::new().unwrap();
        let (path, old) = (directory.path().join("log"), directory.path().join("log.1"));
        let mut sink = Sink::open(&Destination::File(path.clone())).unwrap();
        sink.write(b"a\n").unwrap();
        std::fs::rename(&path, &old).unwrap();
        sink.write(b"b\n").unwrap();
        sink.write(b"c\n").unwrap();
        assert_eq!(std::fs::read(&old).unwrap(), b"a\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"b\nc\n");
        assert_eq!(path.metadata().unwrap().mode() & 0o777, MODE);
    }

    #[test]
    fn journald_gets_a_datagram_for_each_line() {
        let directory = tempfile::TempDir::new().unwrap();
        let path = directory.path().join("socket");
        let mut sink = Sink::open(&Destination::Journald(path.clone())).unwrap();
        assert!(sink.write(b"{}\n").is_err());
        let journal = UnixDatagram::bind(&path).unwrap();
        sink.write(b"{\"a\":1}\n").unwrap();
        let mut buffer = [0; 200];
        let n = journal.recv(&mut buffer).unwrap();
        let expected = b"PRIORITY=6\nSYSLOG_IDENTIFIER=skreap-audit\nMESSAGE={\"a\":1}\n";
        assert_eq!(&buffer[..n], expected);
    }
}

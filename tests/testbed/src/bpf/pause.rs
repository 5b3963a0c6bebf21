//! Time for a race, see `progs/pause.bpf.c`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::thread;
use std::time::{Duration, Instant};

use libbpf_rs::{Link, Object};

use skreap_bpf::plumbing::{self, io_error, load_error, map, open, read, write};
use skreap_bpf::{Error, Index};

use super::skel::PAUSE_OBJECT;

const PAUSES: &str = "pauses";
/// Keys of that map.
const HELD: u32 = 0;
const LET_GO: u32 = 1;

/// Pauses a program of an index whenever it calls one of its global functions, and again when that
/// function returns, until it is released, or for 5 s; or pauses a process whenever it enters a
/// function of the kernel. The processor that it runs on does nothing else meanwhile. Dropping it
/// ends the pauses.
#[derive(Debug)]
pub struct Pause {
    _links: Vec<Link>,
    object: Object,
}

impl Pause {
    /// Attaches it to `function` of `program`.
    ///
    /// # Errors
    /// [`Error::Load`] if the program has no such global function, or this kernel does not allow
    /// tracing of programs (`EPERM`); [`Error::Object`] if there is no such program, or attaching
    /// to it fails.
    pub fn around(index: &Index, program: &str, function: &str) -> Result<Self, Error> {
        let about = |source| Error::Object { what: format!("{function} of program {program}"), source };
        let target = plumbing::program(index.object(), program).map_err(about)?.as_fd().as_raw_fd();
        let mut open = open(PAUSE_OBJECT)?;
        for mut pause in open.progs_mut() {
            pause.set_attach_target(target, Some(function.to_owned())).map_err(|e| about(io_error(e)))?;
        }
        let object = open.load().map_err(load_error)?;
        let links = object.progs_mut().map(|pause| pause.attach().map_err(|e| about(io_error(e))));
        let links = links.collect::<Result<_, _>>()?;
        Ok(Self { _links: links, object })
    }

    /// Attaches it to the start of a kernel function, for one process: the first function of this
    /// list that the kernel has.
    ///
    /// # Errors
    /// [`Error::Load`] if this kernel does not allow tracing of its functions (`EPERM`);
    /// [`Error::Object`] if it has none of them, or attaching fails.
    pub fn before(functions: &[&str], process: u32) -> Result<Self, Error> {
        let about = |source| Error::Object { what: format!("functions {functions:?}"), source };
        let mut open = open(PAUSE_OBJECT)?;
        for mut map in open.maps_mut().filter(|map| map.name().to_string_lossy().ends_with(".rodata")) {
            let value = map.initial_value_mut().ok_or_else(|| about(io::ErrorKind::NotFound.into()))?;
            // Its only variable.
            value[..4].copy_from_slice(&process.to_ne_bytes());
        }
        let mut found = false;
        for mut pause in open.progs_mut() {
            if pause.name() == OsStr::new("pause_before") {
                found =
                    functions.iter().any(|name| pause.set_attach_target(0, Some((*name).to_owned())).is_ok());
            } else {
                pause.set_autoload(false);
            }
        }
        if !found {
            return Err(about(io::ErrorKind::NotFound.into()));
        }
        let object = open.load().map_err(load_error)?;
        let links = object.progs_mut().filter(|pause| pause.name() == OsStr::new("pause_before"));
        let links = links.map(|pause| pause.attach().map_err(|e| about(io_error(e))));
        let links = links.collect::<Result<_, _>>()?;
        Ok(Self { _links: links, object })
    }

    /// Waits until the program has been held up `times` times.
    ///
    /// # Errors
    /// [`Error::Object`] if that takes longer than 10 s, or cannot be seen.
    pub fn wait(&self, times: u32) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let map = map(&self.object, PAUSES).map_err(object_error)?;
        loop {
            if read::<u32>(&map, HELD).map_err(object_error)? >= times {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(object_error(io::ErrorKind::TimedOut.into()));
            }
            thread::yield_now();
        }
    }

    /// Releases pause number `times` of the program, and all before it.
    ///
    /// # Errors
    /// [`Error::Object`] if its map cannot be written.
    pub fn let_go(&self, times: u32) -> Result<(), Error> {
        let map = map(&self.object, PAUSES).map_err(object_error)?;
        write(&map, LET_GO, &times).map_err(object_error)
    }
}

fn object_error(source: io::Error) -> Error {
    Error::Object { what: format!("map {PAUSES}"), source }
}

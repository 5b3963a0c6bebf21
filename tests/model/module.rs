//! The kernel module as a script has it come and go.

use std::env;
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};

const NAME: &CStr = c"skreap";

/// The module, which is loaded again at the end if it is not.
#[derive(Debug)]
pub struct Module {
    file: PathBuf,
    pub loaded: bool,
}

impl Module {
    /// The file that `SKREAP_MODULE` names, of which the loaded one is.
    pub fn find() -> Result<Self> {
        let file =
            env::var_os("SKREAP_MODULE").context("SKREAP_MODULE does not name the file of the module")?;
        Ok(Self { file: file.into(), loaded: true })
    }

    pub fn load(&mut self) -> Result<()> {
        let about = || format!("load {}", self.file.display());
        let file = File::open(&self.file).with_context(about)?;
        // SAFETY: the parameters end with a nul and outlive the call.
        let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        if done != 0 {
            return Err(io::Error::last_os_error()).with_context(about);
        }
        self.loaded = true;
        skreap::bpf::module::look().with_context(about)?;
        Ok(())
    }

    /// False if it is in use.
    pub fn unload(&mut self) -> Result<bool> {
        // SAFETY: the name ends with a nul and outlives the call.
        if unsafe { libc::syscall(libc::SYS_delete_module, NAME.as_ptr(), libc::O_NONBLOCK) } != 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(false)
            } else {
                Err(error).context("rmmod")
            };
        }
        self.loaded = false;
        Ok(true)
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        if !self.loaded
            && let Err(error) = self.load()
        {
            eprintln!("{error:#}");
        }
    }
}

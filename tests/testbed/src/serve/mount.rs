//! A socket that the kernel opens for itself and that is nobody's: that of a 9p mount.

use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::ptr;
use std::thread;

use super::trouble::{Answer, Context};
use crate::sys::check;

/// Begins to mount, and does not wait: mount(2) connects, asks the server which protocol it speaks, and returns when that
/// answers or its connection ends.
pub(super) fn start(server: SocketAddr) -> Answer<()> {
    let about = || format!("begin a 9p mount from {server}");
    let source = CString::new(server.ip().to_string()).map_err(io::Error::from).at(about)?;
    let options = format!("trans=tcp,port={},version=9p2000.L", server.port());
    let options = CString::new(options).map_err(io::Error::from).at(about)?;
    thread::Builder::new()
        .name("mount".to_owned())
        .spawn(move || {
            if let Err(error) = mount(&source, &options) {
                // The server has gone, as it does at the end of a test.
                eprintln!("9p mount from {server}: {error}");
            }
        })
        .map(drop)
        .at(about)
}

/// In a mount namespace of this thread, which ends with it.
fn mount(source: &CString, options: &CString) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: strings that end with a zero; flags and no other pointers.
    check(unsafe {
        libc::mount(ptr::null(), c"/".as_ptr(), ptr::null(), libc::MS_REC | libc::MS_PRIVATE, ptr::null())
    })?;
    // SAFETY: four strings that end with a zero and outlive the call.
    check(unsafe {
        libc::mount(source.as_ptr(), c"/proc".as_ptr(), c"9p".as_ptr(), 0, options.as_ptr().cast())
    })
    .map(drop)
}

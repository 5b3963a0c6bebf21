//! Version of the library that talks to the kernel.

use std::ffi::CStr;

/// Version of libbpf, as it calls itself: `v1.7`.
#[must_use]
pub fn libbpf_version() -> &'static str {
    // SAFETY: takes nothing; what it returns is never null.
    let version = unsafe { libbpf_sys::libbpf_version_string() };
    // SAFETY: a C string that libbpf keeps for good.
    unsafe { CStr::from_ptr(version) }.to_str().unwrap_or("unknown")
}

//! Opening and loading a compiled object, and its maps and programs by name.

use std::io;
use std::os::fd::AsFd as _;

use bytemuck::{AnyBitPattern, NoUninit};
use libbpf_rs::{
    IterOpts, Link, Map, MapCore, MapFlags, Object, ObjectBuilder, OpenObject, Program, ProgramMut,
};

use crate::error::{io_error, load_error};
use crate::fault::{self, Point};
use crate::mapping::Mapping;
use crate::{Error, log};

/// Opens a compiled object. The warnings of libbpf that an error shows are those since then.
///
/// # Errors
/// [`Error::Load`] if it is none.
pub fn open(object: &[u8]) -> Result<OpenObject, Error> {
    log::install();
    drop(log::take_warnings());
    ObjectBuilder::default().open_memory(object).map_err(load_error)
}

/// Loads an object.
pub(crate) fn load(open: OpenObject, point: Point) -> Result<Object, Error> {
    fault::at(point).map_err(|source| Error::Load { source, log: None })?;
    open.load().map_err(load_error)
}

/// The failure of a map or a program.
pub(crate) fn failure(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::Object { what, source }
}

/// A map by its name.
///
/// # Errors
/// `NotFound`.
pub fn map<'a>(object: &'a Object, name: &str) -> io::Result<Map<'a>> {
    object.maps().find(|map| map.name() == name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// A program by its name.
///
/// # Errors
/// `NotFound`.
pub fn program<'a>(object: &'a Object, name: &str) -> io::Result<Program<'a>> {
    object.progs().find(|program| program.name() == name).ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Attaches an iterator.
pub(crate) fn attach_iterator(object: &Object, name: &str, point: Point) -> Result<Link, Error> {
    let program = || -> io::Result<ProgramMut<'_>> {
        fault::at(point)?;
        object
            .progs_mut()
            .find(|program| program.name() == name)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    };
    program()
        .and_then(|program| program.attach_iter_with_opts(IterOpts::None).map_err(io_error))
        .map_err(failure(name))
}

/// The beginning of an element of an array map.
///
/// # Errors
/// The errno of the kernel; `UnexpectedEof` if there is no such element, or a shorter one.
pub fn read<T: AnyBitPattern>(map: &impl MapCore, index: u32) -> io::Result<T> {
    let value = map.lookup(&index.to_ne_bytes(), MapFlags::ANY).map_err(io_error)?;
    value.as_deref().and_then(prefix).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Writes an element of an array map.
///
/// # Errors
/// The errno of the kernel.
pub fn write<T: NoUninit>(map: &impl MapCore, index: u32, value: &T) -> io::Result<()> {
    map.update(&index.to_ne_bytes(), bytemuck::bytes_of(value), MapFlags::ANY).map_err(io_error)
}

/// Deletes these keys of a hash map, which may lack some of them.
///
/// # Errors
/// The errno of the kernel; the others were deleted then.
pub(crate) fn delete_all(map: &impl MapCore, keys: &[u64]) -> io::Result<()> {
    let count = keys.len() as u32;
    // The kernel stops at the first that is missing.
    if count == 0 || map.delete_batch(bytemuck::cast_slice(keys), count, MapFlags::ANY, MapFlags::ANY).is_ok()
    {
        return Ok(());
    }
    let mut deleted = Ok(());
    for key in keys {
        match map.delete(&key.to_ne_bytes()).map_err(io_error) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            one => deleted = deleted.and(one),
        }
    }
    deleted
}

/// The struct at the beginning of these bytes; `None` if they are too few.
pub(crate) fn prefix<T: AnyBitPattern>(bytes: &[u8]) -> Option<T> {
    bytes.get(..size_of::<T>()).map(bytemuck::pod_read_unaligned)
}

/// The memory of a map.
pub(crate) fn memory(object: &Object, name: &str, length: usize) -> Result<Mapping, Error> {
    map(object, name).and_then(|map| Mapping::new(map.as_fd(), length)).map_err(failure(name))
}

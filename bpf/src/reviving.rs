//! A number that outlives the process: destroyed sockets that wait for a second look.

use std::os::fd::AsFd as _;
use std::path::Path;

use libbpf_rs::{MapCore as _, MapFlags, MapHandle, MapType};

use crate::Error;
use crate::bpffs::{pin, pin_error, remove_file};
use crate::error::io_error;
use crate::fault::{self, Point};
use crate::object::failure;

const NAME: &str = "reviving";
const KEY: u32 = size_of::<u32>() as u32;
const VALUE: u32 = size_of::<u64>() as u32;

/// A pinned map with one number, which the next process finds however this one ends. See [`Pins`](crate::pin::Pins).
#[derive(Debug)]
pub struct RevivingCount(MapHandle);

impl RevivingCount {
    /// The number that is pinned here.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let opened = fault::at(Point::PinOpen)
            .and_then(|()| MapHandle::from_pinned_path(path).map_err(io_error))
            .map_err(|e| pin_error(path, e))?;
        let fits = opened.map_type() == MapType::Array
            && (opened.key_size(), opened.value_size(), opened.max_entries()) == (KEY, VALUE, 1);
        if fits { Ok(Self(opened)) } else { Err(pin_error(path, std::io::ErrorKind::InvalidData.into())) }
    }

    /// Pins a new one here, which is 0, in place of what there may be.
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let options = libbpf_sys::bpf_map_create_opts {
            sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
            ..libbpf_sys::bpf_map_create_opts::default()
        };
        let created = MapHandle::create(MapType::Array, Some(NAME), KEY, VALUE, 1, &options);
        let map = created.map_err(io_error).map_err(failure(NAME))?;
        remove_file(path)?;
        pin(map.as_fd(), path)?;
        Ok(Self(map))
    }

    /// The number.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn get(&self) -> Result<u64, Error> {
        let value =
            self.0.lookup(&[0; KEY as usize], MapFlags::ANY).map_err(io_error).map_err(failure(NAME))?;
        Ok(value.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_ne_bytes))
    }

    /// Changes it.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn set(&self, sockets: u64) -> Result<(), Error> {
        let updated = self.0.update(&[0; KEY as usize], &sockets.to_ne_bytes(), MapFlags::ANY);
        updated.map_err(io_error).map_err(failure(NAME))
    }
}

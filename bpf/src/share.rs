//! Other objects on the maps of an index.

use std::io;
use std::mem::offset_of;
use std::os::fd::AsFd as _;

use libbpf_rs::{MapCore as _, Object, OpenObject};

use crate::Error;
use crate::bpffs;
use crate::error::io_error;
use crate::object::failure;
use crate::shape::Shape;
use crate::skel::select_types::rodata;

/// Sets the sizes and the seed of the index.
pub(crate) fn constants(open: &mut OpenObject, shape: &Shape) -> Result<(), Error> {
    let map = open.maps_mut().find(|m| m.name().to_string_lossy().ends_with(".rodata"));
    let mut map = map.ok_or_else(|| failure(".rodata")(io::ErrorKind::NotFound.into()))?;
    let data = map.initial_value_mut().ok_or_else(|| failure(".rodata")(io::ErrorKind::NotFound.into()))?;
    let layout = &shape.layout;
    let words = [
        (offset_of!(rodata, cfg_nodes), layout.nodes),
        (offset_of!(rodata, cfg_record_slots), layout.record_slots),
        (offset_of!(rodata, cfg_record_bits), layout.record_slots.trailing_zeros()),
        (offset_of!(rodata, cfg_buckets), layout.buckets),
        (offset_of!(rodata, cfg_all_buckets), layout.all_buckets()),
        (offset_of!(rodata, cfg_all_records), layout.all_records()),
        (offset_of!(rodata, cfg_shards), layout.shards),
        (offset_of!(rodata, cfg_shard_bits), layout.shards.trailing_zeros()),
        (offset_of!(rodata, cfg_max_memberships), layout.max_memberships),
        (offset_of!(rodata, cfg_refs), shape.cfg().refs),
    ];
    let seed = (offset_of!(rodata, cfg_seed), shape.cfg().seed.to_ne_bytes().to_vec());
    for (at, bytes) in words.into_iter().map(|(at, word)| (at, word.to_ne_bytes().to_vec())).chain([seed]) {
        data.get_mut(at..at + bytes.len())
            .ok_or_else(|| failure(".rodata")(io::ErrorKind::UnexpectedEof.into()))?
            .copy_from_slice(&bytes);
    }
    Ok(())
}

/// Puts the maps of the index in place of those with the same name.
pub(crate) fn maps(open: &mut OpenObject, index: &Object) -> Result<(), Error> {
    for mut map in open.maps_mut() {
        let name = map.name().to_owned();
        // Constants, and data of the process, are the object's own.
        if bpffs::pin_name(&name).is_none() {
            continue;
        }
        if let Some(shared) = index.maps().find(|m| m.name() == name) {
            map.reuse_fd(shared.as_fd()).map_err(|e| failure(name.to_string_lossy())(io_error(e)))?;
        }
    }
    Ok(())
}

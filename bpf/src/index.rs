//! Loading the programs and reading what the index counted.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use libbpf_rs::{AsRawLibbpf as _, MapCore as _, MapFlags, Object, ObjectBuilder, OpenObject};

use crate::config::Layout;
use crate::error::{io_error, load_error};
use crate::mapping::Mapping;
use crate::skel::{OBJECT, types};
use crate::walk::{Slots, Walker, run};
use crate::{Config, Counters, Error, log};

/// `SKREAP_ABI_VERSION` this library was written for.
const ABI_VERSION: u32 = 1;
/// `CHUNK` of `index.bpf.h`.
const CHUNK: u64 = 64;
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The loaded programs and maps. Dropping it detaches nothing by itself: the hooks live as long as their
/// [`Hooks`](crate::hooks::Hooks).
#[derive(Debug)]
pub struct Index {
    object: Object,
    layout: Layout,
    abi: types::skreap_abi,
    counters: Mapping,
    emit: Arc<Mapping>,
    slots: Arc<Slots>,
}

impl Index {
    /// Loads programs and maps and makes every node free. The hooks are not attached yet.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes out of range; [`Error::Unsupported`] and [`Error::Denied`] if this kernel
    /// or these privileges cannot; [`Error::Load`] with the verifier's words for anything else.
    pub fn load(config: &Config) -> Result<Self, Error> {
        log::install();
        if !Path::new(BTF).exists() {
            return Err(Error::Unsupported {
                missing: format!("BTF ({BTF})"),
                remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
            });
        }
        // Warnings of an earlier attempt are not about this one.
        drop(log::take_warnings());
        let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(load_error)?;
        let rodata = open_rodata(&mut open)?;
        let abi = rodata.abi;
        if abi.version != ABI_VERSION {
            return Err(Error::Abi { found: abi.version, expected: ABI_VERSION });
        }
        let cpus = u32::try_from(libbpf_rs::num_possible_cpus().unwrap_or(1)).unwrap_or(1);
        let layout = Layout::new(config, cpus, abi.walk_slots)?;
        rodata.cfg_nodes = layout.nodes;
        rodata.cfg_record_slots = layout.record_slots;
        rodata.cfg_record_bits = layout.record_slots.trailing_zeros();
        rodata.cfg_buckets = layout.buckets;
        rodata.cfg_all_buckets = layout.all_buckets();
        rodata.cfg_all_records = layout.all_records();
        rodata.cfg_shards = layout.shards;
        rodata.cfg_shard_bits = layout.shards.trailing_zeros();
        rodata.cfg_max_memberships = layout.max_memberships;
        rodata.cfg_seed = random_seed()?;
        resize(&mut open, &layout)?;

        let object = open.load().map_err(load_error)?;
        let counters = map_memory(&object, ".bss.counters", size_of::<types::bss_counters>())?;
        let emit_bytes = (abi.walk_slots * abi.emit_max) as usize * size_of::<types::skreap_victim>();
        let emit = map_memory(&object, ".bss.emit", emit_bytes)?;
        let index = Self {
            object,
            layout,
            abi,
            counters,
            emit: Arc::new(emit),
            slots: Arc::new(Slots::new(abi.walk_slots)),
        };
        run(index.program("skreap_init")?, &mut [])
            .map_err(|source| Error::Object { what: "program skreap_init".to_owned(), source })?;
        Ok(index)
    }

    /// A walker with a slot of its own. At most four exist at once.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if all slots are taken.
    pub fn walker(&self) -> Result<Walker, Error> {
        let fd: OwnedFd = self.program("skreap_walk")?.try_clone_to_owned().map_err(Error::Walk)?;
        Walker::new(fd, Arc::clone(&self.emit), Arc::clone(&self.slots), &self.abi)
    }

    /// Snapshot of the counters.
    ///
    /// # Errors
    /// [`Error::Object`] if a map cannot be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut globals: Vec<types::bss_counters> = Vec::new();
        // SAFETY: bss_counters is made of integers only.
        unsafe { self.counters.copy_to(0, 1, &mut globals) }.map_err(|e| object_error(".bss.counters", e))?;
        let mut c =
            Counters { capacity: self.layout.usable_nodes(self.abi.walk_slots), ..Counters::default() };
        for g in &globals {
            for cpu in &g.cpu_counters {
                c.releases_without_node += cpu.releases_without_node;
                c.releases_without_cookie += cpu.releases_without_cookie;
            }
            c.dropped_full = g.counters.dropped_full;
            c.dropped_chain = g.counters.dropped_chain;
            c.ignored_kernel = g.counters.ignored_kernel;
            c.ignored_protocol = g.counters.ignored_protocol;
            c.wide = g.counters.wide;
            c.stale = g.counters.stale;
        }
        for i in 0..self.layout.shards {
            let shard: types::shard = self.read_element("shards", i)?;
            c.inserts += shard.n.inserts;
            c.removals += shard.n.removals;
            c.releases += shard.n.releases;
            c.free_nodes += u64::from(shard.nr_free) + if shard.spare == 0 { 0 } else { CHUNK };
        }
        let depot: types::depot = self.read_element("depots", 0)?;
        c.free_nodes += u64::from(depot.chunks) * CHUNK;
        Ok(c)
    }

    /// Memberships that always find room.
    #[must_use]
    pub fn max_sockets(&self) -> u32 {
        self.layout.max_sockets
    }

    /// Bytes of kernel memory taken by the maps that grow with the index.
    ///
    /// # Errors
    /// [`Error::Object`] if a map cannot be asked.
    pub fn map_bytes(&self) -> Result<u64, Error> {
        let mut bytes = 0;
        for map in self.object.maps() {
            let info = map.info().map_err(|e| object_error("map info", io_error(e)))?;
            let value = u64::from(info.info.value_size).next_multiple_of(8);
            bytes += value * u64::from(info.info.max_entries);
        }
        Ok(bytes)
    }

    pub(crate) fn object(&self) -> &Object {
        &self.object
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        let program = self.object.progs().find(|p| p.name() == OsStr::new(name));
        let program = program.ok_or_else(|| object_error(name, io::ErrorKind::NotFound.into()))?;
        // SAFETY: the descriptor belongs to the object, which outlives the borrow of self.
        Ok(unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&program.as_fd())) })
    }

    fn read_element<T: Copy>(&self, map: &str, index: u32) -> Result<T, Error> {
        let found = self.object.maps().find(|m| m.name() == OsStr::new(map));
        let found = found.ok_or_else(|| object_error(map, io::ErrorKind::NotFound.into()))?;
        let value = found
            .lookup(&index.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| object_error(map, io_error(e)))?
            .filter(|v| v.len() >= size_of::<T>())
            .ok_or_else(|| object_error(map, io::ErrorKind::UnexpectedEof.into()))?;
        // SAFETY: the value is at least as long as T, which is a struct of integers from the skeleton.
        Ok(unsafe { value.as_ptr().cast::<T>().read_unaligned() })
    }
}

fn object_error(what: &str, source: io::Error) -> Error {
    Error::Object { what: what.to_owned(), source }
}

fn open_rodata(open: &mut OpenObject) -> Result<&mut types::rodata, Error> {
    let map = open
        .maps_mut()
        .find(|m| m.name().to_string_lossy().ends_with(".rodata"))
        .ok_or_else(|| object_error(".rodata", io::ErrorKind::NotFound.into()))?;
    let bytes = map.as_libbpf_object();
    let mut length = 0;
    // SAFETY: the map belongs to the open object; libbpf returns its initial value, or null.
    let data = unsafe { libbpf_sys::bpf_map__initial_value(bytes.as_ptr(), &mut length) };
    // The section ends with its last member, the Rust struct with its alignment; both lie in one page.
    let length = length.next_multiple_of(align_of::<types::rodata>() as u64);
    if data.is_null() || length < size_of::<types::rodata>() as u64 {
        return Err(object_error(".rodata", io::ErrorKind::UnexpectedEof.into()));
    }
    // SAFETY: libbpf maps the initial value page-aligned, it is as long as the generated struct (checked),
    // consists of integers, and lives until the object, which is borrowed for as long, is loaded.
    Ok(unsafe { &mut *data.cast::<types::rodata>() })
}

fn resize(open: &mut OpenObject, layout: &Layout) -> Result<(), Error> {
    let words = |n: u32| n.checked_mul(4);
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let bytes = match name.as_str() {
            ".bss.pool" => layout.nodes.checked_mul(size_of::<types::node>() as u32),
            ".bss.records" => words(layout.all_records()),
            ".bss.buckets" => words(layout.all_buckets()),
            "shards" => {
                map.set_max_entries(layout.shards).map_err(|e| object_error(&name, io_error(e)))?;
                continue;
            }
            _ => continue,
        };
        let bytes = bytes.ok_or(Error::Config {
            what: "max_sockets",
            value: layout.max_sockets,
            range: "as many as fit in a map of 4 GiB",
        })?;
        map.set_value_size(bytes).map_err(|e| object_error(&name, io_error(e)))?;
    }
    Ok(())
}

fn map_memory(object: &Object, name: &str, length: usize) -> Result<Mapping, Error> {
    let map = object
        .maps()
        .find(|m| m.name() == OsStr::new(name))
        .ok_or_else(|| object_error(name, io::ErrorKind::NotFound.into()))?;
    Mapping::new(map.as_fd(), length).map_err(|e| object_error(name, e))
}

fn random_seed() -> Result<u64, Error> {
    let mut seed = [0; 8];
    // SAFETY: the buffer is as long as is said.
    let n = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if n != 8 {
        return Err(object_error("seed (getrandom)", io::Error::last_os_error()));
    }
    // Odd, because it is a factor too.
    Ok(u64::from_ne_bytes(seed) | 1)
}

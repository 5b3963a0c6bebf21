//! Loading the programs and reading the counters of the index.

use std::ffi::OsStr;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use libbpf_rs::{AsRawLibbpf as _, MapCore as _, MapFlags, Object, ObjectBuilder, OpenObject};

use crate::bpffs;
use crate::config::Layout;
use crate::error::{io_error, load_error};
use crate::fault::{self, Point};
use crate::incompatible::{Incompatible, Obstacle};
use crate::mapping::Mapping;
use crate::module::{self, ModuleError};
use crate::skel::{OBJECT, types};
use crate::walk::{Emit, Slots, Walker, run};
use crate::{Config, Counters, Error, Marker, Marks, Rekeyer, log};

/// `SKREAP_ABI_VERSION` of this library: a program in another language passes it to the pinned walk
/// program.
pub const ABI_VERSION: u32 = 3;
/// `SKREAP_LAYOUT_VERSION` this library was written for.
const LAYOUT_VERSION: u32 = 3;
/// `CHUNK` of `index.bpf.h`.
const CHUNK: u64 = 64;
/// The counters occupy whole pages, so that a later version can add counters in the same memory.
const COUNTER_PAGE: usize = 4096;
/// Holds the facts that a later version needs to take over an index.
const CFG: &str = "cfg";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// The loaded programs and maps. Dropping it does not detach the hooks: they live as long as their
/// [`Hooks`](crate::hooks::Hooks).
#[derive(Debug)]
pub struct Index {
    object: Object,
    shape: Shape,
    counters: Mapping,
    notes: Mapping,
    emit: Arc<Emit>,
    /// Whether walks can destroy.
    destroys: Result<(), ModuleError>,
    slots: Arc<Slots>,
}

impl Index {
    /// Loads programs and maps and puts every node on a free list. The hooks are not attached yet.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes out of range; [`Error::Unsupported`] and [`Error::Denied`] if
    /// this kernel or these privileges cannot; [`Error::Load`] with the verifier's words for
    /// anything else.
    pub fn load(config: &Config) -> Result<Self, Error> {
        if !config.hold {
            return Self::load_with(config, Err(ModuleError::NotUsed));
        }
        if let Err(why) = module::look() {
            return Self::load_with(config, Err(why));
        }
        match Self::load_with(config, Ok(())) {
            Err(e) if !e.cannot() => {
                tracing::warn!("loading without the kernel module, because loading with it failed: {e}");
                Self::load_with(config, Err(ModuleError::Refused(e.to_string())))
            }
            loaded => loaded,
        }
    }

    /// `destroys`: whether with references to the sockets, or why without.
    fn load_with(config: &Config, destroys: Result<(), ModuleError>) -> Result<Self, Error> {
        let (open, shape) = prepare(config, None, destroys.is_ok())?;
        fault::at(Point::Load).map_err(|source| Error::Load { source, log: None })?;
        let index = Self::of(open.load().map_err(load_error)?, shape, destroys)?;
        let init = index.program("skreap_init")?;
        fault::at(Point::Init)
            .and_then(|()| run(init, &mut []))
            .map_err(|source| Error::Object { what: "program skreap_init".to_owned(), source })?;
        index.write_cfg(&index.shape.cfg())?;
        Ok(index)
    }

    /// Loads the programs on the maps pinned in a directory, if they equal the maps that this
    /// program would create itself.
    ///
    /// # Errors
    /// [`Obstacle::Incompatible`] if they are not; otherwise as [`load`](Self::load).
    pub(crate) fn take_over(config: &Config, maps: &Path) -> Result<Self, Obstacle> {
        let pinned = pinned_cfg(maps)?;
        // With or without references, as the maps were created: the module may have been loaded or
        // unloaded since.
        let held = pinned.held != 0;
        let destroys = if held { Ok(()) } else { Err(ModuleError::NotUsed) };
        let (mut open, shape) = prepare(config, Some(pinned.seed), held)?;
        shape.same_as(&pinned)?;
        reuse_maps(&mut open, maps)?;
        fault::at(Point::PinReload).map_err(|e| Incompatible::Load(e.to_string()))?;
        let object = open.load().map_err(|e| Incompatible::Load(load_error(e).to_string()))?;
        Ok(Self::of(object, shape, destroys)?)
    }

    fn of(object: Object, shape: Shape, destroys: Result<(), ModuleError>) -> Result<Self, Error> {
        let abi = shape.abi;
        let counters = map_memory(&object, ".bss.counters", size_of::<types::bss_counters>())?;
        let notes = map_memory(&object, ".bss.kernel", size_of::<types::skreap_kernel_notes>())?;
        let emitted = (abi.walk_slots * abi.emit_max) as usize;
        let emit = Arc::new(Emit {
            victims: map_memory(&object, ".bss.emit", emitted * size_of::<types::skreap_victim>())?,
            results: map_memory(&object, ".bss.results", emitted * size_of::<i32>())?,
        });
        let slots = Arc::new(Slots::new(abi.walk_slots));
        let mut index = Self { object, shape, counters, notes, emit, destroys, slots };
        if index.destroys.is_ok() {
            index.destroys = index.functions()?;
        }
        Ok(index)
    }

    /// Pins every map with state into a directory.
    pub(crate) fn pin_maps(&self, directory: &Path) -> Result<(), Error> {
        for map in self.object.maps() {
            if let Some(name) = bpffs::pin_name(map.name()) {
                bpffs::pin(map.as_fd(), &directory.join(name))?;
            }
        }
        Ok(())
    }

    /// Pins the walk program.
    pub(crate) fn pin_walk(&self, path: &Path) -> Result<(), Error> {
        bpffs::pin(self.program("skreap_walk")?, path)
    }

    /// Whether walks of this index can destroy sockets ([`Walker::destroy`]).
    ///
    /// # Errors
    /// [`ModuleError`]: why not.
    pub fn can_destroy(&self) -> Result<(), ModuleError> {
        self.destroys.clone()
    }

    /// The functions of the module that the programs found when they were loaded.
    fn functions(&self) -> Result<Result<(), ModuleError>, Error> {
        let mut found = types::skreap_functions::default();
        // SAFETY: the struct is integers without padding (asserted in abi.h), and any bytes are a
        // value of it.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                std::ptr::from_mut(&mut found).cast::<u8>(),
                size_of::<types::skreap_functions>(),
            )
        };
        run(self.program("skreap_functions")?, bytes)
            .map_err(|source| Error::Object { what: "program skreap_functions".to_owned(), source })?;
        let functions = [found.acquire, found.release, found.destroy].into_iter().zip(module::FUNCTIONS);
        Ok(match functions.into_iter().find(|(found, _)| *found == 0) {
            None => Ok(()),
            Some((_, missing)) => Err(ModuleError::OtherVersion { missing }),
        })
    }

    fn globals(&self) -> Result<types::bss_counters, Error> {
        let mut globals: Vec<types::bss_counters> = Vec::with_capacity(1);
        // SAFETY: bss_counters is made of integers only.
        unsafe { self.counters.copy_to(0, 1, &mut globals) }.map_err(|e| object_error(".bss.counters", e))?;
        globals.pop().ok_or_else(|| object_error(".bss.counters", io::ErrorKind::UnexpectedEof.into()))
    }

    /// A walker with a slot of its own. At most eight exist at once.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if all slots are taken.
    pub fn walker(&self) -> Result<Walker, Error> {
        let fd: OwnedFd = self.program("skreap_walk")?.try_clone_to_owned().map_err(Error::Walk)?;
        Walker::new(fd, Arc::clone(&self.emit), Arc::clone(&self.slots), &self.shape.abi)
    }

    /// Records sockets under the peer they really have, see [`crate::order`].
    ///
    /// # Errors
    /// [`Error::Object`] if the program is missing.
    pub fn rekeyer(&self) -> Result<Rekeyer, Error> {
        let fd = self.program("skreap_rekey")?.try_clone_to_owned().map_err(Error::Rekey)?;
        Ok(Rekeyer::new(fd, self.shape.abi.version))
    }

    /// Snapshot of the counters.
    ///
    /// # Errors
    /// [`Error::Object`] if a map cannot be read.
    pub fn counters(&self) -> Result<Counters, Error> {
        let globals = self.globals()?;
        let mut c = Counters {
            capacity: self.shape.layout.usable_nodes(self.shape.abi.walk_slots),
            ..Counters::default()
        };
        for cpu in &globals.cpu_counters {
            c.releases_without_node += cpu.releases_without_node;
            c.releases_without_cookie += cpu.releases_without_cookie;
        }
        c.dropped_full = globals.counters.dropped_full;
        c.dropped_chain = globals.counters.dropped_chain;
        c.ignored_kernel = globals.counters.ignored_kernel;
        c.ignored_protocol = globals.counters.ignored_protocol;
        c.wide = globals.counters.wide;
        c.stale = globals.counters.stale;
        c.not_held = globals.counters.not_held;
        c.last_stale = globals.counters.last_stale;
        for i in 0..self.shape.layout.shards {
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

    /// The parts of the index that may be incomplete.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn marks(&self) -> Result<Marks, Error> {
        let state: types::skreap_marks_state = self.read_element(".bss.incomplete", 0)?;
        let count = |words: &mut dyn Iterator<Item = u32>| words.map(|w| u64::from(w.count_ones())).sum();
        let (first, second) = state.backends.split_at(state.backends.len() / 2);
        Ok(Marks {
            backends: count(&mut first.iter().zip(second).map(|(a, b)| a | b)),
            everything: state.everything != [0; 2],
            sent: count(&mut state.sent.iter().copied()),
        })
    }

    /// True if a socket of the kernel's own has connected since the index was made, to whatever backend.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn kernel_sockets_seen(&self) -> Result<bool, Error> {
        let mut any: Vec<u32> = Vec::with_capacity(1);
        let at = offset_of!(types::skreap_kernel_notes, any) / size_of::<u32>();
        // SAFETY: an integer.
        unsafe { self.notes.copy_to(at, 1, &mut any) }.map_err(|e| object_error(".bss.kernel", e))?;
        Ok(any.first().is_some_and(|any| *any != 0))
    }

    /// Sets and clears marks.
    ///
    /// # Errors
    /// [`Error::Object`] if the program is missing.
    pub fn marker(&self) -> Result<Marker, Error> {
        let fd = self.program("skreap_mark")?.try_clone_to_owned().map_err(Error::Mark)?;
        Ok(Marker::new(fd, self.shape.abi.version))
    }

    /// Memberships that always find room.
    #[must_use]
    pub fn max_sockets(&self) -> u32 {
        self.shape.layout.max_sockets
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

    /// True if the search for sockets older than the hooks has been done.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be read.
    pub fn is_bootstrapped(&self) -> Result<bool, Error> {
        Ok(self.read_element::<types::skreap_cfg>(CFG, 0)?.bootstrapped != 0)
    }

    /// Stores that it has been done; a process that takes over need not search again.
    ///
    /// # Errors
    /// [`Error::Object`] if the map cannot be written.
    pub fn set_bootstrapped(&self) -> Result<(), Error> {
        self.write_cfg(&types::skreap_cfg { bootstrapped: 1, ..self.shape.cfg() })
    }

    fn write_cfg(&self, cfg: &types::skreap_cfg) -> Result<(), Error> {
        // SAFETY: the struct is made of integers, its members fill its size (asserted in abi.h).
        let bytes = unsafe {
            std::slice::from_raw_parts(std::ptr::from_ref(cfg).cast::<u8>(), size_of::<types::skreap_cfg>())
        };
        fault::at(Point::MapWrite).map_err(|e| object_error(CFG, e))?;
        let map = self.object.maps().find(|m| m.name() == OsStr::new(CFG));
        map.ok_or_else(|| object_error(CFG, io::ErrorKind::NotFound.into()))?
            .update(&0_u32.to_ne_bytes(), bytes, MapFlags::ANY)
            .map_err(|e| object_error(CFG, io_error(e)))
    }

    /// The loaded object.
    #[doc(hidden)]
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn program(&self, name: &str) -> Result<BorrowedFd<'_>, Error> {
        let program = self.object.progs().find(|p| p.name() == OsStr::new(name));
        let program = program.ok_or_else(|| object_error(name, io::ErrorKind::NotFound.into()))?;
        // SAFETY: the descriptor belongs to the object, which outlives the borrow of self.
        Ok(unsafe { BorrowedFd::borrow_raw(std::os::fd::AsRawFd::as_raw_fd(&program.as_fd())) })
    }

    fn read_element<T: Copy>(&self, map: &str, index: u32) -> Result<T, Error> {
        fault::at(Point::MapRead).map_err(|e| object_error(map, e))?;
        let found = self.object.maps().find(|m| m.name() == OsStr::new(map));
        let found = found.ok_or_else(|| object_error(map, io::ErrorKind::NotFound.into()))?;
        let value = found
            .lookup(&index.to_ne_bytes(), MapFlags::ANY)
            .map_err(|e| object_error(map, io_error(e)))?
            .filter(|v| v.len() >= size_of::<T>())
            .ok_or_else(|| object_error(map, io::ErrorKind::UnexpectedEof.into()))?;
        // SAFETY: the value is at least as long as T, which is a struct of integers from the
        // skeleton.
        Ok(unsafe { value.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// Everything that defines an index: two with the same shape have the same memory.
#[derive(Clone, Copy, Debug)]
struct Shape {
    layout: Layout,
    abi: types::skreap_abi,
    seed: u64,
    /// References to sockets are held.
    held: bool,
}

impl Shape {
    fn cfg(&self) -> types::skreap_cfg {
        types::skreap_cfg {
            layout: self.abi.layout,
            nodes: self.layout.nodes,
            seed: self.seed,
            shards: self.layout.shards,
            record_slots: self.layout.record_slots,
            buckets: self.layout.buckets,
            max_memberships: self.layout.max_memberships,
            max_sockets: self.layout.max_sockets,
            bootstrapped: 0,
            held: self.held.into(),
            padding: 0,
        }
    }

    fn same_as(&self, pinned: &types::skreap_cfg) -> Result<(), Incompatible> {
        let own = self.cfg();
        for (what, found, wanted) in [
            ("max_sockets", pinned.max_sockets, own.max_sockets),
            ("buckets", pinned.buckets, own.buckets),
            ("max_memberships", pinned.max_memberships, own.max_memberships),
            ("number of shards", pinned.shards, own.shards),
            ("number of record slots", pinned.record_slots, own.record_slots),
            ("number of nodes", pinned.nodes, own.nodes),
        ] {
            if found != wanted {
                return Err(Incompatible::Size { what, found, wanted });
            }
        }
        Ok(())
    }
}

/// The configuration stored in a pinned index, if its layout is the one known here.
fn pinned_cfg(maps: &Path) -> Result<types::skreap_cfg, Incompatible> {
    let value = bpffs::read_first(maps, CFG)?;
    let found = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    if found != LAYOUT_VERSION || value.len() < size_of::<types::skreap_cfg>() {
        return Err(Incompatible::Layout { found, expected: LAYOUT_VERSION });
    }
    // SAFETY: the value is at least as long as the struct, which is made of integers.
    Ok(unsafe { value.as_ptr().cast::<types::skreap_cfg>().read_unaligned() })
}

/// Opens the object and sets all sizes; the seed of a pinned index must stay the same.
fn prepare(config: &Config, seed: Option<u64>, held: bool) -> Result<(OpenObject, Shape), Error> {
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
    for (found, expected) in [(abi.version, ABI_VERSION), (abi.layout, LAYOUT_VERSION)] {
        if found != expected {
            return Err(Error::Abi { found, expected });
        }
    }
    let cpus = u32::try_from(libbpf_rs::num_possible_cpus().unwrap_or(1)).unwrap_or(1);
    let layout = Layout::new(config, cpus, abi.walk_slots)?;
    let seed = seed.map_or_else(random_seed, Ok)?;
    rodata.cfg_nodes = layout.nodes;
    rodata.cfg_record_slots = layout.record_slots;
    rodata.cfg_record_bits = layout.record_slots.trailing_zeros();
    rodata.cfg_buckets = layout.buckets;
    rodata.cfg_all_buckets = layout.all_buckets();
    rodata.cfg_all_records = layout.all_records();
    rodata.cfg_shards = layout.shards;
    rodata.cfg_shard_bits = layout.shards.trailing_zeros();
    rodata.cfg_max_memberships = layout.max_memberships;
    rodata.cfg_held = held.into();
    rodata.cfg_seed = seed;
    resize(&mut open, &layout, held)?;
    Ok((open, Shape { layout, abi, seed, held }))
}

/// Takes every map with state from the pins. A pin without a map here is from a version that knows
/// more.
fn reuse_maps(open: &mut OpenObject, maps: &Path) -> Result<(), Obstacle> {
    let mut left = bpffs::names(maps)?;
    for mut map in open.maps_mut() {
        if let Some(name) = bpffs::pin_name(map.name()) {
            bpffs::reuse(&mut map, maps, &name)?;
            left.retain(|pinned| *pinned != name);
        }
    }
    match left.pop() {
        Some(name) => Err(Incompatible::Map { name, why: "is not known here".to_owned() }.into()),
        None => Ok(()),
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
    // The section ends with its last member, the Rust struct with its alignment; both lie in one
    // page.
    let length = length.next_multiple_of(align_of::<types::rodata>() as u64);
    if data.is_null() || length < size_of::<types::rodata>() as u64 {
        return Err(object_error(".rodata", io::ErrorKind::UnexpectedEof.into()));
    }
    // SAFETY: libbpf maps the initial value page-aligned; it is as long as the generated struct
    // (checked), consists of integers, and lives until the object is loaded; the object is borrowed
    // until then.
    Ok(unsafe { &mut *data.cast::<types::rodata>() })
}

fn resize(open: &mut OpenObject, layout: &Layout, hold: bool) -> Result<(), Error> {
    let words = |n: u32| n.checked_mul(4);
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let bytes = match name.as_str() {
            ".bss.pool" => layout.nodes.checked_mul(size_of::<types::node>() as u32),
            ".bss.records" => words(layout.all_records()),
            ".bss.buckets" => words(layout.all_buckets()),
            ".bss.counters" => {
                u32::try_from(size_of::<types::bss_counters>().next_multiple_of(COUNTER_PAGE)).ok()
            }
            "shards" => {
                map.set_max_entries(layout.shards).map_err(|e| object_error(&name, io_error(e)))?;
                continue;
            }
            "held" if hold => {
                map.set_max_entries(layout.nodes).map_err(|e| object_error(&name, io_error(e)))?;
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
    // SAFETY: the buffer is as long as stated.
    let n = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if n != 8 {
        return Err(object_error("seed (getrandom)", io::Error::last_os_error()));
    }
    // Odd, because it is a factor too.
    Ok(u64::from_ne_bytes(seed) | 1)
}

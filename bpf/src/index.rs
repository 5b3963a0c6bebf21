//! Loading the programs and reading the counters of the index.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use bytemuck::AnyBitPattern;
use libbpf_rs::{MapCore as _, Object, Program};

use crate::bpffs;
use crate::error::{io_error, load_error};
use crate::fault::{self, Point};
use crate::frontends::Frontends;
use crate::incompatible::{Incompatible, Obstacle};
use crate::mapping::Mapping;
use crate::module::{self, Functions, ModuleError};
use crate::object::{self, failure};
use crate::prog::run;
use crate::shape::{CFG, Shape, pinned_cfg, prepare, refs_of, resize, reuse_maps};
use crate::share;
use crate::skel::types;
use crate::walk::{Emit, Slots, Walker};
use crate::watched::Watched;
use crate::{Config, Counters, Error, IncompleteBits, IncompleteWriter, Rekeyer, SentLooker};

/// `CHUNK` of `index.bpf.h`.
const CHUNK: u64 = 64;

/// The loaded programs and maps. Dropping it does not detach the hooks: they live as long as their
/// [`Hooks`](crate::hooks::Hooks).
#[derive(Debug)]
pub struct Index {
    object: Object,
    shape: Shape,
    counters: Mapping,
    notes: Mapping,
    emit: Arc<Emit>,
    frontends: Option<Arc<Frontends>>,
    /// Whether walks can destroy.
    destroys: Result<(), ModuleError>,
    slots: Arc<Slots>,
    watched: Watched,
}

impl Index {
    /// Loads programs and maps and puts every node on a free list. The hooks are not attached yet.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes out of range; [`Error::Unsupported`] and [`Error::Denied`] if
    /// this kernel or these privileges cannot; [`Error::Load`] with the verifier's words for
    /// anything else.
    pub fn load(config: &Config) -> Result<Self, Error> {
        if !config.refs {
            return Self::load_with(config, Err(ModuleError::NotUsed));
        }
        let functions = match module::look() {
            Ok(functions) => functions,
            Err(why) => return Self::load_with(config, Err(why)),
        };
        match Self::load_with(config, Ok(functions)) {
            Err(e) if !e.cannot() => {
                tracing::warn!("loading without {functions}, because loading with it failed: {e}");
                Self::load_with(config, Err(ModuleError::Refused(e.to_string())))
            }
            loaded => loaded,
        }
    }

    /// `destroys`: whose references to the sockets are held, or why none.
    fn load_with(config: &Config, destroys: Result<Functions, ModuleError>) -> Result<Self, Error> {
        let (open, shape) = prepare(config, None, destroys.as_ref().ok().copied())?;
        let index = Self::of(object::load(open, Point::Load)?, shape, destroys)?;
        let init = index.program("skreap_init")?;
        fault::at(Point::Init)
            .and_then(|()| run(init.as_fd(), &mut ()))
            .map_err(failure("program skreap_init"))?;
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
        let refs = refs_of(pinned.refs);
        let destroys = refs.ok_or(ModuleError::NotUsed);
        let (mut open, shape) = prepare(config, Some(pinned.seed), refs)?;
        shape.same_as(&pinned)?;
        reuse_maps(&mut open, maps)?;
        fault::at(Point::PinReload).map_err(|e| Incompatible::Load(e.to_string()))?;
        let object = open.load().map_err(|e| Incompatible::Load(load_error(e).to_string()))?;
        Ok(Self::of(object, shape, destroys)?)
    }

    fn of(object: Object, shape: Shape, destroys: Result<Functions, ModuleError>) -> Result<Self, Error> {
        let abi = shape.abi;
        let counters = object::memory(&object, ".bss.counters", size_of::<types::bss_counters>())?;
        let notes = object::memory(&object, ".bss.kernel", size_of::<types::skreap_kernel_notes>())?;
        let emitted = (abi.walk_slots * abi.emit_max) as usize;
        let emit = Arc::new(Emit {
            victims: object::memory(&object, ".bss.emit", emitted * size_of::<types::skreap_victim>())?,
            results: object::memory(&object, ".bss.results", emitted * size_of::<i32>())?,
        });
        let slots = Arc::new(Slots::new(abi.walk_slots));
        let frontends = Frontends::of(&object, abi.version, shape.layout.frontends, abi.walk_slots, emitted)?;
        let (destroys_yet, watched) = (Ok(()), Watched::default());
        let mut index =
            Self { object, shape, counters, notes, emit, frontends, destroys: destroys_yet, slots, watched };
        index.destroys = match destroys {
            Ok(functions) => index.has(functions)?,
            Err(why) => Err(why),
        };
        Ok(index)
    }

    /// Prepares another object to be loaded on the maps of this index.
    pub(crate) fn share(&self, open: &mut libbpf_rs::OpenObject) -> Result<(), Error> {
        share::constants(open, &self.shape)?;
        resize(open, &self.shape.layout, None)?;
        share::maps(open, &self.object)
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
        bpffs::pin(self.program("skreap_walk")?.as_fd(), path)
    }

    /// Whether walks of this index can destroy sockets ([`Walker::destroy`]).
    ///
    /// # Errors
    /// [`ModuleError`]: why not.
    pub fn can_destroy(&self) -> Result<(), ModuleError> {
        self.destroys.clone()
    }

    /// Whether the programs found all of these functions when they were loaded.
    fn has(&self, functions: Functions) -> Result<Result<(), ModuleError>, Error> {
        let mut found = types::skreap_functions::default();
        run(self.program("skreap_functions")?.as_fd(), &mut found)
            .map_err(failure("program skreap_functions"))?;
        let mut found = [found.acquire, found.release, found.destroy].into_iter().zip(functions.names());
        Ok(match found.find(|(found, _)| *found == 0) {
            None => Ok(()),
            Some((_, missing)) => Err(ModuleError::OtherVersion { missing }),
        })
    }

    fn globals(&self) -> Result<types::bss_counters, Error> {
        let mut globals: Vec<types::bss_counters> = Vec::with_capacity(1);
        self.counters.copy_to(0, 1, &mut globals).map_err(failure(".bss.counters"))?;
        globals.pop().ok_or_else(|| failure(".bss.counters")(io::ErrorKind::UnexpectedEof.into()))
    }

    /// A walker with a slot of its own. At most eight exist at once.
    ///
    /// # Errors
    /// [`Error::NoSlot`] if all slots are taken.
    pub fn walker(&self) -> Result<Walker, Error> {
        let fd: OwnedFd = self.program("skreap_walk")?.as_fd().try_clone_to_owned().map_err(Error::Walk)?;
        let (emit, frontends) = (Arc::clone(&self.emit), self.frontends.clone());
        Walker::new(fd, emit, frontends, Arc::clone(&self.slots), &self.shape.abi)
    }

    /// Records sockets under the peer they really have, see [`crate::attach_order`].
    ///
    /// # Errors
    /// [`Error::Object`] if the program is missing.
    pub fn rekeyer(&self) -> Result<Rekeyer, Error> {
        let fd = self.program("skreap_rekey")?.as_fd().try_clone_to_owned().map_err(Error::Rekey)?;
        Ok(Rekeyer::new(fd, self.shape.abi.version))
    }

    /// Tells how sockets were recorded.
    ///
    /// # Errors
    /// [`Error::Object`] if the program is missing.
    pub fn sent_looker(&self) -> Result<SentLooker, Error> {
        let fd = self.program("skreap_sent")?.as_fd().try_clone_to_owned().map_err(failure("skreap_sent"))?;
        Ok(SentLooker::new(fd, self.shape.abi.version))
    }

    /// The sockets whose connects are counted.
    pub(crate) fn watched(&self) -> &Watched {
        &self.watched
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
        c.wildcard = globals.counters.wildcard;
        c.stale = globals.counters.stale;
        c.without_ref = globals.counters.without_ref;
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
    pub fn incomplete(&self) -> Result<IncompleteBits, Error> {
        let state: types::skreap_incomplete_bits = self.read_element(".bss.incomplete", 0)?;
        let count = |words: &mut dyn Iterator<Item = u32>| words.map(|w| u64::from(w.count_ones())).sum();
        let (first, second) = state.backends.split_at(state.backends.len() / 2);
        Ok(IncompleteBits {
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
        self.notes.copy_to(at, 1, &mut any).map_err(failure(".bss.kernel"))?;
        Ok(any.first().is_some_and(|any| *any != 0))
    }

    /// Sets and clears the incomplete bits.
    ///
    /// # Errors
    /// [`Error::Object`] if the program is missing.
    pub fn incomplete_writer(&self) -> Result<IncompleteWriter, Error> {
        let fd =
            self.program("skreap_incomplete")?.as_fd().try_clone_to_owned().map_err(Error::Incomplete)?;
        Ok(IncompleteWriter::new(fd, self.shape.abi.version))
    }

    /// What is known of frontends; `None` unless [`Config::frontends`] are recorded.
    #[must_use]
    pub fn frontends(&self) -> Option<&Arc<Frontends>> {
        self.frontends.as_ref()
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
            let info = map.info().map_err(io_error).map_err(failure("map info"))?;
            let value = u64::from(info.info.value_size).next_multiple_of(8);
            bytes += value * u64::from(info.info.max_entries);
        }
        Ok(bytes)
    }

    /// True if the search for pre-existing sockets has been done.
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
        fault::at(Point::MapWrite)
            .and_then(|()| object::write(&object::map(&self.object, CFG)?, 0, cfg))
            .map_err(failure(CFG))
    }

    /// The loaded object.
    #[doc(hidden)]
    #[must_use]
    pub fn object(&self) -> &Object {
        &self.object
    }

    fn program(&self, name: &str) -> Result<Program<'_>, Error> {
        object::program(&self.object, name).map_err(failure(name))
    }

    fn read_element<T: AnyBitPattern>(&self, map: &str, index: u32) -> Result<T, Error> {
        fault::at(Point::MapRead)
            .and_then(|()| object::read(&object::map(&self.object, map)?, index))
            .map_err(failure(map))
    }
}

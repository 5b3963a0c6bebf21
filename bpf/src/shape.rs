//! What defines an index: versions, sizes and seed, and how an object gets them before it is loaded.

use std::io;
use std::path::Path;

use libbpf_rs::{AsRawLibbpf as _, OpenObject};

use crate::bpffs;
use crate::config::Layout;
use crate::error::io_error;
use crate::frontends;
use crate::incompatible::{Incompatible, Obstacle};
use crate::module::Functions;
use crate::object::{self, failure};
use crate::skel::{FRONTENDS_OBJECT, OBJECT, types};
use crate::{Config, Error};

/// `SKREAP_ABI_VERSION` of this library: a program in another language passes it to the pinned walk
/// program.
pub const ABI_VERSION: u32 = 4;
/// `SKREAP_LAYOUT_VERSION` this library was written for.
const LAYOUT_VERSION: u32 = 3;
/// The counters occupy whole pages, so that a later version can add counters in the same memory.
const COUNTER_PAGE: usize = 4096;
/// Holds the facts that a later version needs to take over an index.
pub(crate) const CFG: &str = "cfg";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// Everything that defines an index: two with the same shape have the same memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    pub(crate) abi: types::skreap_abi,
    seed: u64,
    /// Whose references to sockets are held; none if `None`.
    refs: Option<Functions>,
}

impl Shape {
    pub(crate) fn cfg(&self) -> types::skreap_cfg {
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
            refs: refs_code(self.refs),
            frontends: self.layout.frontends,
        }
    }

    pub(crate) fn same_as(&self, pinned: &types::skreap_cfg) -> Result<(), Incompatible> {
        let own = self.cfg();
        for (what, found, wanted) in [
            ("max_sockets", pinned.max_sockets, own.max_sockets),
            ("buckets", pinned.buckets, own.buckets),
            ("max_memberships", pinned.max_memberships, own.max_memberships),
            ("number of shards", pinned.shards, own.shards),
            ("number of record slots", pinned.record_slots, own.record_slots),
            ("number of nodes", pinned.nodes, own.nodes),
            ("number of frontends", pinned.frontends, own.frontends),
        ] {
            if found != wanted {
                return Err(Incompatible::Size { what, found, wanted });
            }
        }
        Ok(())
    }
}

/// The configuration stored in a pinned index, if its layout is the one known here.
pub(crate) fn pinned_cfg(maps: &Path) -> Result<types::skreap_cfg, Incompatible> {
    let value = bpffs::read_first(maps, CFG)?;
    let found = value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes));
    match object::prefix(&value) {
        Some(cfg) if found == LAYOUT_VERSION => Ok(cfg),
        _ => Err(Incompatible::Layout { found, expected: LAYOUT_VERSION }),
    }
}

/// SKREAP_REFS_* of `bpf/include/abi.h`
const REFS: [(Functions, u32); 2] = [(Functions::Module, 1), (Functions::Kernel, 2)];

fn refs_code(refs: Option<Functions>) -> u32 {
    REFS.into_iter().find(|(functions, _)| Some(*functions) == refs).map_or(0, |(_, code)| code)
}

/// Whose references an index holds that was created with this code.
pub(crate) fn refs_of(code: u32) -> Option<Functions> {
    REFS.into_iter().find(|(_, known)| *known == code).map(|(functions, _)| functions)
}

/// Opens the object and sets all sizes; the seed of a pinned index must stay the same.
pub(crate) fn prepare(
    config: &Config,
    seed: Option<u64>,
    refs: Option<Functions>,
) -> Result<(OpenObject, Shape), Error> {
    if !Path::new(BTF).exists() {
        return Err(Error::Unsupported {
            missing: format!("BTF ({BTF})"),
            remedy: "use a kernel built with CONFIG_DEBUG_INFO_BTF=y".to_owned(),
        });
    }
    let mut open = object::open(if config.frontends == 0 { OBJECT } else { FRONTENDS_OBJECT })?;
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
    rodata.cfg_refs = refs_code(refs);
    rodata.cfg_seed = seed;
    resize(&mut open, &layout, refs)?;
    frontends::configure(&mut open, layout.frontends)?;
    Ok((open, Shape { layout, abi, seed, refs }))
}

/// Takes every map with state from the pins. A pin without a map here is from a version that knows
/// more.
pub(crate) fn reuse_maps(open: &mut OpenObject, maps: &Path) -> Result<(), Obstacle> {
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

fn open_rodata(open: &mut OpenObject) -> Result<&mut types::rodata, Error> {
    let map = open
        .maps_mut()
        .find(|m| m.name().to_string_lossy().ends_with(".rodata"))
        .ok_or_else(|| failure(".rodata")(io::ErrorKind::NotFound.into()))?;
    let bytes = map.as_libbpf_object();
    let mut length = 0;
    // SAFETY: the map belongs to the open object; libbpf returns its initial value, or null.
    let data = unsafe { libbpf_sys::bpf_map__initial_value(bytes.as_ptr(), &mut length) };
    // The section ends with its last member, the Rust struct with its alignment; both lie in one
    // page.
    let length = length.next_multiple_of(align_of::<types::rodata>() as u64);
    if data.is_null() || length < size_of::<types::rodata>() as u64 {
        return Err(failure(".rodata")(io::ErrorKind::UnexpectedEof.into()));
    }
    // SAFETY: libbpf maps the initial value page-aligned; it is as long as the generated struct
    // (checked), consists of integers, and lives until the object is loaded; the object is borrowed
    // until then.
    Ok(unsafe { &mut *data.cast::<types::rodata>() })
}

pub(crate) fn resize(open: &mut OpenObject, layout: &Layout, refs: Option<Functions>) -> Result<(), Error> {
    let words = |n: u32| n.checked_mul(4);
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        let bytes = match name.as_str() {
            ".bss.pool" => layout.nodes.checked_mul(frontends::node_size(layout.frontends)),
            frontends::TABLE => layout.frontends.checked_mul(frontends::ENTRY_SIZE),
            ".bss.records" => words(layout.all_records()),
            ".bss.buckets" => words(layout.all_buckets()),
            ".bss.counters" => {
                u32::try_from(size_of::<types::bss_counters>().next_multiple_of(COUNTER_PAGE)).ok()
            }
            "shards" => {
                map.set_max_entries(layout.shards).map_err(io_error).map_err(failure(&name))?;
                continue;
            }
            "refs" if refs == Some(Functions::Module) => {
                map.set_max_entries(layout.nodes).map_err(io_error).map_err(failure(&name))?;
                continue;
            }
            "kernel_refs" if refs == Some(Functions::Kernel) => {
                map.set_max_entries(layout.nodes).map_err(io_error).map_err(failure(&name))?;
                continue;
            }
            _ => continue,
        };
        let bytes = bytes.ok_or(Error::Config {
            what: "max_sockets",
            value: layout.max_sockets,
            range: "as many as fit in a map of 4 GiB",
        })?;
        map.set_value_size(bytes).map_err(io_error).map_err(failure(&name))?;
    }
    Ok(())
}

fn random_seed() -> Result<u64, Error> {
    let mut seed = [0; 8];
    // SAFETY: the buffer is as long as stated.
    let n = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if n != 8 {
        return Err(failure("seed (getrandom)")(io::Error::last_os_error()));
    }
    // Odd, because it is a factor too.
    Ok(u64::from_ne_bytes(seed) | 1)
}

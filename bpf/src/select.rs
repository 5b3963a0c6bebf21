//! One pass over the index that lists the sockets of a filter.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::AsFd as _;

use libbpf_rs::{MapCore as _, MapFlags, Object};

use crate::error::io_error;
use crate::fault::{self, Point};
use crate::filter::Filter;
use crate::mapping::Mapping;
use crate::object;
use crate::prog::run;
use crate::skel::{SELECT_FRONTENDS_OBJECT, SELECT_OBJECT, select_types as types};
use crate::{Error, Index, Relation, Victim};

const PROGRAM: &str = "skreap_select";

/// What a pass has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selected {
    /// Calls of the program.
    pub calls: u64,
    /// Nodes of the index.
    pub nodes: u64,
    /// Not listed: sockets that have only sent, as senders were not asked for.
    pub senders: u64,
    /// Not listed: in a TCP state that is not wanted.
    pub state: u64,
    /// A socket that has no peer has sent to backends that are not known.
    pub unnamed: bool,
    /// Sockets became wildcards during each of several passes, and may have been missed.
    pub unsure: bool,
}

/// Finds sockets in the index by a filter, in all netns at once.
#[derive(Debug)]
pub struct Select {
    object: Object,
    listed: Mapping,
}

impl Select {
    /// Loads the program on the maps of the index.
    ///
    /// # Errors
    /// As [`Index::load`].
    pub fn load(index: &Index) -> Result<Self, Error> {
        // Their nodes differ in length.
        let object = if index.frontends().is_some() { SELECT_FRONTENDS_OBJECT } else { SELECT_OBJECT };
        let mut open = object::open(object)?;
        index.share(&mut open)?;
        let object = object::load(open, Point::SelectLoad)?;
        let listed = object::memory(&object, ".bss.selected", size_of::<types::bss_selected>())?;
        Ok(Self { object, listed })
    }

    /// Appends the sockets of the filter to `victims`, each once; with `senders` also those without a peer that have
    /// sent to backends of the filter, once for each of these backends.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn pass(
        &mut self,
        filter: &Filter,
        senders: bool,
        victims: &mut Vec<Victim>,
    ) -> Result<Selected, Error> {
        filter.write_to(&self.object).map_err(failure())?;
        let flags = if senders { types::select_flags::SELECT_SENDERS.0 } else { 0 };
        let first = victims.len();
        let mut counts = Selected::default();
        let mut calls = 0;
        for _ in 0..PASSES_MAX {
            victims.truncate(first);
            counts = Selected::default();
            let request = types::select_request { flags, ..types::select_request::default() };
            counts.unsure = self.call(request, &mut counts, victims)?;
            calls += counts.calls;
            if !counts.unsure {
                break;
            }
        }
        counts.calls = calls;
        if !senders {
            // Those with several nodes are listed for each.
            let mut seen = HashSet::new();
            let others = victims.drain(first..).filter(|victim| {
                let sends = victim.relation() == Relation::Unconnected;
                counts.senders += u64::from(sends && seen.insert(victim.cookie()));
                !sends
            });
            let others: Vec<Victim> = others.collect();
            victims.extend(others);
        }
        // A socket may have several nodes. Those of one that is connected say nothing but that.
        let mut seen = HashSet::with_capacity(victims.len() - first);
        let mut at = 0;
        victims.retain(|victim| {
            at += 1;
            let sent_to = (victim.relation() == Relation::Unconnected).then(|| victim.peer());
            at <= first || seen.insert((victim.cookie(), sent_to))
        });
        Ok(counts)
    }

    /// Keeps those of these sockets that the filter means now, as they are now; senders among them by what is known of the
    /// socket itself. `excepted`: the filter [excepts](Filter::excepts) the backend that these senders have sent to.
    ///
    /// # Errors
    /// [`Error::Object`] with the kernel's errno.
    pub fn sift(&mut self, filter: &Filter, excepted: bool, victims: &mut Vec<Victim>) -> Result<(), Error> {
        if victims.is_empty() {
            return Ok(());
        }
        filter.write_to(&self.object).map_err(failure())?;
        let mut found = Vec::new();
        for part in victims.chunks(LISTED_MAX) {
            let mut cookies: Vec<u8> = part.iter().flat_map(|v| v.cookie().to_ne_bytes()).collect();
            cookies.resize(size_of::<types::bss_cookies>(), 0);
            object::map(&self.object, ".bss.cookies")
                .and_then(|map| map.update(&0_u32.to_ne_bytes(), &cookies, MapFlags::ANY).map_err(io_error))
                .map_err(failure())?;
            let mut flags = types::select_flags::SELECT_SENDERS.0 | types::select_flags::SELECT_COOKIES.0;
            flags |= if excepted { types::select_flags::SELECT_EXCEPTED.0 } else { 0 };
            let asked = part.len() as u32;
            let request = types::select_request { flags, asked, ..types::select_request::default() };
            self.call(request, &mut Selected::default(), &mut found)?;
        }
        let found: HashMap<u64, Victim> = found.iter().map(|victim| (victim.cookie(), *victim)).collect();
        victims.retain_mut(|victim| match found.get(&victim.cookie()) {
            Some(now) if now.relation() == Relation::Connected => {
                *victim = *now;
                true
            }
            // Its backend is that of its node. One that was connected and only sends now is none any more.
            now => now.is_some() && victim.relation() != Relation::Connected,
        });
        Ok(())
    }

    /// True if sockets became wildcards meanwhile.
    fn call(
        &self,
        mut request: types::select_request,
        counts: &mut Selected,
        victims: &mut Vec<Victim>,
    ) -> Result<bool, Error> {
        let mut before = None;
        let program = object::program(&self.object, PROGRAM).map_err(failure())?;
        loop {
            fault::at(Point::SelectRun)
                .and_then(|()| run(program.as_fd(), &mut request))
                .map_err(failure())?;
            counts.calls += 1;
            counts.nodes += request.nodes;
            counts.senders += request.senders;
            counts.state += request.state;
            counts.unnamed |= request.unnamed != 0;
            let mut listed: Vec<types::skreap_victim> = Vec::new();
            self.listed.copy_to(0, request.listed as usize, &mut listed).map_err(failure())?;
            victims.extend(listed.into_iter().map(Victim::from_twin));
            let before = *before.get_or_insert(request.before);
            if request.more == 0 {
                return Ok(request.after != before);
            }
        }
    }
}

/// Passes, if sockets become wildcards during each.
const PASSES_MAX: usize = 3;

/// Sockets that one call lists, or is asked about.
const LISTED_MAX: usize = size_of::<types::bss_selected>() / size_of::<types::skreap_victim>();

fn failure() -> impl FnOnce(io::Error) -> Error {
    object::failure(format!("program {PROGRAM}"))
}

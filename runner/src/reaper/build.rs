//! The steps from the settings of a reaper to a running one.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use skreap_bpf::hooks::Hooks;
use skreap_bpf::module::ModuleError;
use skreap_bpf::pin::{Origin, Pins};
use skreap_bpf::{FRONTENDS_MAX, Index};
use skreap_core::{ActionName, EngineName, Revived};

use super::builder::Builder;
use super::error::Error;
use super::fallback::Fallback;
use super::limits::Limits;
use super::select_program::SelectProgram;
use super::{Reaper, pending};
use crate::engine::connect::Commands;
use crate::engine::select::{self, EngineChoice};
use crate::engine::{Engine, EngineOptions, KernelSockets, Ledger, Pace, Pool};
use crate::observe::monitor::{Identity, Monitor};
use crate::observe::observer::Observer;
use crate::sys::cgroup::{self, PartOnly};
use crate::sys::objects;
use crate::upkeep::bootstrap::{self, Bootstrapped};
use crate::upkeep::hook_order::OrderKeeper;
use crate::upkeep::revive::{Deleted, RevivedEvents};

impl Builder {
    /// Loads the programs, attaches the hooks, starts the engine, and indexes the pre-existing sockets.
    ///
    /// # Errors
    /// [`Error`]; nothing stays attached but what was pinned before.
    pub fn build(self) -> Result<Reaper, Error> {
        let watched = Watched::open(self.cgroup.as_deref())?;
        let (pins, index, origin) = self.load(&watched)?;
        let engines = self.start_engines(&index, &watched.path)?;
        let walker = index.walker()?;
        if self.grace {
            // Better now than with the first event.
            pending::grace_period()?;
        }
        let monitor = self.monitor(&index, &engines, &watched, pins.is_some())?;
        let mut hooks =
            self.attach(&index, engines.engine.name(), &watched, &monitor, pins.as_ref().zip(Some(&origin)))?;
        let mut order = OrderKeeper::new(&index, watched.file)?;
        // A walker of its own: a listing must not delay an event.
        let overseer = Observer::new(&index)?;
        order.tidy(&mut hooks, &overseer);
        monitor.ordered(order.status());
        // A scan needs none.
        let ahead = self.ready_for_selectors && !engines.engine.name().scans();
        let select = if ahead { SelectProgram::load_ahead(&index) } else { SelectProgram::default() };
        Ok(Reaper {
            hooks,
            engine: engines.engine,
            order,
            overseer,
            healing: Arc::default(),
            fallback: engines.fallback,
            kernel_sockets: engines.kernel_sockets,
            select,
            audits: None,
            walker,
            monitor,
            index,
            cgroup: watched.path,
            unconnected: self.unconnected,
            scan_known: self.scan_known,
            limits: self.limits(watched.not_seen.is_none()),
            attribute: self.attribute,
            pending_wait: self.pending_wait.0,
            pool: engines.pool,
            heal_after: self.heal_after.0,
            leave_order: self.leave_order,
            order_unknown: false,
            grace: self.grace,
            pace: engines.pace,
            victim_action: self.victim_action,
            no_revive: self.no_revive,
            reviving_max: self.reviving_max.0,
            action_rules: self.action_rules.map(Arc::new),
            commands: Commands::default(),
            revived_events: RevivedEvents::new(self.results),
            deleted: Deleted::default(),
            reviver: None,
            connector: None,
            pins_are_new: pins.is_some() && origin == Origin::New,
            pins,
        })
    }

    fn limits(&self, whole_machine: bool) -> Limits {
        Limits { max_victims: self.max_victims, reconcile_max: self.reconcile_max, whole_machine }
    }

    /// The index, new or taken over from the pins.
    fn load(&self, watched: &Watched) -> Result<(Option<Pins>, Arc<Index>, Origin), Error> {
        // What only one engine needs costs nothing with the others.
        let refs = self.config.refs || self.engine.may_destroy_in_walk();
        let frontends = match self.config.frontends {
            0 if self.frontends => FRONTENDS_MAX,
            set => set,
        };
        let config = self.config.refs(refs).frontends(frontends);
        let pins = self.pin.as_deref().map(objects::lock_pins).transpose()?;
        let (index, origin) = objects::load(&config, pins.as_ref(), watched.file.as_fd())?;
        Ok((pins, Arc::new(index), origin))
    }

    /// Attaches the hooks, indexes the sockets that are older, and publishes the pins then.
    fn attach(
        &self,
        index: &Index,
        engine: EngineName,
        watched: &Watched,
        monitor: &Monitor,
        pins: Option<(&Pins, &Origin)>,
    ) -> Result<Hooks, Error> {
        let unpublished = Unpublished(pins.map(|(pins, _)| pins));
        let mut hooks = objects::attach(index, watched.file.as_fd(), pins)?;
        log_attached(index, watched, engine);
        if !self.no_bootstrap && !index.is_bootstrapped()? {
            index_preexisting(index, &watched.path)?;
        }
        if let Some((pins, origin)) = pins {
            objects::publish(pins, &mut hooks)?;
            log_origin(pins, origin);
            log_lost(pins, monitor);
        }
        unpublished.done();
        Ok(hooks)
    }

    /// What finds and destroys.
    fn start_engines(&self, index: &Arc<Index>, cgroup: &Path) -> Result<Engines, Error> {
        let pace = self.max_rate.map(Pace::per_second).unwrap_or_default();
        let options = EngineOptions {
            cgroup: Some(cgroup.to_owned()),
            states: self.states,
            scope: self.scope.clone(),
            pace: pace.clone(),
            pool: Pool::with_ledger(self.pool, if self.results { Ledger::on() } else { Ledger::default() }),
            single_dump: false,
        };
        let (engine, why) = select::start_and_say(self.engine, index, &options)?;
        let fallback = start_fallback(engine.name(), index, &options);
        let kernel_sockets = KernelSockets::new(index, &options)?;
        Ok(Engines { engine, why, fallback, kernel_sockets, pool: options.pool, pace })
    }

    fn monitor(
        &self,
        index: &Arc<Index>,
        engines: &Engines,
        watched: &Watched,
        pinned: bool,
    ) -> Result<Monitor, Error> {
        let identity = Identity {
            late_module: late_module(self.engine, index, pinned),
            engine: engines.engine.name(),
            engine_why: engines.why.clone(),
            cgroup: watched.path.clone(),
            not_seen: watched.not_seen.clone(),
            unconnected: self.unconnected,
            actions: ActionName::ALL
                .into_iter()
                .filter(|name| !self.no_revive || !matches!(name, ActionName::Revive | ActionName::Move))
                .collect(),
        };
        let destroyers = engines.pool.watch();
        let held = Box::new(move || destroyers.status());
        Ok(Monitor::new(identity, Observer::new(index)?, held))
    }
}

/// The engines of a reaper, and what they share.
struct Engines {
    engine: Box<dyn Engine>,
    /// Why it was chosen.
    why: String,
    fallback: Option<Fallback>,
    kernel_sockets: KernelSockets,
    pool: Pool,
    pace: Pace,
}

/// The cgroup to attach to.
struct Watched {
    path: PathBuf,
    file: File,
    /// What is not seen from there.
    not_seen: Option<String>,
}

impl Watched {
    /// `path`, or the root of the machine's cgroup2.
    fn open(path: Option<&Path>) -> Result<Self, Error> {
        let path = match path {
            Some(path) => path.to_owned(),
            None => {
                let mount =
                    cgroup::mount().map_err(|source| Error::Cgroup { path: "root".to_owned(), source })?;
                if !mount.whole {
                    return Err(PartOnly(mount.path).into());
                }
                mount.path
            }
        };
        let error = |source| Error::Cgroup { path: path.display().to_string(), source };
        let file = cgroup::open(&path).map_err(error)?;
        let not_seen = cgroup::not_seen(&path).map_err(error)?;
        Ok(Self { path, file, not_seen })
    }
}

fn log_attached(index: &Index, watched: &Watched, engine: EngineName) {
    let cgroup = watched.path.display();
    tracing::info!(%cgroup, %engine, max_sockets = index.max_sockets(), "attached");
    if let Some(not_seen) = &watched.not_seen {
        tracing::info!(%cgroup, "not seen: {not_seen}");
    }
}

/// Indexes the pre-existing sockets; what is still missing then makes everything incomplete.
fn index_preexisting(index: &Index, cgroup: &Path) -> Result<(), Error> {
    let found = bootstrap::run(index, cgroup)?;
    log_bootstrapped(&found);
    if found.whole() {
        index.set_bootstrapped()?;
    } else {
        index.incomplete_writer()?.everything()?;
    }
    Ok(())
}

/// Removes pins that were created and not published.
struct Unpublished<'a>(Option<&'a Pins>);

impl Unpublished<'_> {
    fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Unpublished<'_> {
    fn drop(&mut self) {
        let Some(pins) = self.0 else {
            return;
        };
        if let Err(e) = objects::abandon(pins) {
            tracing::error!("hooks stay attached until the next start, or `skreap unload`: {e}");
        }
    }
}

/// Loaded programs do not get the functions of a module that is loaded later.
fn late_module(engine: EngineChoice, index: &Index, pinned: bool) -> Option<&'static str> {
    match index.can_destroy() {
        Ok(()) | Err(ModuleError::Refused(_)) => None,
        Err(_) if !engine.may_destroy_in_walk() => None,
        Err(_) if pinned => Some("stop the service, `skreap unload` and start it again to use it"),
        Err(_) => Some("restart the service to use it"),
    }
}

/// The engine for events on which the first one may miss sockets: a scan needs none.
fn start_fallback(engine: EngineName, index: &Index, options: &EngineOptions) -> Option<Fallback> {
    if engine.scans() {
        return None;
    }
    match select::fallback(index, options) {
        Ok(scan) => {
            tracing::info!(engine = %scan.name(), "this engine is the fallback for events on which the index is incomplete");
            Some(Fallback::new(scan))
        }
        Err(why) => {
            tracing::warn!("no full scan works here, so a full index makes events incomplete: {why}");
            None
        }
    }
}

fn log_bootstrapped(found: &Bootstrapped) {
    let Bootstrapped { tcp, udp, netns, unreachable, held_up, missing, took, .. } = found;
    tracing::info!(
        tcp = tcp.indexed,
        udp = udp.indexed,
        netns,
        took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "indexed the pre-existing sockets"
    );
    tracing::debug!(?tcp, ?udp, "pre-existing sockets");
    if !found.whole() {
        tracing::warn!(
            missing,
            unreachable,
            held_up,
            "pre-existing sockets could not all be indexed: events have a fallback scan until they are"
        );
    }
    let dropped = tcp.dropped + udp.dropped;
    if dropped > 0 {
        tracing::warn!(dropped, "the index is full: raise --max-sockets");
    }
}

fn log_origin(pins: &Pins, origin: &Origin) {
    let pins = pins.directory().display();
    match origin {
        Origin::New => tracing::info!(%pins, "pinned"),
        Origin::TakenOver => tracing::info!(%pins, "taken over, with all sockets"),
        Origin::Replaces(why) => {
            tracing::warn!(%pins, "the pinned index could not be taken over and was replaced: {why}");
        }
    }
}

/// Destroyed sockets that nobody looks at again, because the service before this one was killed.
fn log_lost(pins: &Pins, monitor: &Monitor) {
    match objects::take_reviving(pins) {
        Ok(0) => {}
        Ok(sockets) => {
            tracing::warn!(
                "{sockets} sockets that the service before this one has destroyed are not looked at again, as it was \
                 killed: what their owners have not connected again has no peer"
            );
            monitor.revived(&Revived { sockets, lost: sockets, ..Revived::default() });
        }
        Err(e) => tracing::warn!("cannot find out whether sockets wait for a second look since before: {e}"),
    }
}

//! Namespaces that come and go.

use std::ffi::CString;
use std::fs;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skreap::core::Action;
use skreap_testbed::Netns;

use crate::driver::{Driver, Slot, wait_for};
use crate::script::{NETNS, Named, STANDING};
use crate::truth::Gone;
use crate::world::fresh_netns;

/// How long the reaper may keep a netns that an event has led it to.
const LET_GO: Duration = Duration::from_millis(100);

/// Devices have names that no other has had.
static ENDED: AtomicU32 = AtomicU32::new(0);

impl Driver<'_> {
    pub fn new_netns(&mut self, netns: u8) -> Result<Option<()>> {
        if !(STANDING..NETNS).contains(&netns) || self.coming.contains_key(&netns) {
            return Ok(None);
        }
        let fresh = self.fresh(netns)?;
        self.coming.insert(netns, fresh);
        Ok(Some(()))
    }

    pub fn unname(&mut self, netns: u8) -> Result<Option<()>> {
        if self.world.kind().module {
            // Without the module a socket is named to its netns, which has to be found for that (but on Linux 6.18).
            return Ok(None);
        }
        let Some(mut netns) = self.coming.remove(&netns) else { return Ok(None) };
        netns.forget_name()?;
        self.unnamed = true;
        Ok(Some(()))
    }

    /// The netns dies as soon as its sockets are closed and its name is taken away: what the event has led the reaper to
    /// keeps nothing of it, and it can be made again, with the device that it shares with another.
    pub fn end_netns(&mut self, netns: u8, gone: Named) -> Result<Option<()>> {
        let Some(ending) = self.coming.get(&netns) else { return Ok(None) };
        let (cookie, inum) = (ending.cookie(), ending.inum());
        let inside = self.slots.iter().filter(|(_, slot)| slot.netns == cookie);
        let (inside, sockets): (Vec<u8>, Vec<&Slot>) = inside.map(|(slot, socket)| (*slot, socket)).unzip();
        let elsewhere = |socket: &&Slot| self.forks.iter().any(|fork| fork.cookies.contains(&socket.cookie));
        if sockets.iter().any(|socket| !socket.flights.is_empty() || socket.held.is_some())
            || sockets.iter().any(elsewhere)
        {
            return Ok(None);
        }
        let device = format!("end{}", ENDED.fetch_add(1, Relaxed));
        self.join(ending, &device)?;
        self.see_what_others_ended()?;
        let backend = gone.backend()?;
        let victims = self.truth.victims(Gone::These(&[backend]));
        let report = self.tell(Action::BackendDeleted { backend }, None, false)?;
        for slot in inside {
            while self.slots.contains_key(&slot) {
                self.close(slot)?.context("a socket is not closed")?;
            }
        }
        self.coming.remove(&netns);
        let begun = Instant::now();
        while let Some(what) = leads_to(cookie, inum)? {
            ensure!(begun.elapsed() < LET_GO, "{what} still leads to a netns: {report:?}");
        }
        let outside = self.world.netns(0).context("no netns")?;
        wait_for("the end of a netns", || Ok(!has_device(outside, &device)?))?;
        self.check(&report, &victims, true)?;
        let again = self.fresh(netns)?;
        self.join(&again, &device)?;
        Ok(Some(()))
    }

    fn fresh(&self, netns: u8) -> Result<Netns> {
        fresh_netns(&format!("model-{}-new{netns}", self.world.kind().name))
    }

    /// Two ends of a device, here and in a netns that stays: one goes with the other.
    fn join(&self, netns: &Netns, device: &str) -> Result<()> {
        let outside = self.world.netns(0).context("no netns")?;
        netns.join(device, "10.180.0.1".parse()?, outside, "10.180.0.2".parse()?, 30)
    }
}

fn has_device(netns: &Netns, device: &str) -> Result<bool> {
    let device = CString::new(device)?;
    // SAFETY: the string outlives the call.
    Ok(netns.run(|| unsafe { libc::if_nametoindex(device.as_ptr()) })? > 0)
}

/// What this process, the reaper's, has open that keeps a netns: a descriptor of it, or a socket in it.
fn leads_to(cookie: u64, inum: u32) -> Result<Option<String>> {
    for entry in fs::read_dir("/proc/self/fd")? {
        let path = entry?.path();
        // It may be closed by now.
        let Ok(target) = fs::read_link(&path) else { continue };
        let target = target.to_string_lossy().into_owned();
        let fd: i32 = path.file_name().and_then(|name| name.to_str()).context("no number")?.parse()?;
        if target == format!("net:[{inum}]") || target.starts_with("socket:") && netns_of(fd) == Some(cookie)
        {
            return Ok(Some(format!("descriptor {fd} ({target})")));
        }
    }
    Ok(None)
}

/// `SO_NETNS_COOKIE`; `None` if there is no such socket any more.
fn netns_of(fd: i32) -> Option<u64> {
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the value is writable and as long as is said; the descriptor may be anything.
    let got = unsafe {
        libc::getsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    (got == 0).then_some(cookie)
}

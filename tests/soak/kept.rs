//! Namespaces that died right after an event: the service has nothing in them any more.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crate::shared::{Shared, WORKERS};
use crate::sys;

/// How long the service may keep a netns that an event has led it to.
const LET_GO: Duration = Duration::from_millis(100);
/// How often it must be found in a netns, as the search of one that starts may come by.
const LOOKS: u32 = 5;

/// A netns to be looked for in the service.
#[derive(Debug)]
struct Ended {
    cookie: u64,
    look: Instant,
    found: u32,
}

#[derive(Debug, Default)]
pub struct Kept {
    /// How many each worker had ended when it was last asked.
    seen: [u64; WORKERS],
    ended: Vec<Ended>,
    /// Namespaces that were kept.
    pub count: u64,
}

impl Kept {
    /// To be called often.
    pub fn look(&mut self, shared: &Shared, service: u32) {
        for (work, seen) in shared.workers.iter().zip(&mut self.seen) {
            let count = work.brief.load(SeqCst);
            if count != *seen {
                *seen = count;
                let cookie = work.brief_netns.load(SeqCst);
                self.ended.push(Ended { cookie, look: Instant::now() + LET_GO, found: 0 });
            }
        }
        for mut ended in std::mem::take(&mut self.ended) {
            if Instant::now() < ended.look {
                self.ended.push(ended);
                continue;
            }
            // One that is killed has nothing, and is gone by the next look.
            let is_in = |fd| sys::netns_cookie(fd) == ended.cookie;
            if !sys::has_descriptor(service, is_in).unwrap_or(false) {
                continue;
            }
            ended.found += 1;
            ended.look = Instant::now() + LET_GO;
            if ended.found < LOOKS {
                self.ended.push(ended);
            } else {
                eprintln!("soak: skreap serve keeps the netns with the cookie {}", ended.cookie);
                self.count += 1;
            }
        }
    }
}

//! The jobs of a pool, and a thread that stays awake for the next one.
//!
//! To wake a thread takes longer than most of what destroyers do: after a pause, the CPU that is to
//! run it is asleep too. So an event has one called before it knows whether there will be victims, and
//! one that has done a job stays awake for a moment. Never more than one stays awake, and none on a
//! machine with one or two CPUs: two are often the halves of one core, and a thread that stays awake
//! on one of them takes nearly half of the speed of the other.

use std::collections::VecDeque;
use std::hint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::job::Job;

/// How long a thread stays awake for what is about to come: somewhat longer than it takes to wake one
/// on a CPU that is asleep.
pub(super) const LINGER: Duration = Duration::from_micros(200);
/// How long after one call there is no other: where events without victims come one after the other,
/// threads that stay awake for nothing take at most 2% of a CPU.
const CALL_AGAIN: Duration = Duration::from_millis(10);
/// Machines with more CPUs than this have one to spare for a thread that stays awake.
const TOO_FEW: usize = 2;
/// Between two looks at the clock.
const SPINS: u32 = 32;

/// See the module.
#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    ready: Condvar,
    /// There is a job, or no more will come: for the one who looks without the lock.
    something: AtomicBool,
    lingers: bool,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Arc<Job>>,
    closed: bool,
    /// A thread looks for a job without sleeping.
    awake: bool,
    /// One that sleeps is to look for a while.
    called: bool,
    last_call: Option<Instant>,
}

impl Queue {
    /// An empty one, for a machine with this many CPUs.
    pub(super) fn new(cpus: usize) -> Self {
        Self {
            state: Mutex::default(),
            ready: Condvar::new(),
            something: AtomicBool::new(false),
            lingers: lingers(cpus),
        }
    }

    /// Adds a job.
    pub(super) fn push(&self, job: Arc<Job>) {
        let mut state = self.state.lock();
        state.jobs.push_back(job);
        self.something.store(true, Ordering::Release);
        let wake = state.jobs.len() > usize::from(state.awake);
        drop(state);
        if wake {
            self.ready.notify_one();
        }
    }

    /// A job may be about to come.
    pub(super) fn call(&self) {
        if !self.lingers {
            return;
        }
        let mut state = self.state.lock();
        if state.awake || state.called || state.last_call.is_some_and(|last| last.elapsed() < CALL_AGAIN) {
            return;
        }
        state.called = true;
        state.last_call = Some(Instant::now());
        drop(state);
        self.ready.notify_one();
    }

    /// No more jobs will come.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.something.store(true, Ordering::Release);
        self.ready.notify_all();
    }

    /// Waits for a job; `None` if no more will come. The caller stays awake for a while if it has
    /// `just_worked`.
    pub(super) fn take(&self, just_worked: bool) -> Option<Arc<Job>> {
        let mut linger = just_worked && self.lingers;
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                self.something.store(!state.jobs.is_empty() || state.closed, Ordering::Release);
                return Some(job);
            }
            if state.closed {
                return None;
            }
            if linger && !state.awake {
                state.awake = true;
                MutexGuard::unlocked(&mut state, || spin(LINGER, || self.something.load(Ordering::Acquire)));
                state.awake = false;
                linger = false;
            } else {
                self.ready.wait(&mut state);
                linger = std::mem::take(&mut state.called);
            }
        }
    }
}

/// Whether threads stay awake for each other on a machine with this many CPUs.
pub(super) fn lingers(cpus: usize) -> bool {
    cpus > TOO_FEW
}

/// Looks again and again until it is so, for this long at most; true if it is so.
pub(super) fn spin(most: Duration, is_so: impl Fn() -> bool) -> bool {
    let start = Instant::now();
    loop {
        for _ in 0..SPINS {
            if is_so() {
                return true;
            }
            hint::spin_loop();
        }
        if start.elapsed() >= most {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::engine::pool::job::Task;
    use crate::sys::netns::Way;

    fn job() -> Arc<Job> {
        let task = Task::ById { way: Way::Handle, asked: 0 };
        Job::new(Vec::new(), task, crossbeam_channel::unbounded().0)
    }

    #[test]
    fn jobs_come_in_order_and_before_the_end() {
        for cpus in [1, 4] {
            let queue = Queue::new(cpus);
            let jobs = [job(), job()];
            jobs.iter().for_each(|job| queue.push(Arc::clone(job)));
            queue.close();
            for job in &jobs {
                assert!(Arc::ptr_eq(&queue.take(true).unwrap(), job));
            }
            assert!(queue.take(true).is_none() && queue.take(false).is_none());
        }
    }

    #[test]
    fn each_job_is_taken_once_whoever_sleeps() {
        for cpus in [1, 4] {
            let queue = Queue::new(cpus);
            thread::scope(|scope| {
                let takers: Vec<_> =
                    (0..4).map(|_| scope.spawn(|| std::iter::from_fn(|| queue.take(true)).count())).collect();
                for i in 0..1000 {
                    if i % 10 == 0 {
                        queue.call();
                        thread::sleep(Duration::from_micros(i * 3 / 10));
                    }
                    queue.push(job());
                }
                queue.close();
                assert_eq!(takers.into_iter().map(|taker| taker.join().unwrap()).sum::<usize>(), 1000);
            });
        }
    }

    #[test]
    fn a_call_wakes_one_and_once() {
        let queue = Queue::new(3);
        queue.call();
        assert!(queue.state.lock().called);
        queue.state.lock().called = false;
        queue.call();
        assert!(!queue.state.lock().called, "the last call was a moment ago");
        let small = Queue::new(2);
        small.call();
        assert!(!small.state.lock().called);
    }

    #[test]
    fn spinning_ends() {
        assert!(spin(Duration::ZERO, || true));
        let start = Instant::now();
        assert!(!spin(Duration::from_millis(2), || false));
        assert!(start.elapsed() >= Duration::from_millis(2));
    }
}

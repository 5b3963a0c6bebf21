//! Places where the kernel is asked for something and may say no. With the feature `fault` each can be made to
//! fail, once, with an errno of the test's choice; without it there is nothing here.
//!
//! A new call into the kernel is a new [`Point`] and one line before the call. `tests/fault` goes through all of
//! them, and fails if one was never reached.

#[cfg(not(feature = "fault"))]
use std::io;

macro_rules! points {
    ($($name:ident, $what:literal;)+) => {
        /// One kind of call into the kernel.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Point {
            $(#[doc = $what] $name,)+
        }

        impl Point {
            /// Every point.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// What is asked for there.
            #[must_use]
            pub const fn what(self) -> &'static str {
                match self {
                    $(Self::$name => $what,)+
                }
            }
        }
    };
}

points! {
    Load, "loading the programs of the index";
    Init, "running the program that makes every node free";
    MapMemory, "mapping a map into memory";
    MapRead, "reading an element of a map of the index";
    MapWrite, "writing what a later process must know";
    LinkCreate, "attaching a program to the cgroup";
    LinkInfo, "asking a link for its program";
    LinkCheck, "opening a pinned link to see where it is attached";
    LinkOpen, "opening a pinned link to take it over";
    LinkUpdate, "giving a pinned link another program";
    ProgQuery, "asking for the programs of a hook";
    PinDirectory, "making a directory of pins";
    Pin, "pinning a map, a program or a link";
    PinOpen, "opening a pinned map";
    PinReload, "loading the programs on pinned maps";
    PinRename, "renaming a pin";
    PinExchange, "exchanging two directories of pins";
    PinRemove, "removing a pin";
    PinRemoveAll, "removing a directory of pins";
    Walk, "running the walk";
    Rekey, "running the re-key program";
    Frontend, "asking the program that keeps the frontends";
    ScanLoad, "loading the iterators of a scan";
    ScanAttach, "attaching an iterator of a scan";
    ScanWrite, "telling a scan what to look for";
    ScanOpen, "beginning a pass of an iterator";
    ScanRead, "reading from an iterator";
    ScanCounts, "reading what a scan has counted";
    BootstrapAttach, "attaching an iterator over pre-existing sockets";
    BootstrapWrite, "telling the search for pre-existing sockets their cgroup";
    BootstrapOpen, "beginning a pass over pre-existing sockets";
    BootstrapRead, "reading from an iterator over pre-existing sockets";
    BootstrapCounts, "reading what the search for pre-existing sockets has counted";
    OwnerLoad, "loading the program that finds out whose a socket is";
    OwnerRun, "asking whose a socket is";
    NetnsList, "listing the netns";
    TablesLoad, "loading the programs that read the tables of sockets";
    TablesRead, "reading a table of sockets";
    SelectLoad, "loading the program that selects sockets";
    SelectRun, "selecting sockets";
    NetnsOpen, "opening a netns";
    NetnsEnter, "entering a netns";
    DiagOpen, "opening a diag socket";
    DiagCookie, "asking a diag socket for its netns";
    DestroySend, "sending SOCK_DESTROY";
    DestroyReceive, "reading what SOCK_DESTROY came to";
    DumpSend, "asking for a dump";
    DumpReceive, "reading a dump";
    DestroyerTable, "giving a destroyer a descriptor table of its own";
    DestroyerHome, "opening the netns that a destroyer comes back to";
    LookSend, "asking after the sockets of a batch that waits for a lock";
    LookReceive, "reading which sockets of a batch are still there";
    Membarrier, "waiting for an RCU grace period";
}

/// To be asked before the call; an error stands for the kernel's answer.
///
/// # Errors
/// The errno that a test has asked for, once.
#[cfg(not(feature = "fault"))]
#[inline(always)]
pub const fn at(_: Point) -> io::Result<()> {
    Ok(())
}

#[cfg(feature = "fault")]
pub use armed::{Armed, at};

#[cfg(feature = "fault")]
mod armed {
    use std::collections::BTreeMap;
    use std::io;
    use std::sync::{Mutex, MutexGuard, PoisonError};

    use super::Point;

    /// What is done at a point in place of failing.
    type Act = Box<dyn FnMut(u64) + Send>;

    /// What is to fail, and what was reached, in all threads.
    #[derive(Default)]
    struct State {
        next: Option<(Point, u64, i32)>,
        act: Option<(Point, Act)>,
        /// How often each point was passed since the last fault was armed.
        passed: BTreeMap<Point, u64>,
        /// What is passed from now on is not counted.
        counted: bool,
    }

    static STATE: Mutex<State> =
        Mutex::new(State { next: None, act: None, passed: BTreeMap::new(), counted: false });

    fn state() -> MutexGuard<'static, State> {
        STATE.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See the stub without the feature.
    ///
    /// # Errors
    /// The errno that a test has asked for, once.
    pub fn at(point: Point) -> io::Result<()> {
        let mut state = state();
        if state.counted {
            return Ok(());
        }
        let passed = state.passed.entry(point).or_default();
        let number = *passed;
        *passed += 1;
        if let Some((at, mut act)) = state.act.take_if(|(at, _)| *at == point) {
            drop(state);
            act(number);
            self::state().act = Some((at, act));
            return Ok(());
        }
        match state.next {
            Some((armed, when, errno)) if armed == point && when == number => {
                state.next = None;
                Err(io::Error::from_raw_os_error(errno))
            }
            _ => Ok(()),
        }
    }

    /// A fault that is to happen; dropping it takes it back.
    #[derive(Debug)]
    #[must_use]
    pub struct Armed(());

    impl Armed {
        /// From now on the point is passed `after` times, and then fails once with this errno.
        pub fn new(point: Point, after: u64, errno: i32) -> Self {
            *state() = State { next: Some((point, after, errno)), ..State::default() };
            Self(())
        }

        /// Nothing fails, but what is passed is counted.
        pub fn nothing() -> Self {
            *state() = State::default();
            Self(())
        }

        /// Nothing fails, but `act` runs each time that the point is passed. Its argument is how often the point was passed
        /// before.
        pub fn act(point: Point, act: impl FnMut(u64) + Send + 'static) -> Self {
            *state() = State { act: Some((point, Box::new(act))), ..State::default() };
            Self(())
        }

        /// Takes the fault back; true if it has happened.
        pub fn happened(self) -> bool {
            state().next.take().is_none()
        }

        /// What comes next is no part of what faults are tried in, and is not counted.
        pub fn end_count() {
            state().counted = true;
        }

        /// How often each point was passed since.
        #[must_use]
        pub fn passed(&self) -> BTreeMap<Point, u64> {
            state().passed.clone()
        }
    }

    impl Drop for Armed {
        fn drop(&mut self) {
            let mut state = state();
            (state.next, state.act) = (None, None);
        }
    }
}

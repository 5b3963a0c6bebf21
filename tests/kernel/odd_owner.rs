//! Processes with one connected UDP socket that are harder to reach than others.

use std::fs::OpenOptions;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use anyhow::{Context as _, Result, bail, ensure};
use skreap_testbed::{Cgroup, Netns};

use crate::holder::descriptor_of;

/// What is special about the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Odd {
    /// `PR_SET_DUMPABLE` is 0: /proc shows its files to root only.
    NotDumpable,
    /// It may make no system calls but read, write and exit (`SECCOMP_MODE_STRICT`).
    Seccomp,
    /// It is of another user.
    OtherUser,
    /// It is in user and PID namespaces of its own.
    Namespaces,
    /// Its socket is registered with io_uring, and under no descriptor.
    Uring,
}

/// Such a process. It ends when this is dropped.
pub struct OddOwner {
    pid: libc::pid_t,
    /// What it has forked, if its socket is there.
    owner: libc::pid_t,
    pub cookie: u64,
    _alive: OwnedFd,
}

impl OddOwner {
    /// Starts it in this netns and cgroup; `None` if the kernel offers no such thing.
    pub fn start(odd: Odd, netns: &Netns, cgroup: &Cgroup, peer: SocketAddr) -> Result<Option<Self>> {
        let IpAddr::V4(addr) = peer.ip() else { bail!("{peer} is not IPv4") };
        let netns = netns.fd().context("nothing leads to the netns")?;
        let procs = OpenOptions::new().write(true).open(cgroup.path().join("cgroup.procs"))?;
        let (mut told, tell) = pipe()?;
        let (wait, alive) = pipe()?;
        let child = Child {
            odd,
            netns: netns.as_raw_fd(),
            procs: procs.as_raw_fd(),
            peer: libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: peer.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(addr).to_be() },
                sin_zero: [0; 8],
            },
            tell: tell.as_raw_fd(),
            wait: wait.as_raw_fd(),
            alive: alive.as_raw_fd(),
        };
        // SAFETY: the child makes system calls only, as other threads may have held locks.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            child.run();
        }
        ensure!(pid > 0, "fork: {}", io::Error::last_os_error());
        drop((tell, wait));
        let mut said = [0; 16];
        let read = told.read_exact(&mut said);
        let [errno, owner, low, high] =
            [0, 4, 8, 12].map(|at| u32::from_ne_bytes([said[at], said[at + 1], said[at + 2], said[at + 3]]));
        let owner = if owner == 0 { pid } else { owner.cast_signed() };
        let cookie = u64::from(low) | u64::from(high) << 32;
        let started = Self { pid, owner, cookie, _alive: alive };
        read.context("the process ended at its start")?;
        match errno.cast_signed() {
            0 => Ok(Some(started)),
            libc::ENOSYS | libc::EPERM if odd == Odd::Uring => Ok(None),
            errno => bail!("{odd:?}: {}", io::Error::from_raw_os_error(errno)),
        }
    }

    /// The peer of its socket.
    pub fn peer(&self) -> Result<Option<SocketAddr>> {
        let fd = descriptor_of(self.owner.unsigned_abs(), self.cookie)?;
        let socket = std::net::UdpSocket::from(fd);
        match socket.peer_addr() {
            Ok(peer) => Ok(Some(peer)),
            Err(e) if e.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }
}

impl Drop for OddOwner {
    fn drop(&mut self) {
        for pid in [self.owner, self.pid] {
            // SAFETY: no pointers; it was not waited for, so the number is its own.
            unsafe { libc::kill(pid, libc::SIGKILL) };
        }
        // SAFETY: no pointers.
        unsafe { libc::waitpid(self.pid, std::ptr::null_mut(), 0) };
    }
}

fn pipe() -> Result<(std::fs::File, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    let made = unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) };
    ensure!(made == 0, "pipe: {}", io::Error::last_os_error());
    // SAFETY: fresh descriptors that nobody else owns.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]).into(), OwnedFd::from_raw_fd(fds[1])) })
}

/// What the child needs: numbers only.
struct Child {
    odd: Odd,
    netns: RawFd,
    procs: RawFd,
    peer: libc::sockaddr_in,
    tell: RawFd,
    wait: RawFd,
    alive: RawFd,
}

impl Child {
    fn run(&self) -> ! {
        // SAFETY: system calls with pointers to values that live long enough; the descriptors are this child's copies.
        unsafe {
            libc::close(self.alive);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            self.must(libc::write(self.procs, c"0".as_ptr().cast(), 1));
            self.must(libc::setns(self.netns, libc::CLONE_NEWNET) as isize);
            let mut owner = 0;
            if self.odd == Odd::Namespaces {
                self.must(libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWPID) as isize);
                let (mut read, mut write) = (0, 0);
                let mut fds = [0; 2];
                if libc::pipe2(fds.as_mut_ptr(), 0) == 0 {
                    (read, write) = (fds[0], fds[1]);
                }
                let pid = libc::fork();
                if pid > 0 {
                    // Its number here, which it cannot know.
                    let number = pid.to_ne_bytes();
                    libc::write(write, number.as_ptr().cast(), 4);
                    self.sleep();
                }
                let mut number = [0_u8; 4];
                self.must(libc::read(read, number.as_mut_ptr().cast(), 4));
                owner = i32::from_ne_bytes(number);
            }
            if self.odd == Odd::OtherUser {
                self.must(libc::setresgid(65534, 65534, 65534) as isize);
                self.must(libc::setresuid(65534, 65534, 65534) as isize);
            }
            let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            self.must(socket as isize);
            let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
            self.must(libc::connect(socket, (&raw const self.peer).cast(), length) as isize);
            let mut cookie = 0_u64;
            let mut length = size_of::<u64>() as libc::socklen_t;
            let (level, option) = (libc::SOL_SOCKET, libc::SO_COOKIE);
            self.must(libc::getsockopt(socket, level, option, (&raw mut cookie).cast(), &mut length) as isize);
            match self.odd {
                Odd::NotDumpable => self.must(libc::prctl(libc::PR_SET_DUMPABLE, 0) as isize),
                Odd::Uring => self.register(socket),
                Odd::Seccomp => {
                    self.must(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) as isize)
                }
                Odd::OtherUser | Odd::Namespaces => {}
            }
            self.say(0, owner, cookie);
            self.sleep()
        }
    }

    /// Registers the socket with a ring and closes its descriptor.
    unsafe fn register(&self, socket: RawFd) {
        /// `IORING_REGISTER_FILES` of linux/io_uring.h.
        const REGISTER_FILES: libc::c_uint = 2;
        // `struct io_uring_params` has 120 bytes.
        let mut params = [0_u64; 15];
        let files = [socket];
        // SAFETY: the kernel reads and writes `params`, and reads one number of `files`.
        unsafe {
            let ring = libc::syscall(libc::SYS_io_uring_setup, 2, params.as_mut_ptr());
            self.must(ring as isize);
            let call = libc::SYS_io_uring_register;
            self.must(libc::syscall(call, ring, REGISTER_FILES, files.as_ptr(), 1) as isize);
            libc::close(socket);
        }
    }

    /// Ends the child if the call has failed, and says why.
    fn must(&self, result: isize) {
        if result < 0 {
            let errno = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            self.say(errno, 0, 0);
            // SAFETY: no pointers.
            unsafe { libc::_exit(1) };
        }
    }

    fn say(&self, errno: i32, owner: i32, cookie: u64) {
        let mut said = [0_u8; 16];
        said[..4].copy_from_slice(&errno.to_ne_bytes());
        said[4..8].copy_from_slice(&owner.to_ne_bytes());
        said[8..].copy_from_slice(&cookie.to_ne_bytes());
        // SAFETY: the kernel reads 16 bytes.
        unsafe { libc::write(self.tell, said.as_ptr().cast(), said.len()) };
    }

    /// Until the other end of the pipe is closed.
    fn sleep(&self) -> ! {
        let mut nothing = 0_u8;
        // SAFETY: the kernel writes one byte at most. `exit` alone is what strict seccomp allows.
        unsafe {
            libc::read(self.wait, (&raw mut nothing).cast(), 1);
            libc::syscall(libc::SYS_exit, 0);
            libc::_exit(0)
        }
    }
}

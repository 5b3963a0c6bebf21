//! Network namespaces, named the way `ip netns` names them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

use super::op::NetnsRef;
use super::{name, rtnetlink, sys};

/// Where `ip netns` keeps its names.
pub(super) const NAMES: &str = "/run/netns";
/// The netns of the calling thread.
const OF_THIS_THREAD: &str = "/proc/thread-self/ns/net";

/// How long the kernel may take to put the routes of an address in place.
const USABLE: Duration = Duration::from_secs(10);

/// A network namespace.
///
/// One made by [`Netns::create`] has `lo` up, a name that `ip netns` lists, and is
/// removed on drop. It lives on, nameless, while processes or sockets are inside.
#[derive(Debug)]
pub struct Netns {
    /// `None` after [`Netns::forget_name`].
    fd: Option<OwnedFd>,
    /// Its description in messages.
    name: String,
    /// The mount to undo on drop.
    mount: Option<PathBuf>,
    cookie: u64,
    inum: u32,
}

impl Netns {
    /// Makes a netns named `skreap-PID-LABEL`, with `lo` up.
    ///
    /// `net.core.somaxconn` is raised inside, so that a backend's accept queue can hold
    /// tens of thousands of connections.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN, with a label that is no file name, or when this process
    /// already has a netns of that label.
    pub fn create(label: &str) -> Result<Self> {
        let name = name::make(label)?;
        share_directory().with_context(|| format!("prepare {NAMES} as `ip netns` does"))?;
        let path = Path::new(NAMES).join(&name);
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .with_context(|| format!("create {}", path.display()))?;

        let made = on_fresh_thread(|| {
            sys::unshare_netns().context("unshare the network namespace")?;
            sys::mount(Path::new(OF_THIS_THREAD), &path, libc::MS_BIND)
                .with_context(|| format!("bind the namespace to {}", path.display()))
        });
        if let Err(error) = made {
            // The error at hand is the one to report.
            let _ = fs::remove_file(&path);
            return Err(error).with_context(|| format!("make netns {name}"));
        }
        // From here on, drop undoes the mount.
        let mut netns = Self { fd: None, name, mount: Some(path.clone()), cookie: 0, inum: 0 };
        netns.adopt(&path)?;
        netns.run(|| rtnetlink::set_up("lo"))?.with_context(|| netns.about())?;
        netns.set_sysctl("net.core.somaxconn", "65535")?;
        Ok(netns)
    }

    /// The netns of the calling thread. It is not removed on drop.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn current() -> Result<Self> {
        Self::open(Path::new(OF_THIS_THREAD))
    }

    /// A netns that exists, by a path such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    /// It is not removed on drop.
    ///
    /// # Errors
    /// When the path cannot be opened or is no netns.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let mut netns = Self { fd: None, name, mount: None, cookie: 0, inum: 0 };
        netns.adopt(path)?;
        Ok(netns)
    }

    /// Opens `path` and learns the identity of the netns behind it.
    fn adopt(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).with_context(|| format!("open netns {}", path.display()))?;
        let inode = file.metadata().with_context(|| self.about())?.ino();
        self.inum = u32::try_from(inode).with_context(|| self.about())?;
        self.fd = Some(file.into());
        self.cookie = self
            .run(|| {
                let socket = sys::socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
                sys::netns_cookie(socket.as_fd())
            })?
            .with_context(|| format!("read the cookie of netns {}", self.name))?;
        Ok(())
    }

    fn about(&self) -> String {
        format!("in netns {}", self.name)
    }

    /// Its name in `ip netns`, or the path it was opened by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its cookie (`SO_NETNS_COOKIE`), which no other netns ever gets until reboot.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Its inode number in nsfs, as `lsns` and `/proc/PID/ns/net` show it.
    pub fn inum(&self) -> u32 {
        self.inum
    }

    /// A descriptor of it, or `None` after [`Netns::forget_name`].
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(AsFd::as_fd)
    }

    fn live_fd(&self) -> Result<BorrowedFd<'_>> {
        self.fd().with_context(|| format!("netns {} was given up by forget_name", self.name))
    }

    /// How a client process finds it (`/proc/PID/fd/N`).
    ///
    /// # Errors
    /// After [`Netns::forget_name`].
    pub fn reference(&self) -> Result<NetnsRef> {
        let fd = self.live_fd()?.as_raw_fd();
        Ok(NetnsRef::Path(format!("/proc/{}/fd/{fd}", std::process::id()).into()))
    }

    /// Runs `work` inside, on a thread of its own: the caller's thread never moves.
    ///
    /// # Errors
    /// When the netns cannot be entered. A panic of `work` continues in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let fd = self.live_fd()?;
        on_fresh_thread(|| {
            sys::enter_netns(fd).with_context(|| format!("enter netns {}", self.name))?;
            Ok(work())
        })
    }

    /// Brings `lo` up, in a netns that was not created here.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn bring_up(&self) -> Result<()> {
        self.run(|| rtnetlink::set_up("lo"))?.with_context(|| self.about())
    }

    /// Puts `ip` on `lo` (/32, or /128 without duplicate address detection): any process
    /// inside can then listen on it, and any other reach it. Returns when that is so.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the address is there, or takes more
    /// than ten seconds until it can be used.
    pub fn add_address(&self, ip: IpAddr) -> Result<()> {
        self.run(|| {
            rtnetlink::add_address("lo", ip)?;
            // The routes of an IPv4 address are there when the kernel answers.
            if ip.is_ipv6() { wait_until_usable(ip) } else { Ok(()) }
        })?
        .with_context(|| self.about())
    }

    /// Makes two veth devices that lead to each other, both up and both inside, and puts
    /// `ip` on the first.
    ///
    /// For `SO_BINDTODEVICE`: a socket bound to `a` reaches a backend at `ip`, but none
    /// whose address is on `lo`.
    ///
    /// # Errors
    /// When the kernel refuses, for example because it has no veth.
    pub fn add_veth(&self, a: &str, b: &str, ip: IpAddr) -> Result<()> {
        self.run(|| {
            rtnetlink::add_veth(a, b, None)?;
            rtnetlink::set_up(a)?;
            rtnetlink::set_up(b)?;
            rtnetlink::add_address(a, ip)
        })?
        .with_context(|| self.about())
    }

    /// Joins this netns to another by a pair of veth devices, both up and both of this name, with one address each:
    /// `ip` here and `far_ip` there, of one network of `prefix` bits.
    ///
    /// # Errors
    /// When the kernel refuses, for example because it has no veth.
    pub fn join(&self, device: &str, ip: IpAddr, far: &Self, far_ip: IpAddr, prefix: u8) -> Result<()> {
        let far_fd = far.live_fd()?;
        self.run(|| rtnetlink::add_veth(device, device, Some(far_fd)))?.with_context(|| self.about())?;
        for (netns, ip) in [(self, ip), (far, far_ip)] {
            let work = || {
                rtnetlink::add_address_of(device, ip, prefix)?;
                rtnetlink::set_up(device)
            };
            netns.run(work)?.with_context(|| netns.about())?;
        }
        Ok(())
    }

    /// Puts one more address on a device that has an address of the same network of `prefix` bits. It is a secondary one: the
    /// kernel chooses it for no socket, not even for one that is connected to it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn add_secondary(&self, device: &str, ip: IpAddr, prefix: u8) -> Result<()> {
        self.run(|| rtnetlink::add_address_of(device, ip, prefix))?.with_context(|| self.about())
    }

    /// Adds a route that ends at once: from now on the kernel answers *host unreachable* for `ip`.
    ///
    /// # Errors
    /// When the kernel refuses, for example because the route is there.
    pub fn make_unreachable(&self, ip: Ipv4Addr) -> Result<()> {
        self.run(|| rtnetlink::add_unreachable(ip))?.with_context(|| self.about())
    }

    /// Sets a sysctl of the netns, such as `net.ipv4.ip_local_port_range`.
    ///
    /// # Errors
    /// When there is no such sysctl, it is not per netns, or the value does not fit.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        if !key.starts_with("net.") || key.contains('/') {
            bail!("sysctl {key} {}: only net.* is per netns", self.about());
        }
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        self.run(|| fs::write(&path, value))?
            .with_context(|| format!("set {key} to {value:?} {}", self.about()))
    }

    /// Takes name and descriptor away. The netns lives on while processes or sockets are
    /// inside, and nothing in the file system leads to it.
    ///
    /// # Errors
    /// When the name cannot be unmounted; it is then still there.
    pub fn forget_name(&mut self) -> Result<()> {
        if let Some(path) = &self.mount {
            remove_name(path)?;
            self.mount = None;
        }
        self.fd = None;
        Ok(())
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = self.forget_name() {
            tracing::warn!("left behind: {error:#}");
        }
    }
}

/// Waits until a datagram to an address of this netns arrives. The kernel puts the routes of
/// an IPv6 address in place from a work queue, one after the other: for a moment a connect
/// fails, or finds a route that leads nowhere and keeps it.
fn wait_until_usable(ip: IpAddr) -> Result<()> {
    let arrives = || -> io::Result<()> {
        let receiver = UdpSocket::bind((ip, 0))?;
        receiver.set_read_timeout(Some(Duration::from_millis(20)))?;
        let sender = UdpSocket::bind((ip, 0))?;
        sender.connect(receiver.local_addr()?)?;
        sender.send(b"there?")?;
        receiver.recv(&mut [0; 8]).map(drop)
    };
    let deadline = Instant::now() + USABLE;
    while let Err(error) = arrives() {
        if Instant::now() >= deadline {
            return Err(error).with_context(|| format!("nothing arrives at {ip}"));
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Unmounts and unlinks a name in [`NAMES`].
pub(super) fn remove_name(path: &Path) -> Result<()> {
    match sys::unmount(path) {
        // EINVAL: the mount was never made or is gone, only the file is left.
        Err(error) if error.raw_os_error() != Some(libc::EINVAL) => {
            if error.kind() == io::ErrorKind::NotFound {
                return Ok(());
            }
            return Err(error).with_context(|| format!("unmount {}", path.display()));
        }
        _ => {}
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Makes [`NAMES`] a shared mount, as iproute2's `netns_add` does: a name removed in one mount
/// namespace is then removed in all others that have a copy of it.
fn share_directory() -> io::Result<()> {
    // Two threads must not both stack a mount on the directory.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();

    let names = Path::new(NAMES);
    fs::create_dir_all(names)?;
    let share = || sys::mount(Path::new("none"), names, libc::MS_SHARED | libc::MS_REC);
    match share() {
        // Not a mount point yet.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(names, names, libc::MS_BIND | libc::MS_REC)?;
            share()
        }
        result => result,
    }
}

/// Runs `work` on a new thread, so that its changes to the thread end with it.
fn on_fresh_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("netns".to_owned())
            .spawn_scoped(scope, work)
            .context("start a thread")?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

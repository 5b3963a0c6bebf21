//! Resolves the names in a selector to the numbers that sockets have: the id of a cgroup, the cookie of a network
//! namespace, the number of an interface.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use skreap_bpf::{Place, Rule};
use skreap_core::{ActionRule, CgroupName, Event, NetnsName, Selector, Zone};

use crate::engine::Rules;
use crate::sys::alone::Alone;
use crate::sys::cgroup;
use crate::sys::netns::{self, NetnsId, file};

/// How long the look may take. A path can lead to a file system that never returns.
const PATIENCE: Duration = Duration::from_secs(1);

/// The rules of an event, in a service that covers the sockets of a cgroup. An error names the condition, and the next step.
/// A name that no longer exists is an error, too: no socket would be found, and that would look like success.
pub(super) fn rules(event: &Event, covered: &Path) -> Result<Rules, String> {
    let of_selector = |selector: &Selector| of_selector(selector, covered);
    let rule = |selector: &Option<Box<Selector>>| selector.as_deref().map(of_selector).transpose();
    Ok(Rules {
        selected: rule(&event.selector)?.unwrap_or_default(),
        except: rule(&event.except)?,
        allowed: event.action.allowed().iter().map(of_selector).collect::<Result<_, _>>()?,
    })
}

/// Where a rule of the service leads to; `None`: nowhere now, as its cgroup is gone or cannot be found.
pub(super) fn of_rule(rule: &ActionRule, covered: &Path) -> Option<Place> {
    let selector = Selector { cgroup: rule.cgroup.clone(), uid: rule.uid, ..Selector::default() };
    find(&selector, covered)
        .map_err(|message| tracing::debug!(rule = %rule.name, "it holds for nothing: {message}"))
        .ok()
}

fn of_selector(selector: &Selector, covered: &Path) -> Result<Rule, String> {
    let place = if selector.has_place() { find(selector, covered)? } else { Place::default() };
    Ok(Rule { protocol: selector.protocol, to: selector.to.clone(), ports: selector.ports.clone(), place })
}

/// On a thread of its own, which is left behind if it hangs.
fn find(selector: &Selector, covered: &Path) -> Result<Place, String> {
    let (owned, covered) = (selector.clone(), covered.to_owned());
    let looking = Alone::beside_raised("skreap-place", move || look(&owned, &covered)).map_err(|e| {
        format!("cannot start the thread that looks for {selector}: {e}; send the event again")
    })?;
    looking.wait(PATIENCE, || ()).unwrap_or_else(|| {
        Err(format!("{selector}: not found within {} s; name files that can be opened", PATIENCE.as_secs()))
    })
}

fn look(selector: &Selector, covered: &Path) -> Result<Place, String> {
    let netns = selector.netns.as_ref().map(find_netns).transpose()?;
    let interface = selector.interface.zip(netns);
    Ok(Place {
        cgroup: selector.cgroup.as_ref().map(|name| find_cgroup(name, covered)).transpose()?,
        netns: netns.map(|id| id.cookie),
        uid: selector.uid,
        ifindex: interface.map(|(zone, netns)| find_interface(zone, netns)).transpose()?,
    })
}

/// Only in the cgroup whose sockets the service covers, or below: of others it knows no sockets, which would look like
/// success.
fn find_cgroup(name: &CgroupName, covered: &Path) -> Result<u64, String> {
    let id = find_any_cgroup(name)?;
    let covered_path = covered.display();
    let unseen = |e: std::io::Error| {
        format!(
            "cgroup {name}: cannot see whether it is in {covered_path}, whose sockets this service covers: {e}"
        )
    };
    let directory = cgroup::open(covered).map_err(unseen)?;
    let root = directory.metadata().map_err(unseen)?;
    let below = || cgroup::is_below(&directory, id, root.ino(), root.dev());
    let covers = root.ino() == id
        || below().map_err(|e| match e.raw_os_error() {
            // It was removed since it was found.
            Some(libc::ESTALE | libc::ENOENT) => is_gone(name),
            _ => unseen(e),
        })?;
    if covers {
        return Ok(id);
    }
    Err(format!("cgroup {name}: this service covers the sockets of {covered_path} only; name a cgroup in it"))
}

fn is_gone(name: &CgroupName) -> String {
    format!("cgroup {name}: it is gone, or was never there; name one that lives")
}

fn find_any_cgroup(name: &CgroupName) -> Result<u64, String> {
    let failed = |e: std::io::Error| match e.raw_os_error() {
        Some(libc::ESTALE | libc::ENOENT) => is_gone(name),
        _ => format!("cgroup {name}: {e}; name a directory of cgroup2, or its id"),
    };
    match name {
        CgroupName::Path(path) => {
            let directory = cgroup::open(Path::new(path)).map_err(failed)?;
            directory.metadata().map(|metadata| metadata.ino()).map_err(failed)
        }
        CgroupName::Id(id) => {
            let mount = cgroup::mount().map_err(failed)?;
            let directory = cgroup::open(&mount.path).map_err(failed)?;
            cgroup::open_by_id(&directory, *id).map(|_| *id).map_err(failed)
        }
    }
}

fn find_netns(name: &NetnsName) -> Result<NetnsId, String> {
    if let NetnsName::Cookie(cookie) = name {
        return by_cookie(*cookie);
    }
    let path = file_of(name);
    // Through the descriptor: the path may lead elsewhere by now.
    let identify =
        |netns: OwnedFd| netns::identify(Path::new(&format!("/proc/self/fd/{}", netns.as_raw_fd())));
    file::open(&path)
        .and_then(identify)
        .map_err(|e| format!("netns {name}: {e}; name a living network namespace"))
}

/// As for ip(8) and on the command line, a name comes before a pid.
fn file_of(name: &NetnsName) -> String {
    if let NetnsName::Pid(pid) = name {
        let named = NetnsName::Name(pid.to_string()).file().unwrap_or_default();
        if Path::new(&named).symlink_metadata().is_ok() {
            return named;
        }
    }
    name.file().unwrap_or_default()
}

fn by_cookie(cookie: u64) -> Result<NetnsId, String> {
    let all = netns::everywhere().map_err(|e| format!("cannot list the network namespaces: {e}"))?;
    all.netns.into_iter().find(|id| id.cookie == cookie).ok_or_else(|| {
        let why = if all.whole {
            "it is gone, or was never there"
        } else {
            "it is not among those that can be seen"
        };
        format!("netns cookie:{cookie}: {why}; name a living network namespace")
    })
}

fn find_interface(zone: Zone, netns: NetnsId) -> Result<u32, String> {
    let failed =
        |e: std::io::Error| format!("netns of interface {zone}: {e}; name a living network namespace");
    let opened = netns::open_at_once(netns).map_err(failed)?;
    netns::enter(&opened).map_err(failed)?;
    file::index_of(zone.as_str()).ok_or_else(|| {
        format!("the netns has no interface {zone}; name one by its name or number there (ip link)")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_named() {
        let error = find_netns(&NetnsName::Name("no-such-netns".to_owned())).unwrap_err();
        assert!(error.starts_with("netns no-such-netns: No such file"), "{error}");
        let error = find_netns(&NetnsName::Path("/dev/null".to_owned())).unwrap_err();
        assert!(error.starts_with("netns /dev/null: this is no namespace;"), "{error}");
        let error = find_any_cgroup(&CgroupName::Path("/proc".to_owned())).unwrap_err();
        assert!(error.starts_with("cgroup /proc: not a cgroup2 directory;"), "{error}");
        let error = find_any_cgroup(&CgroupName::Path("/no/such".to_owned())).unwrap_err();
        assert!(error.starts_with("cgroup /no/such: it is gone, or was never there;"), "{error}");
        let root = cgroup::mount().unwrap().path.to_str().unwrap().to_owned();
        let error = find_cgroup(&CgroupName::Path(root.clone()), Path::new("/no/such")).unwrap_err();
        let says = format!(
            "cgroup {root}: cannot see whether it is in /no/such, whose sockets this service covers: "
        );
        assert!(error.starts_with(&says), "{error}");
        let uid = Selector { uid: Some(7), ..Selector::default() };
        assert_eq!(find(&uid, Path::new("/")), Ok(Place { uid: Some(7), ..Place::default() }));
    }
}

//! `--netns`: a network namespace as people name one.

use std::path::{Path, absolute};

use anyhow::{Context as _, ensure};
use skreap::core::NetnsName;

/// Where ip-netns(8) keeps names.
const NAMES: &str = "/run/netns";

/// A network namespace that is given by its name in ip-netns(8), by a path, by the pid of a process in it, or by its
/// cookie. As for ip(8), a name comes before a pid.
pub(super) fn named(given: &str) -> anyhow::Result<NetnsName> {
    ensure!(!given.is_empty(), "it is empty; write a name, a path or a pid");
    if given.contains('/') {
        let path = absolute(given).context("no absolute path")?;
        return Ok(NetnsName::Path(
            path.into_os_string().into_string().ok().context("the working directory is not UTF-8")?,
        ));
    }
    let file = Path::new(NAMES).join(given);
    let is_pid = given.bytes().all(|byte| byte.is_ascii_digit());
    if is_pid && file.exists() {
        return Ok(NetnsName::Path(format!("{NAMES}/{given}")));
    }
    Ok(given.parse()?)
}

/// The absolute path of its file.
pub(super) fn file_of(netns: &NetnsName) -> anyhow::Result<String> {
    netns.file().with_context(|| {
        format!("--netns {netns}: an interface is looked for in a file of the netns; write its name, a path or a pid")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_paths_and_pids() {
        let here = std::env::current_dir().unwrap();
        let below = |name: &str| here.join(name).to_str().unwrap().to_owned();
        for (given, path) in [
            ("blue", "/run/netns/blue".to_owned()),
            ("cni-6f0a", "/run/netns/cni-6f0a".to_owned()),
            ("4194305", "/proc/4194305/ns/net".to_owned()),
            ("4194305x", "/run/netns/4194305x".to_owned()),
            ("/proc/self/ns/net", "/proc/self/ns/net".to_owned()),
            ("./blue", below("blue")),
            ("some/where", below("some/where")),
        ] {
            assert_eq!(file_of(&named(given).unwrap()).unwrap(), path, "{given}");
        }
        assert_eq!(named("cookie:7").unwrap(), NetnsName::Cookie(7));
        assert!(file_of(&NetnsName::Cookie(7)).is_err());
        assert!(named("").is_err() && named("cookie:").is_err());
    }
}

//! `--netns`: a network namespace as people name one.

use std::path::{Path, absolute};

use anyhow::{Context as _, ensure};

/// Where ip-netns(8) keeps names.
const NAMES: &str = "/run/netns";

/// The absolute path of a network namespace that is given by its name in ip-netns(8), by a path, or by the pid of a
/// process in it. As for ip(8), a name comes before a pid.
pub(super) fn path_of(given: &str) -> anyhow::Result<String> {
    ensure!(!given.is_empty(), "it is empty; write a name, a path or a pid");
    if given.contains('/') {
        let path = absolute(given).context("no absolute path")?;
        return path.into_os_string().into_string().ok().context("the working directory is not UTF-8");
    }
    let named = format!("{NAMES}/{given}");
    let is_pid = given.bytes().all(|byte| byte.is_ascii_digit());
    if is_pid && !Path::new(&named).exists() {
        return Ok(format!("/proc/{given}/ns/net"));
    }
    Ok(named)
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
            assert_eq!(path_of(given).unwrap(), path, "{given}");
        }
        assert!(path_of("").is_err());
    }
}

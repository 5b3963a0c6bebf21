//! A service that is not root's: refused with what to do, or with just the capabilities it needs.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use skreap_testbed::Cgroup;
use tempfile::TempDir;

use crate::commands::{Ten, UDP, good_json};
use crate::hooks;
use crate::process::{self, run_with};
use crate::uid::{Anyone, NOBODY};

crate::tests![without_any_it_says_what_to_do, the_six_are_enough];

/// What the message tells to give, and the unit has.
const SIX: &str = "cap_bpf,cap_net_admin,cap_perfmon,cap_sys_admin,cap_sys_ptrace,cap_dac_read_search";

fn without_any_it_says_what_to_do() -> Result<()> {
    let anyone = Anyone::new()?;
    let ended = anyone.run(&["serve"])?;
    let expected = format!(
        "skreap: this process lacks CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON: run as root, or with CAP_BPF, CAP_NET_ADMIN and \
         CAP_PERFMON (and CAP_SYS_ADMIN, CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH for sockets in other network namespaces), \
         by AmbientCapabilities= of its unit, or permanently by: setcap {SIX}=ep {}\n",
        anyone.binary.display()
    );
    ensure!(ended.code == Some(3) && ended.out.is_empty(), "{ended:?}");
    ensure!(ended.err == expected, "{ended:?}");
    Ok(())
}

/// A user that has these and nothing else serves, and reaches sockets of another user in another netns.
fn the_six_are_enough() -> Result<()> {
    let anyone = Anyone::new()?;
    let cgroup = Cgroup::create("cli-six")?;
    let directory = TempDir::new()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    chown(directory.path(), Some(NOBODY), Some(NOBODY))?;
    let socket = directory.path().join("socket");
    let plus: Vec<String> =
        SIX.split(',').map(|cap| format!("+{}", cap.trim_start_matches("cap_"))).collect();
    let plus = plus.join(",");
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.args(["--inh-caps", &plus, "--ambient-caps", &plus]).arg(&anyone.binary);
    command.args(["serve", "--max-sockets", "2000", "--cgroup"]).arg(cgroup.path());
    command.args(["--source", &format!("unix:{}", socket.display())]);
    command.env_remove("SKREAP_LOG").env_remove("NOTIFY_SOCKET");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let served = (|| {
        process::until("the service to listen", || UnixStream::connect(&socket).is_ok())?;
        ensure!(hooks::attached(&cgroup)? == 5, "not all hooks are attached");
        ensure!(fs::metadata(format!("/proc/{}", child.id()))?.uid() == NOBODY, "it is root's");
        let ten = Ten::inside(&cgroup)?;
        let path = socket.display().to_string();
        let audit = good_json(&["audit", "--socket", &path, "--json"])?;
        ensure!(audit["agrees"] == true && audit["sockets"] == 10, "{audit}");
        let report = good_json(&["reap", UDP, "--socket", &path, "--json"])?;
        ensure!(report["destroyed"] == 6 && report["complete"] == true, "{report}");
        drop(ten);
        Ok(())
    })();
    process::signal(&child, libc::SIGTERM)?;
    let ended = process::collect(&mut child)?;
    served?;
    // Not one warning: nothing that it wanted was refused.
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    // One of the three is not enough.
    let mut one = Command::new("setpriv");
    one.args(["--reuid", "65534", "--inh-caps", &plus, "--ambient-caps", "+bpf"])
        .arg(&anyone.binary)
        .arg("serve");
    let ended = run_with(one, Vec::new())?;
    ensure!(ended.code == Some(3), "{ended:?}");
    ensure!(ended.err.starts_with("skreap: this process lacks CAP_NET_ADMIN, CAP_PERFMON: "), "{ended:?}");
    Ok(())
}

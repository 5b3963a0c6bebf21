//! `demo`: it shows what it must, and leaves nothing behind, however it ends.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use skreap_testbed::cgroup2_root;

use crate::process::{self, collect, run, skreap};

crate::tests![
    exactly_the_victims,
    who_heals_by_which_action,
    as_people_see_it,
    of_another_size,
    interrupted,
    terminated,
    killed_and_swept_by_the_next,
];

fn exactly_the_victims() -> Result<()> {
    let ended = run(&["demo", "--json", "--rounds", "2"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let [demo] = &ended.json()?[..] else { bail!("not one object: {ended:?}") };
    for (field, expected) in [
        ("rounds", 2),
        ("events", 8),
        ("netns", 24),
        ("clients", 4),
        ("servers", 3),
        ("sockets", 2400),
        ("victims", 1600),
        ("destroyed", 1600),
        ("reconnected", 1600),
        ("missed", 0),
        ("bystanders", 3200),
        ("wrongly_destroyed", 0),
        ("unanswered", 0),
        ("incomplete", 0),
    ] {
        ensure!(demo[field] == expected, "{field} is not {expected}: {demo}");
    }
    ensure!(demo["kernel"].is_string() && demo["engine"].is_string(), "{demo}");
    ensure!(demo.get("oddities").is_none(), "{demo}");
    for (times, phases) in
        [("ns", &["queue", "walk", "destroy", "total"][..]), ("owner_ns", &["error", "answer"])]
    {
        for phase in phases {
            let at = |percentile: &str| demo[times][phase][percentile].as_u64();
            let values = ["p50", "p90", "p99", "max"].map(at);
            ensure!(values.is_sorted() && values[0] > Some(0), "{phase}: {demo}");
        }
    }
    Ok(())
}

/// Those who ask are well at once after an error, those who tell only if somebody connects them, and a move keeps
/// those waiting who wait.
fn who_heals_by_which_action() -> Result<()> {
    let ended = run(&["demo", "--action", "destroy,revive,move", "--after-ms", "500", "--json"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let [demo] = &ended.json()?[..] else { bail!("not one object: {ended:?}") };
    let of = |action: usize, kind: &str, field: &str| demo["actions"][action][kind][field].as_u64();
    let well = |action: usize, kind: &str| of(action, kind, "well_ns").map(|ns| ns / 1_000_000);
    let names: Vec<&str> = (0..3).filter_map(|i| demo["actions"][i]["action"].as_str()).collect();
    ensure!(names == ["destroy", "revive", "move"], "{demo}");
    for action in [0, 1] {
        ensure!(
            of(action, "asks", "errors") == Some(1) && of(action, "waits", "errors") == Some(1),
            "{demo}"
        );
        ensure!(of(action, "asks", "lost") == Some(0), "{demo}");
        // Its own timer is 2 s.
        ensure!(well(action, "asks").is_some_and(|ms| ms < 1000), "{demo}");
    }
    ensure!(well(0, "tells").is_none() && of(0, "tells", "errors") == of(0, "tells", "sent"), "{demo}");
    ensure!(well(1, "tells").is_some_and(|ms| (500..3000).contains(&ms)), "{demo}");
    ensure!(of(1, "tells", "lost") < of(0, "tells", "lost") && of(1, "tells", "lost") > Some(5), "{demo}");
    for kind in ["asks", "tells", "waits"] {
        ensure!(of(2, kind, "errors") == Some(0), "{demo}");
    }
    ensure!(well(2, "tells").is_some_and(|ms| ms < 1000) && of(2, "tells", "lost") <= Some(2), "{demo}");
    ensure!(well(2, "asks").is_some_and(|ms| (1000..4000).contains(&ms)), "{demo}");
    let seen = run(&["demo", "--action", "move"])?;
    ensure!(seen.code == Some(0) && seen.out.contains("works again after"), "{seen:?}");
    let wrong = run(&["demo", "--action", "none"])?;
    ensure!(wrong.code == Some(2), "{wrong:?}");
    Ok(())
}

fn as_people_see_it() -> Result<()> {
    let ended = run(&["demo", "--rounds", "1"])?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    let last = ended.out.lines().last();
    ensure!(last == Some("PASS: exactly the sockets of the deleted backends were destroyed"), "{ended:?}");
    let widest = ended.out.lines().map(|l| l.chars().count()).max();
    ensure!(widest <= Some(80), "{widest:?} columns: {}", ended.out);
    Ok(())
}

fn of_another_size() -> Result<()> {
    let args = ["--sockets", "601", "--netns", "5", "--clients", "7", "--rounds", "3", "--json"];
    let ended = run(&[&["demo", "--engine", "auto"], &args[..]].concat())?;
    ensure!(ended.code == Some(0), "{ended:?}");
    let [demo] = &ended.json()?[..] else { bail!("not one object: {ended:?}") };
    ensure!(demo["sockets"] == 601 && demo["netns"] == 5 && demo["clients"] == 7, "{demo}");
    ensure!(demo["victims"] == 600 && demo["bystanders"] == 1203, "{demo}");
    let ended = run(&["demo", "--sockets", "1000000"])?;
    ensure!(ended.code == Some(1) && ended.err.contains("ulimit -n"), "{ended:?}");
    Ok(())
}

fn interrupted() -> Result<()> {
    ended_by(libc::SIGINT)
}

fn terminated() -> Result<()> {
    ended_by(libc::SIGTERM)
}

fn ended_by(signal: i32) -> Result<()> {
    let (mut child, processes) = under_way()?;
    process::signal(&child, signal)?;
    let pid = child.id();
    let ended = collect(&mut child)?;
    ensure!(ended.code == Some(1) && ended.out.is_empty(), "{ended:?}");
    ensure!(ended.err == "skreap: interrupted; everything was removed\n", "{ended:?}");
    ensure!(left_by(pid)?.is_empty(), "left: {:?}", left_by(pid)?);
    ensure!(!processes.iter().any(|p| p.exists()), "a process is left");
    Ok(())
}

fn killed_and_swept_by_the_next() -> Result<()> {
    let (mut child, processes) = under_way()?;
    let pid = child.id();
    child.kill()?;
    child.wait()?;
    // Servers and clients see that they are orphans, and go.
    process::until("its processes to go", || !processes.iter().any(|p| p.exists()))?;
    let ended = run(&["demo", "--rounds", "1", "--sockets", "120", "--netns", "2"])?;
    ensure!(ended.code == Some(0), "{ended:?}");
    ensure!(left_by(pid)?.is_empty(), "left: {:?}", left_by(pid)?);
    Ok(())
}

/// A demo that plays its rounds, and the processes that it has started.
fn under_way() -> Result<(Child, Vec<PathBuf>)> {
    let mut demo = skreap(&["demo", "--rounds", "100000"]);
    let child = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let children = format!("/proc/{0}/task/{0}/children", child.id());
    let mut processes = Vec::new();
    process::until("seven processes and 26 netns and cgroups", || {
        let text = fs::read_to_string(&children).unwrap_or_default();
        processes = text.split_whitespace().map(|pid| Path::new("/proc").join(pid)).collect();
        processes.len() == 7 && left_by(child.id()).is_ok_and(|left| left.len() == 25)
    })?;
    // Into the rounds, or nearly so: each moment must do.
    std::thread::sleep(std::time::Duration::from_millis(500));
    Ok((child, processes))
}

/// The netns and cgroups that a process has made and not removed.
fn left_by(pid: u32) -> Result<Vec<PathBuf>> {
    let mut left = Vec::new();
    for directory in [PathBuf::from("/run/netns"), cgroup2_root()?] {
        for entry in fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(&format!("skreap-{pid}-")) {
                left.push(entry.path());
            }
        }
    }
    Ok(left)
}

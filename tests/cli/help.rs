//! Help, and output that nobody reads to its end.

use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::process::{collect, run, skreap};

crate::tests![every_command_explains_itself, wrong_use_is_exit_2, a_reader_that_leaves_is_no_error];

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible on this kernel or with these privileges.";

fn every_command_explains_itself() -> Result<()> {
    for args in [
        &["--help"][..],
        &["probe", "--help"],
        &["serve", "--help"],
        &["unload", "--help"],
        &["index", "--help"],
        &["status", "--help"],
        &["top", "--help"],
        &["reap", "--help"],
        &["reconcile", "--help"],
        &["audit", "--help"],
        &["demo", "--help"],
    ] {
        let ended = run(args)?;
        ensure!(ended.code == Some(0) && ended.err.is_empty(), "{args:?}: {ended:?}");
        let words: Vec<&str> = ended.out.split_whitespace().collect();
        // `audit` has a word more to say about 1.
        let codes = words.join(" ").replace("1 failed or the index is not right,", "1 failed,");
        ensure!(codes.contains(EXIT_CODES), "{args:?}: {}", ended.out);
    }
    Ok(())
}

fn wrong_use_is_exit_2() -> Result<()> {
    for args in [
        &[][..],
        &["nonsense"],
        &["reap"],
        &["reap", "10.0.0.1:53"],
        &["reap", "udp://10.0.0.1:53", "udp://10.0.0.1"],
        &["reconcile"],
        &["reconcile", "udp://10.0.0.1"],
        &["serve", "--states", "LISTEN"],
        &["serve", "--scope", "some"],
        &["serve", "--max-rate", "0"],
        &["serve", "--max-victims", "-1"],
        &["reap", "udp://10.0.0.1"],
        &["reap", "udp://10.0.0.1:0"],
        &["reap", "udp://0.0.0.0:53"],
        &["reap", "sctp://10.0.0.1:53"],
        &["serve", "--source", "file:x"],
        &["serve", "--source", "unix:"],
        &["serve", "--metrics", "localhost:80"],
        &["serve", "--socket-mode", "rw"],
        &["serve", "--socket-mode", "1777"],
        &["serve", "--socket-owner", "nobody of this name"],
        &["serve", "--allow-uid", "-1"],
        &["serve", "--engine", "magic"],
        &["serve", "--unconnected", "perhaps"],
        &["serve", "--max-sockets", "many"],
        &["serve", "--max-sockets", "0"],
        &["serve", "--buckets", "0"],
        &["demo", "--sockets", "11"],
        &["demo", "--netns", "0"],
        &["demo", "--clients", "0"],
        &["demo", "--rounds", "0"],
    ] {
        let ended = run(args)?;
        ensure!(ended.code == Some(2), "{args:?}: {ended:?}");
        ensure!(ended.out.is_empty() && !ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    let ended = run(&["serve", "--max-sockets", "0"])?;
    ensure!(ended.err == "skreap: max_sockets = 0 is out of range (1 to 67108864)\n", "{ended:?}");
    Ok(())
}

fn a_reader_that_leaves_is_no_error() -> Result<()> {
    for args in [&["probe"][..], &["probe", "--json"], &["--help"], &["demo", "--rounds", "1"]] {
        // A pipe whose reader is gone.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut child = skreap(args).stdout(writer).stderr(Stdio::piped()).spawn()?;
        let ended = collect(&mut child)?;
        ensure!(ended.code == Some(0) && ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    Ok(())
}

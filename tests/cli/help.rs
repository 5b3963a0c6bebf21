//! Help, and output that nobody reads to its end.

use std::process::Stdio;

use anyhow::{Result, ensure};

use crate::process::{collect, run, run_with, skreap};
use crate::serve::Serve;

crate::tests![
    every_command_explains_itself,
    help_fits_a_terminal,
    options_of_serve_are_grouped,
    options_of_events_are_grouped,
    values_that_are_none_say_what_to_write,
    the_version_says_what_is_needed_to_report_a_bug,
    wrong_use_is_exit_2,
    sizes_have_one_range,
    a_backend_that_is_none_says_what_to_write,
    a_reader_that_leaves_is_no_error,
];

const EXIT_CODES: &str =
    "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 not possible on this kernel or with these privileges.";

const HELP: [&[&str]; 14] = [
    &["--help"],
    &["probe", "--help"],
    &["serve", "--help"],
    &["unload", "--help"],
    &["index", "--help"],
    &["status", "--help"],
    &["top", "--help"],
    &["reap", "--help"],
    &["reconcile", "--help"],
    &["replay", "--help"],
    &["terminate", "--help"],
    &["audit", "--help"],
    &["check-rules", "--help"],
    &["demo", "--help"],
];

fn every_command_explains_itself() -> Result<()> {
    for args in HELP {
        let ended = run(args)?;
        ensure!(ended.code == Some(0) && ended.err.is_empty(), "{args:?}: {ended:?}");
        let words: Vec<&str> = ended.out.split_whitespace().collect();
        // `audit` has a word more to say about 1.
        let codes = words.join(" ").replace("1 failed or the index is not right,", "1 failed,");
        ensure!(codes.contains(EXIT_CODES), "{args:?}: {}", ended.out);
    }
    Ok(())
}

fn help_fits_a_terminal() -> Result<()> {
    for args in HELP {
        let mut command = skreap(args);
        command.env("COLUMNS", "80");
        let ended = run_with(command, Vec::new())?;
        let long: Vec<&str> = ended.out.lines().filter(|line| line.chars().count() > 80).collect();
        ensure!(ended.code == Some(0) && long.is_empty(), "{args:?}: {long:#?}");
    }
    Ok(())
}

fn options_of_serve_are_grouped() -> Result<()> {
    let ended = run(&["serve", "--help"])?;
    let headings: Vec<&str> =
        ended.out.lines().filter(|line| line.ends_with(':') && !line.starts_with(' ')).collect();
    let expected = ["Options:", "Requests:", "Watching it:", "Index:", "Reaping:", "Log:"];
    ensure!(headings == expected, "{headings:?}");
    // Only what every command has is under no heading.
    let (_, rest) = ended.out.split_once("Options:\n").unwrap_or_default();
    let (plain, _) = rest.split_once("\n\n").unwrap_or_default();
    let options: Vec<&str> =
        plain.lines().map(|line| line.split(',').next().unwrap_or_default().trim()).collect();
    ensure!(options == ["-h", "-V"], "{plain}");
    Ok(())
}

/// The options under each heading, in their order.
fn grouped(help: &str) -> Vec<(&str, Vec<&str>)> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in help.lines() {
        if line.ends_with(':') && !line.starts_with(' ') {
            groups.push((line.trim_end_matches(':'), Vec::new()));
        } else if let Some((_, options)) = groups.last_mut()
            // What is indented further explains.
            && line.trim_start().starts_with('-')
            && line.len() - line.trim_start().len() <= 6
            && let Some(option) = line.split([' ', ',', '[']).find(|word| word.starts_with("--"))
        {
            options.push(option);
        }
    }
    groups.retain(|(_, options)| !options.is_empty());
    groups
}

/// Each option is under the heading that it belongs to.
fn options_of_events_are_grouped() -> Result<()> {
    const MEANT: &str = "Sockets that are meant: those for which all of these hold";
    const STAY: &str = "Sockets that stay: those for which all of these hold";
    const ACTION: &str = "What is done with them";
    let place = ["--cgroup", "--netns", "--uid", "--interface"];
    let stay = [
        "--except-protocol",
        "--except-to",
        "--except-port",
        "--except-cgroup",
        "--except-netns",
        "--except-uid",
        "--except-interface",
    ];
    let action = |to| vec!["--action", "--force", "--after-ms", to];
    let log = ("Log", vec!["--log", "--log-format"]);
    let (reap, terminate, reconcile) = (
        run(&["reap", "--help"])?.out,
        run(&["terminate", "--help"])?.out,
        run(&["reconcile", "--help"])?.out,
    );
    let expected = [
        ("Options", vec!["--dry-run", "--socket", "--json", "--help", "--version"]),
        (MEANT, [&place[..], &["--frontend", "--unknown-frontend"]].concat()),
        (STAY, stay.to_vec()),
        (ACTION, action("--to")),
        ("Without a service", vec!["--once", "--engine"]),
        log.clone(),
    ];
    ensure!(grouped(&reap) == expected, "{:#?}", grouped(&reap));
    let expected = [
        ("Options", vec!["--dry-run", "--max-victims", "--socket", "--json", "--help", "--version"]),
        (MEANT, [&["--protocol", "--to", "--port"], &place[..]].concat()),
        (STAY, stay.to_vec()),
        (ACTION, action("--destination")),
        log.clone(),
    ];
    ensure!(grouped(&terminate) == expected, "{:#?}", grouped(&terminate));
    let expected = [
        ("Options", vec!["--dry-run", "--max-victims", "--yes", "--socket", "--json", "--help", "--version"]),
        (MEANT, [&["--within"], &place[..]].concat()),
        (STAY, stay.to_vec()),
        (ACTION, action("--to")),
        log,
    ];
    ensure!(grouped(&reconcile) == expected, "{:#?}", grouped(&reconcile));
    Ok(())
}

fn values_that_are_none_say_what_to_write() -> Result<()> {
    let levels = "\"inof\" is no level; write off, error, warn, info, debug, trace, or a filter such as \
                  skreap::service=debug";
    for (args, says) in [
        (["serve", "--max-rate", "0"], "'0' for '--max-rate <N>': write at least 1"),
        (["serve", "--max-rate", "many"], "'many' for '--max-rate <N>': write at least 1"),
        (["status", "--log", "inof"], &format!("'inof' for '--log <FILTER>': {levels}")),
    ] {
        let ended = run(&args)?;
        let expected = format!("error: invalid value {says}\n\nFor more information, try '--help'.\n");
        ensure!(ended.code == Some(2) && ended.err == expected, "{ended:?}");
    }
    Ok(())
}

fn the_version_says_what_is_needed_to_report_a_bug() -> Result<()> {
    let commit = match env!("SKREAP_COMMIT") {
        "" => "unknown",
        commit => commit,
    };
    let expected = format!(
        "skreap {} (commit {commit}, ABI {}, libbpf {})\n",
        env!("CARGO_PKG_VERSION"),
        skreap::bpf::ABI_VERSION,
        skreap::bpf::libbpf_version()
    );
    for args in [&["--version"][..], &["-V"]] {
        let ended = run(args)?;
        ensure!(ended.code == Some(0) && ended.out == expected, "{args:?}: {ended:?}");
    }
    let ended = run(&["serve", "--version"])?;
    ensure!(ended.out == expected.replacen("skreap ", "skreap-serve ", 1), "{ended:?}");
    Ok(())
}

/// Help and error name the same numbers, whatever is wrong with the value.
fn sizes_have_one_range() -> Result<()> {
    let help = run(&["serve", "--help"])?.out;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for (option, range) in [("--max-sockets", "1 to 67108864"), ("--buckets", "1 to 1048576")] {
        ensure!(help.contains(range), "no {range} in {help}");
        let too_many = range.rsplit(' ').next().unwrap_or_default().parse::<u64>()? + 1;
        for value in ["0", "many", "-1", "4294967296", &too_many.to_string()] {
            let ended = run(&["serve", &format!("{option}={value}")])?;
            let expected = format!(
                "error: invalid value '{value}' for '{option} <N>': write a number from {range}\n\n\
                 For more information, try '--help'.\n"
            );
            ensure!(ended.code == Some(2) && ended.err == expected, "{ended:?}");
        }
    }
    Ok(())
}

fn a_backend_that_is_none_says_what_to_write() -> Result<()> {
    for command in [&["reap"][..], &["reconcile"], &["index", "--backend"]] {
        for backend in [
            "10.0.0.1:53",
            "udp:10.0.0.1:53",
            "udp://10.0.0.1",
            "udp://localhost:53",
            "udp://[fd00::1]",
            "",
            "udp://:53",
        ] {
            let ended = run(&[command, &[backend]].concat())?;
            ensure!(ended.code == Some(2) && ended.out.is_empty(), "{command:?} {backend}: {ended:?}");
            let first = ended.err.lines().next().unwrap_or_default();
            ensure!(first.contains("://") && first.contains(';'), "{command:?} {backend}: {ended:?}");
        }
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
        &["terminate"],
        &["terminate", "--to", "0.0.0.0"],
        &["terminate", "--to", "fe80::1"],
        &["terminate", "--to", "10.0.0.1/8"],
        &["terminate", "--port", "0"],
        &["terminate", "--port", "9-8"],
        &["terminate", "--interface", "eth0"],
        &["terminate", "--cgroup", "a.slice"],
        &["serve", "--states", "LISTEN"],
        &["serve", "--scope", "some"],
        &["serve", "--max-rate", "0"],
        &["serve", "--log", "inof"],
        &["status", "--log", "skreap=debug,inof"],
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
    Ok(())
}

fn a_reader_that_leaves_is_no_error() -> Result<()> {
    let serve = Serve::start("cli-leaves")?;
    let socket = serve.socket_arg()?;
    let of_serve = |args: &[&'static str]| [args, &["--socket"]].concat();
    let asking = [
        of_serve(&["index"]),
        of_serve(&["index", "--json"]),
        of_serve(&["status"]),
        of_serve(&["status", "--json"]),
        of_serve(&["audit"]),
        of_serve(&["audit", "--json"]),
        of_serve(&["top"]),
        of_serve(&["reap", "udp://10.96.0.9:53"]),
        of_serve(&["reap", "udp://10.96.0.9:53", "--json"]),
        of_serve(&["reconcile", "udp://10.96.0.9:53", "--dry-run"]),
    ];
    let asking: Vec<Vec<&str>> =
        asking.iter().map(|args| args.iter().copied().chain([socket.as_str()]).collect()).collect();
    let others = [
        &["probe"][..],
        &["probe", "--json"],
        &["--help"],
        &["--version"],
        &["serve", "--help"],
        &["unload", "--pin", "/nowhere"],
        &["demo", "--rounds", "1"],
    ];
    for args in others.into_iter().chain(asking.iter().map(Vec::as_slice)) {
        // A pipe whose reader is gone.
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let mut child = skreap(args).stdout(writer).stderr(Stdio::piped()).spawn()?;
        let ended = collect(&mut child)?;
        ensure!(ended.code == Some(0) && ended.err.is_empty(), "{args:?}: {ended:?}");
    }
    serve.finish()
}

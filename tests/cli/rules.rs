//! `serve --rules` and `check-rules`.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::commands::{TCP, Ten, UDP, good, good_json};
use crate::process::run;
use crate::serve::Serve;

crate::tests![
    a_file_is_checked,
    a_mistake_is_reported_with_its_place,
    a_service_follows_its_rules,
    the_audit_log_says_what_came_of_each,
    state_is_destroyed_unless_forced,
];

/// A backend that nobody is connected to, at the address of [`UDP`].
const ELSEWHERE: &str = "udp://10.96.7.1:54";

/// A file with this text.
struct Rules {
    directory: TempDir,
}

impl Rules {
    fn new(text: &str) -> Result<Self> {
        let directory = TempDir::new()?;
        fs::write(directory.path().join("rules.toml"), text)?;
        Ok(Self { directory })
    }

    fn path(&self) -> String {
        self.directory.path().join("rules.toml").display().to_string()
    }
}

fn a_file_is_checked() -> Result<()> {
    let rules = Rules::new(concat!(
        "[[rule]]\nname = \"logs\"\nprotocol = \"udp\"\nports = [514]\naction = \"revive\"\nto = \"udp://10.0.0.2:514\"\n",
        "[[rule]]\nname = \"idle\"\ncgroup = \"/sys/fs/cgroup/a.slice\"\naction = \"none\"\n",
    ))?;
    let said = good(&["check-rules", &rules.path()])?;
    let expected = "\
1. logs: udp ports 514
     destroyed; UDP sockets that have no peer 3000 ms later are connected to udp://10.0.0.2:514
2. idle: cgroup /sys/fs/cgroup/a.slice
     left alone, and counted
2 rules; all other sockets are destroyed
";
    ensure!(said == expected, "{said}");
    let useless = Rules::new("[[rule]]\naction = \"none\"\n[[rule]]\nports = 514\naction = \"destroy\"\n")?;
    let ended = run(&["check-rules", &useless.path()])?;
    let never = "can NEVER match: \"rule 1\" before it takes every such socket";
    ensure!(ended.code == Some(1) && ended.out.contains(never), "{ended:?}");
    Ok(())
}

fn a_mistake_is_reported_with_its_place() -> Result<()> {
    let rules = Rules::new("[[rule]]\naction = \"revive\"\nto = \"udp://10.0.0.2:514\"\nport = 514\n")?;
    for args in [&["check-rules", &rules.path()][..], &["serve", "--rules", &rules.path()]] {
        let ended = run(args)?;
        let expected =
            format!("skreap: {}:4:1: \"port\" is not known; write one of: name, protocol,", rules.path());
        ensure!(ended.code == Some(1) && ended.err.starts_with(&expected), "{args:?}: {ended:?}");
    }
    let ended = run(&["check-rules", "/no/such/rules.toml"])?;
    ensure!(
        ended.code == Some(1) && ended.err.starts_with("skreap: /no/such/rules.toml: No such file"),
        "{ended:?}"
    );
    let good = Rules::new("[[rule]]\naction = \"move\"\nto = \"udp://10.0.0.2:514\"\n")?;
    for (args, why) in [
        (&["--action", "none"][..], "cannot be used with"),
        (&["--no-revive"], "--no-revive: rule \"rule 1\""),
    ] {
        let ended = run(&[&["serve", "--rules", &good.path()], args].concat())?;
        ensure!(ended.code == Some(2) && ended.err.contains(why), "{args:?}: {ended:?}");
    }
    Ok(())
}

fn a_service_follows_its_rules() -> Result<()> {
    let rules = Rules::new(&format!(
        "[[rule]]\nname = \"web\"\nprotocol = \"tcp\"\nports = 53\naction = \"none\"\n[[rule]]\nname = \"logs\"\naction = \"revive\"\nto = \
         \"{ELSEWHERE}\"\nafter_ms = 1\n"
    ))?;
    let serve = Serve::start_with("cli-rules", &["--rules", &rules.path()])?;
    let mut ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    let told = good(&["reap", UDP, "--socket", &socket])?;
    ensure!(
        told.contains("  rule \"logs\": revive 6 sockets\n") && told.ends_with("6 of 6 sockets revived\n"),
        "{told}"
    );
    let web = good_json(&["reap", TCP, "--socket", &socket, "--json"])?;
    ensure!(web["victims"] == 0 && web["skipped"]["spared"] == 4, "{web}");
    ensure!(web["rules"] == json!([{"rule": "web", "action": "none", "sockets": 4}]), "{web}");
    // Those of UDP have a peer again, those of TCP have theirs still.
    ensure!(ten.client.destroyed(skreap_testbed::Selection::All)?.is_empty());
    // An event may say something else.
    let said = good_json(&["reap", TCP, "--action", "destroy", "--socket", &socket, "--json"])?;
    ensure!(said["destroyed"] == 4 && said.get("rules").is_none(), "{said}");
    drop(ten);
    serve.finish()
}

fn the_audit_log_says_what_came_of_each() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("audit.log").display().to_string();
    let serve = Serve::start_with("cli-rules-log", &["--audit-log", &log])?;
    let ten = Ten::new(&serve)?;
    let socket = serve.socket_arg()?;
    good(&["reap", UDP, "--action", "revive", "--to", ELSEWHERE, "--after-ms", "1", "--socket", &socket])?;
    good(&["reap", ELSEWHERE, "--action", "move", "--to", UDP, "--socket", &socket])?;
    drop(ten);
    serve.finish()?;
    let text = fs::read_to_string(&log)?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let count = |kind: &str, result: &str| {
        lines.iter().filter(|line| line["kind"] == kind && line["result"] == result).count()
    };
    ensure!(count("socket", "destroyed") == 6 && count("socket", "moved") == 6, "{text}");
    ensure!(count("revived-socket", "revived") == 6, "{text}");
    let looked = lines.iter().find(|line| line["kind"] == "revived");
    ensure!(looked.is_some_and(|line| line["revived"]["revived"] == 6), "{text}");
    let to = lines.iter().find(|line| line["kind"] == "revived-socket").map(|line| line["to"].clone());
    ensure!(to == Some(json!(ELSEWHERE)), "{text}");
    let moved = lines.iter().find(|line| line["kind"] == "event" && line.get("moved").is_some());
    ensure!(moved.is_some_and(|line| line["moved"]["moved"] == 6), "{text}");
    Ok(())
}

fn state_is_destroyed_unless_forced() -> Result<()> {
    let quic = "udp://10.96.7.1:443";
    for args in
        [["reap", quic, "--action", "move", "--to", UDP], ["reap", UDP, "--action", "move", "--to", quic]]
    {
        let ended = run(&args)?;
        let why = "port 443 is one of a protocol whose two ends share state";
        ensure!(ended.code == Some(2) && ended.err.contains(why), "{ended:?}");
    }
    let ended = run(&["reap", UDP, "--action", "none", "--force"])?;
    ensure!(ended.code == Some(2) && ended.err.contains("leave --force out"), "{ended:?}");
    let serve = Serve::start("cli-forced")?;
    let socket = serve.socket_arg()?;
    let forced = ["reap", quic, "--action", "move", "--to", UDP, "--force", "--socket", &socket, "--json"];
    let report = good_json(&forced)?;
    ensure!(report["moved"]["sockets"] == 0, "{report}");
    serve.finish()
}

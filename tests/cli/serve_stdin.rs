//! `serve` on stdin: every good line has its report, every bad line its error, whatever comes.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skreap_testbed::Cgroup;

use crate::hooks;
use crate::process::{run_with, skreap};
use crate::serve::{command, event, report_ids};

crate::tests![
    bad_lines_are_named_and_no_event_is_lost,
    five_thousand_events_in_order,
    nothing_at_all,
    answers_that_nobody_reads,
];

/// A line that is refused, and what the refusal must name.
struct Bad {
    line: Vec<u8>,
    number: u64,
    field: Option<&'static str>,
    id: Option<&'static str>,
    says: &'static str,
}

fn bad_lines_are_named_and_no_event_is_lost() -> Result<()> {
    let mut input = Vec::new();
    let mut bad: Vec<Bad> = Vec::new();
    let mut number = 0;
    let good = |input: &mut Vec<u8>, number: &mut u64, id: &str| {
        *number += 1;
        input.extend(event(id).into_bytes());
    };
    let mut refuse = |input: &mut Vec<u8>, number: &mut u64, line: Vec<u8>, field, id, says| {
        *number += 1;
        input.extend(&line);
        input.push(b'\n');
        bad.push(Bad { line, number: *number, field, id, says });
    };
    let with = |rest: &str| format!("{{\"id\":\"bad\",{rest}}}").into_bytes();
    let backend = |b: &str| with(&format!("\"type\":\"backend-deleted\",\"backend\":\"{b}\""));

    good(&mut input, &mut number, "e1");
    refuse(&mut input, &mut number, b"{\"id\":\"bad\",".to_vec(), None, None, "not JSON");
    refuse(&mut input, &mut number, b"[1,2]".to_vec(), None, None, "not a JSON object");
    input.extend(b"\n \t \r\n");
    number += 2;
    let unknown = with("\"type\":\"backend-deleted\",\"backend\":\"udp://10.0.0.1:53\",\"colour\":1");
    refuse(&mut input, &mut number, unknown, Some("colour"), Some("bad"), "not known");
    refuse(&mut input, &mut number, with("\"type\":\"reboot\""), Some("type"), Some("bad"), "not known");
    refuse(&mut input, &mut number, with("\"type\":7"), Some("type"), Some("bad"), "a string");
    let no_backend = with("\"type\":\"backend-deleted\"");
    refuse(&mut input, &mut number, no_backend, Some("backend"), Some("bad"), "missing");
    good(&mut input, &mut number, "e2");
    for address in [
        "udp://10.0.0.256:53",
        "udp://0.0.0.0:53",
        "tcp://[::]:80",
        "tcp://[::ffff:0.0.0.0]:80",
        "udp://10.0.0.1:0",
        "10.0.0.1:53",
    ] {
        refuse(&mut input, &mut number, backend(address), Some("backend"), Some("bad"), "");
    }
    refuse(&mut input, &mut number, vec![b'x'; 2 << 20], None, None, "longer than 1048576 bytes");
    // Every byte value; the newline among them makes two lines of it.
    refuse(&mut input, &mut number, (0..b'\n').collect(), None, None, "not JSON");
    refuse(&mut input, &mut number, (b'\n' + 1..=255).collect(), None, None, "not UTF-8");
    // The last line has no newline.
    input.extend(event("e3").trim_end().bytes());

    let cgroup = Cgroup::create("cli-bad")?;
    let ended = run_with(command(&cgroup, &[]), input)?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{ended:?}");
    ensure!(hooks::attached(&cgroup)? == 0, "hooks are still attached");
    let answers = ended.json()?;
    ensure!(report_ids(&answers) == ["e1", "e2", "e3"], "{answers:?}");
    ensure!(answers.len() == 3 + bad.len(), "{} answers for 3 + {} lines", answers.len(), bad.len());
    for bad in bad {
        let text = String::from_utf8_lossy(&bad.line[..bad.line.len().min(80)]).into_owned();
        let error = answers.iter().find(|a| a["error"]["line"] == bad.number);
        let error = error.with_context(|| format!("no error for line {}: {text}", bad.number))?;
        ensure!(error["error"]["field"] == bad.field.map_or(Value::Null, Value::from), "{text}: {error}");
        ensure!(error.get("id").and_then(Value::as_str) == bad.id, "{text}: {error}");
        let message = error["error"]["message"].as_str().unwrap_or_default();
        ensure!(!message.is_empty() && message.contains(bad.says), "{text}: {error}");
    }
    Ok(())
}

fn five_thousand_events_in_order() -> Result<()> {
    let ids: Vec<String> = (0..5000).map(|i| format!("e{i}")).collect();
    let input = ids.iter().map(|id| event(id)).collect::<String>();
    let cgroup = Cgroup::create("cli-many")?;
    let ended = run_with(command(&cgroup, &["stdin"]), input.into_bytes())?;
    ensure!(ended.code == Some(0) && ended.err.is_empty(), "{:?} {}", ended.code, ended.err);
    let answers = ended.json()?;
    ensure!(answers.len() == 5000, "{} answers", answers.len());
    ensure!(report_ids(&answers) == ids, "not in order");
    ensure!(answers.iter().all(|a| a["complete"] == true && a["victims"] == 0), "a report is off");
    Ok(())
}

fn nothing_at_all() -> Result<()> {
    let cgroup = Cgroup::create("cli-empty")?;
    let ended = run_with(command(&cgroup, &[]), Vec::new())?;
    ensure!(ended.code == Some(0) && ended.out.is_empty() && ended.err.is_empty(), "{ended:?}");
    Ok(())
}

fn answers_that_nobody_reads() -> Result<()> {
    let cgroup = Cgroup::create("cli-unread")?;
    let mut serve = skreap(&["serve", "--cgroup"]);
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let (input, mut events) = std::io::pipe()?;
    let mut child =
        serve.arg(cgroup.path()).stdin(input).stdout(writer).stderr(std::process::Stdio::piped()).spawn()?;
    drop(serve);
    for i in 0..300 {
        std::io::Write::write_all(&mut events, event(&format!("e{i}")).as_bytes())?;
    }
    drop(events);
    let ended = crate::process::collect(&mut child)?;
    ensure!(ended.code == Some(0) && !ended.err.contains("panicked"), "{ended:?}");
    ensure!(ended.err.contains("300 answers were not delivered"), "{ended:?}");
    Ok(())
}

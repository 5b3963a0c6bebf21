//! What is logged, and how.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use skreap_testbed::Cgroup;

use crate::process::{run_with, skreap};
use crate::serve::event;

crate::tests![json_lines_on_stderr];

fn json_lines_on_stderr() -> Result<()> {
    let cgroup = Cgroup::create("cli-logs")?;
    let cgroup = cgroup.path().to_str().context("not UTF-8")?;
    let command = skreap(&["--log", "info", "--log-format", "json", "serve", "--cgroup", cgroup]);
    let ended = run_with(command, event("one").into_bytes())?;
    ensure!(ended.code == Some(0) && ended.out.lines().count() == 1, "{ended:?}");
    let lines: Vec<Value> = ended.err.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let message = |line: &Value, text: &str| line["level"] == "INFO" && line["fields"]["message"] == text;
    ensure!(
        lines.iter().all(|line| line["timestamp"].is_string() && line["target"].is_string()),
        "{ended:?}"
    );
    let attached: Vec<&Value> = lines.iter().filter(|line| message(line, "attached")).collect();
    ensure!(attached.len() == 1 && attached[0]["fields"]["cgroup"] == cgroup, "{ended:?}");
    ensure!(lines.iter().filter(|line| message(line, "done")).count() == 1, "{ended:?}");
    Ok(())
}

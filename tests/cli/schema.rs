//! What the service says has the form that `docs/schema` promises, and what it takes has that of requests.

use std::sync::LazyLock;

use anyhow::{Context as _, Result, ensure};
use jsonschema::Validator;
use serde_json::{Map, Value, json};

use crate::commands::{TCP, Ten, UDP, good};
use crate::serve::{Serve, Talk};
use tempfile::TempDir;

crate::tests![answers_have_their_form, files_are_written];

static REQUEST: LazyLock<Result<Validator, String>> = LazyLock::new(|| compiled(skreap::schema::request()));
static ANSWER: LazyLock<Result<Validator, String>> = LazyLock::new(|| {
    let mut schema = skreap::schema::answer();
    seal(&mut schema, false);
    compiled(schema)
});

fn compiled(schema: Value) -> Result<Validator, String> {
    jsonschema::validator_for(&schema).map_err(|error| error.to_string())
}

/// Readers ignore fields that they do not know. Here each must be in the schema. `sealed`: the object that this is a part
/// of is closed already.
fn seal(schema: &mut Value, sealed: bool) {
    let Value::Object(map) = schema else { return };
    let closes = map.contains_key("properties") && !sealed;
    for (key, below) in map.iter_mut() {
        match (key.as_str(), below) {
            ("oneOf" | "anyOf" | "allOf", Value::Array(parts)) => {
                parts.iter_mut().for_each(|part| seal(part, sealed || closes));
            }
            ("properties" | "$defs", Value::Object(parts)) => {
                parts.values_mut().for_each(|part| seal(part, false));
            }
            ("items" | "additionalProperties", part) => seal(part, false),
            _ => {}
        }
    }
    if closes && !map.contains_key("additionalProperties") {
        map.insert("unevaluatedProperties".to_owned(), Value::Bool(false));
    }
}

fn check(validator: &LazyLock<Result<Validator, String>>, line: &Value) -> Result<()> {
    let validator = (**validator).as_ref().map_err(|error| anyhow::anyhow!("the schema is none: {error}"))?;
    let errors: Vec<String> =
        validator.iter_errors(line).map(|error| format!("{}: {error}", error.instance_path())).collect();
    ensure!(errors.is_empty(), "not of the form of docs/schema: {errors:?}: {line}");
    Ok(())
}

/// That an answer has its form and no other fields; every test asks it of every answer that it reads.
pub fn check_answer(answer: &Value) -> Result<()> {
    check(&ANSWER, answer)
}

/// Sends a request of the right form; gives its answer, which is none to another.
fn ask(client: &mut Talk, request: Value) -> Result<Value> {
    check(&REQUEST, &request)?;
    client.send(&format!("{request}\n"))?;
    let answer = client.answer()?.context("closed")?;
    ensure!(answer["id"] == request["id"], "{answer}");
    Ok(answer)
}

fn kind(answer: &Value) -> &'static str {
    const KINDS: [&str; 6] = ["error", "index", "status", "top", "audit", "revived"];
    let of_report = answer.get("engine").is_some();
    if of_report {
        "report"
    } else {
        KINDS.into_iter().find(|kind| answer.get(kind).is_some()).unwrap_or("none")
    }
}

fn answers_have_their_form() -> Result<()> {
    let directory = TempDir::new()?;
    let log = directory.path().join("log");
    let log = log.to_str().context("the path is not UTF-8")?;
    let serve = Serve::start_with("cli-schema", &["--audit-log", log, "--attribute"])?;
    let mut ten = Ten::new(&serve)?;
    let mut client = serve.client()?;
    let mut id = 0;
    let mut request = |kind: &str, fields: Value| {
        id += 1;
        let mut request = json!({"id": format!("s{id}"), "type": kind});
        let fields: Map<String, Value> = fields.as_object().cloned().unwrap_or_default();
        for (name, value) in fields {
            request[name] = value;
        }
        request
    };
    let cgroup = serve.cgroup.path();
    let wide = || json!({"cgroup": cgroup, "to": ["10.96.0.0/16"]});
    let asked = [
        request("backend-deleted", json!({"backend": UDP, "dry_run": true})),
        request("backends-deleted", json!({"backends": [UDP, TCP], "dry_run": true, "where": {"uid": 0}})),
        request("terminate", json!({"where": wide(), "except": {"protocol": "tcp"}, "dry_run": true})),
        request("terminate", json!({"where": wide(), "max_victims": 3})),
        request("terminate", json!({"where": {"netns": "no-such-netns"}})),
        request(
            "policy",
            json!({"where": wide(), "allow": [{"protocol": "tcp", "ports": ["53"]}], "dry_run": true}),
        ),
        request("reconcile", json!({"backends": [TCP], "within": ["10.96.0.0/16"], "dry_run": true})),
        request("backend-added", json!({"backend": UDP})),
        request("backends-deleted", json!({"backends": [UDP, TCP], "where": {"protocol": "tcp"}})),
    ];
    for request in asked {
        let answer = ask(&mut client, request)?;
        ensure!(kind(&answer) == "report", "{answer}");
    }
    ensure!(ten.echo(0, 6)?.answered() == 6, "UDP sockets were destroyed");
    let revive = json!({"backend": UDP, "action": "revive", "to": "udp://10.96.7.1:54", "after_ms": 50});
    let report = ask(&mut client, request("backend-deleted", revive))?;
    ensure!(report["destroyed"] == 6 && report["reviving"]["sockets"] == 6, "{report}");
    let later = client.answer()?.context("closed")?;
    ensure!(kind(&later) == "revived" && later["revived"]["revived"] == 6, "{later}");
    let to_move = json!({"backend": "udp://10.96.7.1:54", "action": "move", "to": [UDP]});
    let report = ask(&mut client, request("backend-deleted", to_move))?;
    ensure!(report["moved"]["moved"] == 6, "{report}");
    for question in ["index", "status", "top", "audit"] {
        let answer = ask(&mut client, request(question, json!({})))?;
        ensure!(kind(&answer) == question, "{answer}");
    }
    for bad in ["{\"id\":\"b1\",\"type\":\"index\",\"colour\":1}\n", "nonsense\n"] {
        client.send(bad)?;
        let answer = client.answer()?.context("closed")?;
        ensure!(kind(&answer) == "error", "{answer}");
    }
    // The schema is not one that takes everything.
    ensure!(
        check_answer(&json!({"id": "x"})).is_err() && check_answer(&json!({"id": "x", "index": {}})).is_err()
    );
    let mut status = ask(&mut client, request("status", json!({})))?;
    status["status"]["colour"] = json!("red");
    ensure!(check_answer(&status).is_err(), "a field that the schema does not know");
    drop(ten);
    serve.finish()
}

fn files_are_written() -> Result<()> {
    let directory = TempDir::new()?;
    good(&["generate", "schema", directory.path().to_str().context("the path is not UTF-8")?])?;
    for (name, text) in skreap::schema::files() {
        ensure!(std::fs::read_to_string(directory.path().join(name))? == text, "{name}");
    }
    Ok(())
}

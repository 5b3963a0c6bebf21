//! The oldest compiler: what the workspace says is no older than what its dependencies need.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use serde_json::Value;

use crate::root;

type Version = Vec<u64>;

fn version(text: &str) -> Version {
    text.split('.').map(|part| part.parse().unwrap()).chain([0, 0]).take(3).collect()
}

/// What cargo says of the packages that are built for Linux; `None` where it knows no registry.
fn metadata() -> Option<Value> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let arguments = ["metadata", "--locked", "--offline", "--format-version", "1"];
    let output = Command::new(cargo)
        .args(arguments)
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .ok()?;
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

/// The packages that `name` is built from, itself among them, by id. Without those of tests.
fn built<'a>(metadata: &'a Value, name: &str) -> Vec<&'a Value> {
    let packages: BTreeMap<&str, &Value> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (package["id"].as_str().unwrap(), package))
        .collect();
    let nodes: BTreeMap<&str, &Value> = metadata["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["id"].as_str().unwrap(), node))
        .collect();
    let mut next: Vec<&str> =
        packages.iter().filter(|(_, package)| package["name"] == name).map(|(id, _)| *id).collect();
    let mut found = BTreeMap::new();
    while let Some(id) = next.pop() {
        if found.insert(id, packages[id]).is_some() {
            continue;
        }
        for dependency in nodes[id]["deps"].as_array().unwrap() {
            let kinds = dependency["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                next.push(dependency["pkg"].as_str().unwrap());
            }
        }
    }
    found.into_values().collect()
}

#[test]
fn no_dependency_needs_a_newer_compiler() {
    // A copy of the sources without a registry cannot tell.
    let Some(metadata) = metadata() else { return };
    let built = built(&metadata, "skreap");
    let own = built.iter().find(|package| package["name"] == "skreap").unwrap();
    let own = version(own["rust_version"].as_str().unwrap());
    let needs = |package: &Value| Some(version(package["rust_version"].as_str()?));
    let newer: Vec<String> = built
        .iter()
        .filter(|package| needs(package).is_some_and(|needed| needed > own))
        .map(|package| format!("{} {}", package["name"], package["rust_version"]))
        .collect();
    assert!(built.len() > 100, "the command is made of {} packages only", built.len());
    assert!(newer.is_empty(), "newer than rust-version {own:?}: {newer:?}");
}

//! Who may import whom.

use std::collections::{BTreeMap, BTreeSet};

use crate::product;

/// The wings of `runner/src`, each with those that it may import: `cli → service → reaper → {upkeep, engine} → sys`,
/// and `observe` beside, which imports none.
const WINGS: [(&str, &[&str]); 8] = [
    ("cli", &["service", "reaper", "upkeep", "engine", "observe", "sys"]),
    ("fuzz", &["service", "engine", "observe", "sys"]),
    ("service", &["reaper", "upkeep", "engine", "observe", "sys"]),
    ("reaper", &["upkeep", "engine", "observe", "sys"]),
    ("upkeep", &["engine", "observe", "sys"]),
    ("engine", &["sys"]),
    ("observe", &[]),
    ("sys", &[]),
];

/// The sets of modules of a crate that import each other in a circle. A folder's own file (`mod.rs`) may use what its
/// children define, and they what it defines: they are one subject in several files.
pub fn circles(imports: &BTreeMap<&str, BTreeSet<&str>>) -> Vec<Vec<String>> {
    let reach = |from: &str| {
        let (mut seen, mut next) = (BTreeSet::new(), vec![from.to_owned()]);
        while let Some(module) = next.pop() {
            let is_child =
                |other: &str| other.strip_prefix(&module).is_some_and(|rest| rest.starts_with("::"));
            for imported in
                imports.get(module.as_str()).into_iter().flatten().filter(|other| !is_child(other))
            {
                if seen.insert((*imported).to_owned()) {
                    next.push((*imported).to_owned());
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&str, BTreeSet<String>> =
        imports.keys().map(|module| (*module, reach(module))).collect();
    let mut found = BTreeSet::new();
    for (module, reaches) in &reached {
        if reaches.contains(*module) {
            let circle = reaches.iter().filter(|other| reached[other.as_str()].contains(*module));
            found.insert(circle.cloned().collect::<Vec<_>>());
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_module_of_the_product_imports_itself_in_a_circle() {
    let found: Vec<_> = product().iter().flat_map(|source| circles(&source.imports())).collect();
    assert!(found.is_empty(), "circles of imports: {found:?}");
}

#[test]
fn wings_import_downwards_only() {
    let product = product();
    let runner = product.iter().find(|source| source.name == "runner").unwrap();
    let wing = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut wrong = BTreeSet::new();
    for (module, imports) in runner.imports() {
        // The root re-exports what is public, and `main` is the command line.
        let from = if module == "main" { "cli".to_owned() } else { wing(module) };
        if from.is_empty() {
            continue;
        }
        let may = WINGS.iter().find(|(name, _)| *name == from);
        let (_, may) =
            may.unwrap_or_else(|| panic!("{module} is in no wing: say in tests/house what it may import"));
        for to in imports {
            if wing(to) != from && !may.contains(&wing(to).as_str()) {
                wrong.insert(format!("{module} imports {to}"));
            }
        }
    }
    assert!(wrong.is_empty(), "upwards: {wrong:#?}");
}

#[test]
fn a_circle_is_found() {
    let imports = BTreeMap::from([
        ("a", BTreeSet::from(["b"])),
        ("b", BTreeSet::from(["c"])),
        ("c", BTreeSet::from(["b"])),
    ]);
    assert_eq!(circles(&imports), [["b", "c"]]);
}

/// Policy knows nothing of memory or capabilities: the kernel is called in `sys`, or through a crate that does.
#[test]
fn unsafe_code_and_raised_capabilities_stay_in_sys() {
    let product = product();
    let runner = product.iter().find(|source| source.name == "runner").unwrap();
    let mut wrong = BTreeSet::new();
    for (module, source) in &runner.modules {
        for word in ["unsafe {", "unsafe impl", "privileges::raise("] {
            // What takes over sockets of other processes is raised for as long as its thread lives.
            let raised = word == "privileges::raise(" && module.starts_with("engine::connect");
            if source.code.contains(word) && !module.starts_with("sys::") && !raised {
                wrong.insert(format!("{module}: {word}"));
            }
        }
    }
    assert!(wrong.is_empty(), "outside runner/src/sys: {wrong:#?}");
}

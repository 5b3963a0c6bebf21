//! The house in numbers: how much of it there is, and that some of them do not grow again.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::process::Command;

use crate::source::{Crate, files};
use crate::{arrows, product, root};

/// A function of the product should fit a screen.
const LONG_FUNCTION: usize = 60;
/// So should be said of a file, in several.
const LONG_FILE: usize = 500;

/// Functions of more than [`LONG_FUNCTION`] lines, each as `file: name, lines`.
fn long_functions(source: &Crate) -> Vec<String> {
    let mut found = Vec::new();
    for module in source.modules.values() {
        for (at, _) in module.code.match_indices("fn ") {
            let Some(open) = module.code[at..].find(['{', ';']).map(|open| at + open) else { continue };
            let mut depth = 0;
            let end = module.code[open..].find(|c| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            });
            let lines = module.code[at..open + end.unwrap_or(0)].lines().count();
            if lines > LONG_FUNCTION {
                let name = module.code[at + 3..].split(['(', '<']).next().unwrap_or_default();
                found.push(format!("{}: {name}, {lines} lines", module.file.display()));
            }
        }
    }
    found
}

/// Rust files of more than [`LONG_FILE`] lines.
fn long_files() -> Vec<String> {
    ["core", "bpf", "runner", "benches", "tests"]
        .iter()
        .flat_map(|directory| files(&root().join(directory)))
        .filter(|file| fs::read_to_string(file).unwrap().lines().count() > LONG_FILE)
        .map(|file| file.strip_prefix(root()).unwrap_or(&file).display().to_string())
        .collect()
}

/// Blocks and implementations that are `unsafe`.
fn unsafe_blocks(source: &Crate) -> usize {
    let count = |code: &str| code.matches("unsafe {").count() + code.matches("unsafe impl").count();
    source.modules.values().map(|module| count(&module.code)).sum()
}

/// Lines of the kernel side that are not Rust.
fn c_lines() -> usize {
    ["bpf/progs", "bpf/include", "bpf/kmod"]
        .iter()
        .flat_map(|directory| fs::read_dir(root().join(directory)).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c" || extension == "h"))
        .map(|path| fs::read_to_string(path).unwrap().lines().count())
        .sum()
}

/// What cargo says, line by line; `None` if there is no cargo here, or it knows no such package.
fn lines_of(program: &str, arguments: &[&str]) -> Option<BTreeSet<String>> {
    let output = Command::new(program).args(arguments).current_dir(root()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.lines().map(|line| line.replace(" (*)", "")).collect())
}

/// Crates that a program gets with the library and without the command line, the library among them.
fn embedded_crates() -> Option<usize> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let tree =
        ["tree", "--locked", "--offline", "--edges", "normal", "--package", "skreap", "--prefix", "none"];
    Some(lines_of(&cargo, &[&tree[..], &["--no-default-features"]].concat())?.len())
}

#[test]
fn an_embedder_gets_few_crates() {
    // A copy of the sources without a registry cannot count.
    if let Some(crates) = embedded_crates() {
        assert!(crates <= 45, "{crates} crates: cargo tree -e normal -p skreap --no-default-features");
    }
}

#[test]
fn the_wings_are_few() {
    let entries = fs::read_dir(root().join("runner/src")).unwrap().count();
    assert!(entries <= 10, "{entries} entries in runner/src");
}

#[test]
fn tests_in_files_of_their_own_are_no_product() {
    let product = product();
    let core = product.iter().find(|source| source.name == "core").unwrap();
    assert!(core.modules.contains_key("request") && !core.modules.contains_key("request::tests"));
    // The declaration of such a module does not end the code of the file that has it.
    assert!(core.modules[""].code.contains("pub use socket::"));
}

#[test]
fn functions_are_short() {
    let long: Vec<String> = product().iter().flat_map(long_functions).collect();
    assert!(long.is_empty(), "over {LONG_FUNCTION} lines: {long:#?}");
}

#[test]
fn files_are_short() {
    let long = long_files();
    assert!(long.len() <= 2, "over {LONG_FILE} lines: {long:#?}");
}

/// The table of CONTRIBUTING.md: `make house` prints it.
#[test]
fn numbers() {
    let product = product();
    let benches = Crate::read(&root().join("benches/src"));
    let circles: usize = product.iter().map(|source| arrows::circles(&source.imports()).len()).sum();
    let rust: usize =
        product.iter().flat_map(|source| source.modules.values()).map(|m| m.product_lines).sum();
    let unsafes: usize = product.iter().chain([&benches]).map(unsafe_blocks).sum();
    let long: Vec<String> = product.iter().flat_map(long_functions).collect();
    let long_files = long_files();
    let tracked = lines_of("git", &["ls-files"]).map(|files| files.len());
    let known = |n: Option<usize>| n.map_or_else(|| "unknown here".to_owned(), |n| n.to_string());
    println!("{:>8}  entries in runner/src", fs::read_dir(root().join("runner/src")).unwrap().count());
    println!("{circles:>8}  circles of imports");
    println!("{:>8}  product lines ({rust} Rust without tests, {} C)", rust + c_lines(), c_lines());
    println!("{unsafes:>8}  unsafe blocks in product and benches");
    println!("{:>8}  functions over {LONG_FUNCTION} lines", long.len());
    long.iter().for_each(|function| println!("          {}", function.replace(root().to_str().unwrap(), "")));
    println!("{:>8}  crates for an embedder", known(embedded_crates()));
    println!("{:>8}  files over {LONG_FILE} lines", long_files.len());
    long_files.iter().for_each(|file| println!("          {file}"));
    println!("{:>8}  files in the tree", known(tracked));
}

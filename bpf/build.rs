//! Compiles the BPF programs and generates their Rust types from BTF.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use libbpf_cargo::SkeletonBuilder;

const OBJECTS: [&str; 9] =
    ["skreap", "frontends", "scan", "owner", "netns", "tables", "openers", "select", "select_frontends"];

/// Where a package has the types, for documentation only: docs.rs has no clang. `make types` writes them.
const TYPES: &str = "types";

fn main() {
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    println!("cargo::rerun-if-env-changed=SKREAP_TYPES");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed=progs");
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    // `kernel.h`, for build scripts of crates with programs of their own: DEP_SKREAP_BPF_INCLUDE.
    println!("cargo::metadata=include={}", root.join("include").display());
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    if env::var_os("DOCS_RS").is_some() {
        documented(&out);
    } else {
        compile(&out);
    }
}

/// Compiles every object.
fn compile(out: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang-19".to_owned());
    for object in OBJECTS {
        let skeleton = out.join(format!("{object}.skel.rs"));
        SkeletonBuilder::new()
            .source(format!("progs/{object}.bpf.c"))
            .obj(out.join(format!("{object}.bpf.o")))
            .clang(&clang)
            // v3: compare-and-swap and 32-bit branches
            .clang_args(["-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
            .build_and_generate(&skeleton)
            .unwrap_or_else(|e| {
                panic!("cannot build {object}.bpf.c with {clang} (`make deps` installs it): {e:#}")
            });
        let types = types(&read(&skeleton));
        write(&out.join(format!("{object}.types.rs")), &types);
        if let Some(directory) = env::var_os("SKREAP_TYPES") {
            write(&PathBuf::from(directory).join(format!("{object}.rs")), &types);
        }
    }
}

/// Takes the types that the package has, and no programs: what is documented is never run.
fn documented(out: &Path) {
    println!("cargo::rerun-if-changed={TYPES}");
    for object in OBJECTS {
        write(&out.join(format!("{object}.types.rs")), &read(&Path::new(TYPES).join(format!("{object}.rs"))));
        write(&out.join(format!("{object}.bpf.o")), "");
    }
}

/// The module of types in a generated skeleton. Nothing else of it is used: objects are loaded by name.
fn types(skeleton: &str) -> String {
    let from = skeleton.lines().skip_while(|line| *line != "    pub mod types {");
    let mut types = String::new();
    for line in from {
        types.push_str(line);
        types.push('\n');
        if line == "    }" {
            return types;
        }
    }
    panic!("libbpf-cargo writes its module of types in another way: see `types` in bpf/build.rs");
}

fn read(path: &Path) -> String {
    fs::read_to_string(path)
        .unwrap_or_else(|e| panic!("{}: {e}; `make types` writes bpf/{TYPES} for packages", path.display()))
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

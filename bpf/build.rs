//! Compiles the BPF programs and generates their Rust types from BTF.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang-19".to_owned());

    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-changed=include");
    println!("cargo::rerun-if-changed=progs");

    for object in ["skreap", "scan", "owner", "netns", "tables", "openers"] {
        SkeletonBuilder::new()
            .source(format!("progs/{object}.bpf.c"))
            .obj(out.join(format!("{object}.bpf.o")))
            .clang(&clang)
            // v3: compare-and-swap and 32-bit branches
            .clang_args(["-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
            .build_and_generate(out.join(format!("{object}.skel.rs")))
            .unwrap_or_else(|e| {
                panic!("cannot build {object}.bpf.c with {clang} (`make deps` installs it): {e:#}")
            });
    }
}

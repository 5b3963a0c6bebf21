//! Compiles the BPF programs of the feature `bpf`, and generates their Rust types from BTF.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

fn main() {
    println!("cargo::rerun-if-env-changed=CLANG");
    println!("cargo::rerun-if-changed=progs");
    if env::var_os("CARGO_FEATURE_BPF").is_none() {
        return;
    }
    // Where `kernel.h` is; the build script of skreap-bpf says it.
    let include = env::var("DEP_SKREAP_BPF_INCLUDE").unwrap_or_default();
    println!("cargo::rerun-if-changed={include}");
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default());
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang-19".to_owned());
    for object in ["baseline", "test_lb", "witness", "pause"] {
        SkeletonBuilder::new()
            .source(format!("progs/{object}.bpf.c"))
            .obj(out.join(format!("{object}.bpf.o")))
            .clang(&clang)
            .clang_args(["-I", &include, "-mcpu=v3", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"])
            .build_and_generate(out.join(format!("{object}.skel.rs")))
            .unwrap_or_else(|e| {
                panic!("cannot build {object}.bpf.c with {clang} (`make deps` installs it): {e:#}")
            });
    }
}

//! The lock-taking functions, the kernel's own or those of the module: whether they can be called here, and if
//! not, why.

use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use libbpf_rs::btf::Btf;
use libbpf_rs::btf::types::Func;

/// BTF of the kernel.
const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";
/// BTF of a module with the kernel's functions, a stand-in on stock kernels: `tests/vm/upstream/module`.
const STAND_IN_BTF: &str = "/sys/kernel/btf/skreap_upstream";
/// That of the module, by which BPF finds the functions. The kernel loads a module without, and registers none then.
const BTF: &str = "/sys/kernel/btf/skreap";

/// Whose functions take references to sockets and destroy them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Functions {
    /// The kernel's own: the patches of `docs/upstream`.
    Kernel,
    /// Those of the module `skreap`.
    Module,
}

impl Functions {
    /// The functions of `bpf/include/kfunc.h` that the programs call: acquire, release, destroy.
    pub(crate) const fn names(self) -> [&'static str; 3] {
        match self {
            Self::Kernel => ["bpf_sock_acquire", "bpf_sock_release", "bpf_sock_destroy_peer_might_sleep"],
            Self::Module => {
                ["skreap_sock_acquire_v1", "skreap_sock_release_v1", "skreap_sock_try_destroy_v1"]
            }
        }
    }
}

impl fmt::Display for Functions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel => write!(f, "this kernel's {}", self.names()[2]),
            Self::Module => write!(f, "module skreap ({BTF})"),
        }
    }
}

/// Why the functions of the module cannot be called.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModuleError {
    /// No module can be loaded, whatever it is.
    #[error("this kernel loads no modules, and has no lock-taking bpf_sock_destroy")]
    NoModules,
    /// It is not installed.
    #[error("the module skreap is not installed: `make kmod-install` builds it for this kernel")]
    NotInstalled,
    /// It is installed, but for another kernel than the one that runs.
    #[error(
        "the module skreap is installed for kernel {installed}, and {running} is running: \
         `make kmod-install` builds it for this one"
    )]
    OtherKernel {
        /// Release for which there is one.
        installed: String,
        /// Release of the running kernel.
        running: String,
    },
    /// It is installed for this kernel.
    #[error("the module skreap is not loaded: `modprobe skreap`")]
    NotLoaded,
    /// It is loaded and of no use.
    #[error(
        "the module skreap is loaded without BTF ({BTF}), so that its functions are not registered: \
         see `dmesg`, install pahole (Debian: dwarves), build it for this kernel and load it again"
    )]
    NoBtf,
    /// It has other functions than these programs call.
    #[error(
        "the loaded module skreap has no {missing}, it is of another version: \
         `rmmod skreap` and load the one that belongs to this program"
    )]
    OtherVersion {
        /// The first function that it lacks.
        missing: &'static str,
    },
    /// The programs were loaded without it: before it was there, or because nobody asked for it.
    #[error("the index holds no references to sockets: it was loaded without the module; restart with it")]
    NotUsed,
    /// The kernel did not take the programs with it.
    #[error("the BPF programs could not be loaded with the module: {0}")]
    Refused(String),
}

/// Checks whether the functions can be called; returns whose they are. The kernel's own come first.
///
/// # Errors
/// [`ModuleError`]: what is missing, and what to do about it.
pub fn look() -> Result<Functions, ModuleError> {
    static KERNEL: OnceLock<bool> = OnceLock::new();
    if *KERNEL.get_or_init(|| kernel_has(Path::new(KERNEL_BTF))) || stand_in_has(Path::new(STAND_IN_BTF)) {
        return Ok(Functions::Kernel);
    }
    look_in(Path::new("/"))
}

/// True if this BTF of a kernel has all of its functions.
fn kernel_has(btf: &Path) -> bool {
    let Ok(btf) = Btf::from_path(btf) else {
        return false;
    };
    Functions::Kernel.names().into_iter().all(|name| btf.type_by_name::<Func<'_>>(name).is_some())
}

fn stand_in_has(btf: &Path) -> bool {
    fs::read(btf).is_ok_and(|btf| Functions::Kernel.names().into_iter().all(|name| has_string(&btf, name)))
}

/// Looks for the module.
fn look_in(root: &Path) -> Result<Functions, ModuleError> {
    let at = |path: &str| root.join(path.trim_start_matches('/'));
    if let Ok(btf) = fs::read(at(BTF)) {
        return match Functions::Module.names().into_iter().find(|name| !has_string(&btf, name)) {
            None => Ok(Functions::Module),
            Some(missing) => Err(ModuleError::OtherVersion { missing }),
        };
    }
    if at("/sys/module/skreap").exists() {
        return Err(ModuleError::NoBtf);
    }
    if !at("/proc/modules").exists() {
        return Err(ModuleError::NoModules);
    }
    let running = fs::read_to_string(at("/proc/sys/kernel/osrelease")).unwrap_or_default().trim().to_owned();
    let installed = installed_for(&at("/lib/modules"));
    if installed.contains(&running) {
        return Err(ModuleError::NotLoaded);
    }
    match installed.into_iter().next() {
        Some(installed) => Err(ModuleError::OtherKernel { installed, running }),
        None => Err(ModuleError::NotInstalled),
    }
}

/// Names in BTF end with a zero byte.
fn has_string(btf: &[u8], name: &str) -> bool {
    let wanted = [name.as_bytes(), &[0]].concat();
    btf.windows(wanted.len()).any(|window| window == wanted)
}

/// Releases whose list of modules has ours.
fn installed_for(modules: &Path) -> Vec<String> {
    let Ok(releases) = fs::read_dir(modules) else {
        return Vec::new();
    };
    let has = |dir: &Path| {
        fs::read_to_string(dir.join("modules.dep")).is_ok_and(|list| {
            list.lines().filter_map(|line| line.split_once(':')).any(|(file, _)| {
                file.rsplit('/')
                    .next()
                    .is_some_and(|name| name == "skreap.ko" || name.starts_with("skreap.ko."))
            })
        })
    };
    let mut found: Vec<String> = releases
        .flatten()
        .filter(|entry| has(&entry.path()))
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths and what is in them.
    type Files<'a> = &'a [(&'a str, &'a [u8])];

    /// A root directory with these files.
    struct Root(std::path::PathBuf);

    impl Root {
        fn new(name: &str, files: Files<'_>) -> Self {
            let root = std::env::temp_dir().join(format!("skreap-module-{name}-{}", std::process::id()));
            for (path, content) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, content).unwrap();
            }
            Self(root)
        }
    }

    impl Drop for Root {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).ok();
        }
    }

    const ALL: &[u8] =
        b"\0skreap_sock_acquire_v1\0skreap_sock_release_v1\0skreap_sock_try_destroy_v1\0skreap_peer\0";

    #[test]
    fn each_thing_that_is_missing_is_told_apart() {
        let running: (&str, &[u8]) = ("proc/sys/kernel/osrelease", b"6.12.1-amd64\n");
        let modules: (&str, &[u8]) = ("proc/modules", b"");
        let here: (&str, &[u8]) = (
            "lib/modules/6.12.1-amd64/modules.dep",
            b"kernel/net/a.ko.xz:\nupdates/dkms/skreap.ko.xz: kernel/net/a.ko.xz\n",
        );
        let elsewhere: (&str, &[u8]) = ("lib/modules/6.12.0-amd64/modules.dep", b"updates/dkms/skreap.ko:\n");
        let loaded: (&str, &[u8]) = ("sys/module/skreap/refcnt", b"0\n");
        let other_version: (&str, &[u8]) = (
            "sys/kernel/btf/skreap",
            b"\0skreap_sock_acquire_v1\0skreap_sock_release_v1\0skreap_sock_destroy_v1\0skreap_sock_try_destroy_v12\0",
        );
        let cases: [(&str, Files<'_>, ModuleError); 6] = [
            ("none", &[running], ModuleError::NoModules),
            ("not-installed", &[running, modules], ModuleError::NotInstalled),
            (
                "elsewhere",
                &[running, modules, elsewhere],
                ModuleError::OtherKernel {
                    installed: "6.12.0-amd64".to_owned(),
                    running: "6.12.1-amd64".to_owned(),
                },
            ),
            ("not-loaded", &[running, modules, here, elsewhere], ModuleError::NotLoaded),
            ("no-btf", &[running, modules, here, loaded], ModuleError::NoBtf),
            (
                "version",
                &[running, modules, loaded, other_version],
                ModuleError::OtherVersion { missing: "skreap_sock_try_destroy_v1" },
            ),
        ];
        for (name, files, expected) in cases {
            let root = Root::new(name, files);
            assert_eq!(look_in(&root.0), Err(expected), "{name}");
        }
        let root = Root::new("ready", &[running, modules, loaded, ("sys/kernel/btf/skreap", ALL)]);
        assert_eq!(look_in(&root.0), Ok(Functions::Module));
    }

    #[test]
    fn kernel_without_readable_btf_has_no_functions_of_its_own() {
        let root = Root::new("no-kernel-btf", &[("vmlinux", b"\0bpf_sock_acquire\0")]);
        assert!(!kernel_has(&root.0.join("vmlinux")));
        assert!(!kernel_has(&root.0.join("none")));
    }

    #[test]
    fn functions_are_named_by_whose_they_are() {
        assert_eq!(Functions::Kernel.to_string(), "this kernel's bpf_sock_destroy_peer_might_sleep");
        assert_eq!(Functions::Module.to_string(), "module skreap (/sys/kernel/btf/skreap)");
    }
}

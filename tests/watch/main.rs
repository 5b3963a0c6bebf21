//! `skreap-watch` from outside: a real etcd, or an API server made by hand, on one side; a socket that answers as `skreap serve` does on the other.
//!
//! The tests of `e2e` and `prometheus` need root, Linux 6.9 with BTF, and the command `skreap`; the others need no privileges. What is missing is said, and the test ignored; with `SKREAP_TESTS=required` it fails.

#![allow(clippy::unwrap_used, reason = "it fails the test")]

mod api_server;
mod e2e;
mod etcd;
mod etcd_server;
mod kubernetes;
mod process;
mod prometheus;
mod service;

use std::env;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Completion, Failed, Trial};

/// A test: fails by an error or by a panic of an assertion.
type Test = (&'static str, fn() -> anyhow::Result<()>);

/// Names a test after its function.
macro_rules! tests {
    ($($run:ident),* $(,)?) => {
        pub(crate) fn tests() -> Vec<$crate::Test> {
            vec![$((concat!(module_path!(), "::", stringify!($run)), $run)),*]
        }
    };
}
pub(crate) use tests;

fn main() -> ExitCode {
    skreap_testbed::become_client_if_asked();
    let arguments = Arguments::from_args();
    let required = env::var("SKREAP_TESTS").is_ok_and(|value| value == "required");
    let trial = |(name, run): Test, lacks: Option<String>| {
        let name = name.split_once("::").map_or(name, |(_, name)| name);
        Trial::ignorable_test(name, move || match lacks {
            Some(lacks) if required => Err(Failed::from(lacks)),
            Some(lacks) => Ok(Completion::ignored_with(lacks)),
            None => run().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:?}"))),
        })
    };
    let etcd = etcd::tests().into_iter().map(|test| trial(test, etcd_server::lacks()));
    let e2e = e2e::tests().into_iter().map(|test| trial(test, e2e::lacks()));
    let prometheus = prometheus::tests().into_iter().map(|test| trial(test, prometheus::lacks()));
    let trials = etcd
        .chain(e2e)
        .chain(prometheus)
        .chain(kubernetes::tests().into_iter().map(|test| trial(test, None)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

//! The `skreap` command from outside: what goes in, what comes out, how it exits, what stays behind.
//!
//! Every test starts the binary that cargo built, and gives each `serve` a cgroup of its own. Needs root, BTF
//! and cgroup2; without them the tests are ignored, with the reason; with `SKREAP_TESTS=required` in the
//! environment they fail instead.

mod audit;
mod audit_log;
mod bad_days;
mod cgroups;
mod commands;
mod demo;
mod descriptors;
mod embedding;
mod events;
mod generate;
mod held;
mod help;
mod hooks;
mod intents;
mod logs;
mod metrics;
mod metrics_hooks;
mod missing;
mod netns_arg;
mod once;
mod order;
mod pin;
mod privileges;
mod process;
mod pty;
mod replay;
mod requester;
mod revive;
mod rules;
mod schema;
mod selectors;
mod serve;
mod serve_end;
mod serve_stdin;
mod serve_unix;
mod status;
mod supervisor;
mod terminal;
mod top;
mod uid;
mod unconfirmed;
mod unit;
mod unprivileged;

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
    // Whoever runs the tests may ignore hangups (nohup, some CI), and all children would inherit that.
    // SAFETY: the default action is no function, and nothing else runs yet.
    unsafe { libc::signal(libc::SIGHUP, libc::SIG_DFL) };
    skreap_testbed::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    // The demo alone keeps a machine busy; what is timed out there would be so for no fault of the program.
    arguments.test_threads.get_or_insert(1);
    let lacks = if arguments.list { None } else { lacks() };
    if let Some(lacks) = &lacks {
        eprintln!("the command cannot be tested here: {lacks}");
    }
    let all = [
        help::tests(),
        held::tests(),
        descriptors::tests(),
        generate::tests(),
        unit::tests(),
        unprivileged::tests(),
        bad_days::tests(),
        missing::tests(),
        cgroups::tests(),
        serve_stdin::tests(),
        serve_end::tests(),
        serve_unix::tests(),
        uid::tests(),
        status::tests(),
        supervisor::tests(),
        metrics::tests(),
        metrics_hooks::tests(),
        logs::tests(),
        top::tests(),
        terminal::tests(),
        once::tests(),
        netns_arg::tests(),
        commands::tests(),
        events::tests(),
        requester::tests(),
        revive::tests(),
        unconfirmed::tests(),
        schema::tests(),
        intents::tests(),
        selectors::tests(),
        rules::tests(),
        audit::tests(),
        audit_log::tests(),
        replay::tests(),
        embedding::tests(),
        privileges::tests(),
        demo::tests(),
        pin::tests(),
        order::tests(),
    ];
    let trials = all.into_iter().flatten().map(|(name, run)| {
        let lacks = lacks.clone();
        let name = name.trim_start_matches("cli::");
        Trial::ignorable_test(name, move || match lacks {
            Some(lacks) if env::var_os("SKREAP_TESTS").is_some_and(|v| v == "required") => {
                Err(Failed::from(lacks))
            }
            Some(lacks) => Ok(Completion::ignored_with(lacks)),
            None => run().map(|()| Completion::Completed).map_err(|e| Failed::from(format!("{e:#}"))),
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

/// What this machine lacks, in one sentence.
fn lacks() -> Option<String> {
    let findings = skreap::probe::all();
    if findings.usable() {
        return None;
    }
    let missing = findings.features.into_iter().find(|f| f.required && !f.works);
    Some(missing.map_or(findings.why, |f| format!("{}: {}", f.feature, f.detail)))
}

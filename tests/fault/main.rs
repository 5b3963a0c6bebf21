//! Each call into the kernel made to fail, once, one after the other (`skreap_bpf::fault`): at the start, within an
//! event, while hooks are moved, while one process takes over from another, within an audit.
//!
//! Whatever fails, four things hold. The report is right: it counts as destroyed what died, and does not call itself
//! complete if a socket is left that it does not list as failed. Nothing is leaked: no descriptor, no attached
//! program, no pin, no node. What cannot start leaves nothing behind. And the next event, with nothing failing,
//! destroys what was left and says so.
//!
//! Needs what the kernel tests need, and the feature `fault`. `SKREAP_TEST_ENGINES` and `SKREAP_TEST_NAMES` choose as they do
//! there; what no test has made fail is then no failure.

#[allow(dead_code, reason = "shared with the kernel tests, which use all of it")]
#[path = "../kernel/case.rs"]
mod case;
#[allow(dead_code, reason = "shared with the kernel tests, which use all of it")]
#[path = "../kernel/selection.rs"]
mod selection;
#[allow(dead_code, reason = "shared with the kernel tests, which use all of it")]
#[path = "../kernel/sockets.rs"]
mod sockets;
#[allow(dead_code, reason = "shared with the kernel tests, which use all of it")]
#[path = "../kernel/world.rs"]
mod world;

mod audit;
mod events;
mod intents;
mod order;
mod owners;
mod pins;
mod round;
mod start;

use std::process::ExitCode;

use case::Missing;
use libtest_mimic::Arguments;
use selection::Selection;

fn main() -> ExitCode {
    skreap_testbed::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    // The tests share one machine, and what is to fail is to fail in one of them.
    arguments.test_threads = Some(1);
    let selection = match Selection::from_env() {
        Ok(selection) => selection,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let missing = Missing::look("fault", arguments.list);
    let whole = missing.all.is_none()
        && !arguments.list
        && arguments.filter.is_none()
        && arguments.skip.is_empty()
        && selection.is_everything();
    let cases = [
        events::cases(),
        intents::cases(),
        start::cases(),
        order::cases(),
        pins::cases(),
        audit::cases(),
        owners::cases(),
    ];
    let trials = cases.into_iter().flatten().flat_map(|case| case.trials(selection.engines(), &missing));
    let trials = trials.filter(|trial| selection.takes(trial.name())).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if whole && !conclusion.has_failed() {
        let never = round::never_failed();
        if !never.is_empty() {
            eprintln!("no test has made these fail: {never:?}");
            return ExitCode::FAILURE;
        }
    }
    conclusion.exit_code()
}

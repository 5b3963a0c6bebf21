//! The model test: random operations on real sockets, and after every event the question whether exactly those
//! sockets were destroyed that had to be.
//!
//! [`truth`] is the model: who is connected where, by the kernel's rules. [`driver`] carries a [`script`] out, tells
//! the truth of every call, and holds each report, each socket, the audit and the counters of the index against it.
//! [`random`] makes scripts up; one that fails is shortened, written to a file, and shown.
//!
//! | variable | meaning |
//! |---|---|
//! | `SKREAP_MODEL_SECONDS` | how long random scripts are run (120) |
//! | `SKREAP_MODEL_CASES` | how many at most |
//! | `SKREAP_MODEL_SEED` | the seed that a run has printed |
//! | `SKREAP_MODEL_SCRIPT` | a file: that script alone is run, and nothing else |
//!
//! Needs what the kernel tests need; without that all but the tests of the model itself are ignored, and fail with
//! `SKREAP_TESTS=required`.

mod driver;
mod random;
mod rules;
mod script;
mod scripts;
mod shrink;
mod strategy;
mod truth;
mod world;

use std::env;
use std::process::ExitCode;

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use random::Worlds;
use script::Script;

fn main() -> ExitCode {
    skreap::lab::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let missing = if arguments.list { None } else { world::missing() };
    let needs = |name: &str, run: Box<dyn FnOnce() -> Result<()> + Send>| {
        let missing = missing.clone();
        Trial::ignorable_test(name, move || match missing {
            Some(missing) if env::var_os("SKREAP_TESTS").is_some_and(|v| v == "required") => {
                Err(Failed::from(missing))
            }
            Some(missing) => Ok(Completion::ignored_with(missing)),
            None => run().map(|()| Completion::Completed).map_err(|error| Failed::from(format!("{error:?}"))),
        })
    };
    let trials = match random::replay() {
        Some(script) => vec![needs("script", Box::new(|| run_alone(&script?)))],
        None => {
            let mut trials: Vec<Trial> = rules::trials();
            trials.extend(scripts::KEPT.iter().map(|(name, text)| {
                needs(&format!("script::{name}"), Box::new(move || run_alone(&text.parse()?)))
            }));
            trials.push(needs("random", Box::new(random::run)));
            trials
        }
    };
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run_alone(script: &Script) -> Result<()> {
    let kind = world::Kind::named(&script.world)?;
    if let Some(missing) = kind.missing() {
        eprintln!("passed over, world {} cannot be here: {missing}", script.world);
        return Ok(());
    }
    let tally = Worlds::default().run(script)?;
    eprintln!("model: {tally}");
    Ok(())
}

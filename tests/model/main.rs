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
//! | `SKREAP_MODEL_WORLDS` | only in these worlds, with commas (all) |
//! | `SKREAP_MODULE` | the file of the kernel module that is loaded, for the world in which it comes and goes |
//!
//! Needs what the kernel tests need; without that all but the tests of the model itself are ignored, and fail with
//! `SKREAP_TESTS=required`. The worlds of engine `kfunc` need the kernel module besides, and `SKREAP_KFUNC=required`
//! makes its absence a failure.

mod checks;
mod chosen;
mod driver;
mod frontends;
mod holders;
mod holds;
mod links;
mod module;
mod multipath;
mod random;
mod remedies;
mod rules;
mod script;
mod scripts;
mod sends;
mod shrink;
mod spaces;
mod strategy;
mod text;
mod truth;
mod world;

use std::env;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use random::Worlds;
use script::Script;
use world::Kind;

fn main() -> ExitCode {
    skreap_testbed::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    match trials(&arguments) {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A test that runs scripts in the worlds it is given, which it shares with the others.
type Run = Box<dyn FnOnce(&mut Worlds) -> Result<()> + Send>;

fn trials(arguments: &Arguments) -> Result<Vec<Trial>> {
    let wanted = Kind::wanted()?;
    let missing = if arguments.list { None } else { world::missing() };
    let worlds = Arc::new(Mutex::new(Worlds::default()));
    // `within`: it cannot be without that world.
    let trial = |name: &str, within: Option<Kind>, run: Run| {
        let missing = missing.clone();
        let worlds = Arc::clone(&worlds);
        Trial::ignorable_test(name, move || {
            let lacks = |what: String, variable| {
                if required(variable) { Err(Failed::from(what)) } else { Ok(Completion::ignored_with(what)) }
            };
            if let Some(missing) = missing {
                return lacks(missing, "SKREAP_TESTS");
            }
            if let Some((kind, missing)) = within.and_then(|kind| Some((kind, kind.missing()?))) {
                return if kind.needs_module() {
                    lacks(missing, "SKREAP_KFUNC")
                } else {
                    Ok(Completion::ignored_with(missing))
                };
            }
            // Worlds with which a test has come to nothing are not kept.
            let mut worlds = worlds.lock().unwrap_or_else(PoisonError::into_inner);
            run(&mut worlds)
                .map(|()| Completion::Completed)
                .map_err(|error| Failed::from(format!("{error:?}")))
        })
    };
    if let Some(script) = random::replay() {
        let script = script?;
        let kind = Kind::named(&script.world)?;
        return Ok(vec![trial("script", Some(kind), Box::new(move |worlds| run(worlds, &script)))]);
    }
    let mut trials: Vec<Trial> = rules::trials();
    for (name, text) in scripts::KEPT {
        let script: Script = text.parse()?;
        let own = Kind::named(&script.world)?;
        for (kind, name) in [
            (Some(own), format!("script::{name}")),
            (Kind::with_kfunc(own.name), format!("script::{name}::kfunc")),
        ] {
            let Some(kind) = kind.filter(|kind| wanted.iter().any(|wanted| wanted.name == kind.name)) else {
                continue;
            };
            let script = Script { world: kind.name.to_owned(), ..script.clone() };
            trials.push(trial(&name, Some(kind), Box::new(move |worlds| run(worlds, &script))));
        }
    }
    trials.push(trial("random", None, Box::new(move |worlds| random::run(worlds, &wanted))));
    Ok(trials)
}

/// True if what is missing is to be a failure.
fn required(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "required")
}

fn run(worlds: &mut Worlds, script: &Script) -> Result<()> {
    eprintln!("model: {}", worlds.run(script)?);
    Ok(())
}

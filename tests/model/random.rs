//! Random scripts for as long as is said; one that fails is made as short as it gets.

use std::collections::HashMap;
use std::env;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::driver::{self, Tally};
use crate::required;
use crate::script::{Op, Script};
use crate::shrink::{Failure, shorten};
use crate::strategy;
use crate::world::{Kind, World};

/// Without `SKREAP_MODEL_SECONDS`.
const SECONDS: u64 = 120;

/// Worlds are made when they are first needed, and used again as long as they can be emptied.
#[derive(Default)]
pub struct Worlds {
    made: HashMap<String, World>,
    /// The operations of the last script that were not passed over, up to the one that failed.
    pub carried_out: Vec<Op>,
}

impl Worlds {
    pub fn run(&mut self, script: &Script) -> Result<Tally> {
        let kind = Kind::named(&script.world)?;
        let mut world = match self.made.remove(&script.world) {
            Some(world) => world,
            None => World::new(kind).context("make a world")?,
        };
        if kind.module {
            // What holds references keeps the module where it is.
            self.made.retain(|_, other| other.kind().engine != kind.engine);
        }
        self.carried_out.clear();
        let tally = driver::run(&mut world, script, &mut self.carried_out);
        if tally.is_ok() || world.clear().is_ok() {
            self.made.insert(script.world.clone(), world);
        }
        tally
    }
}

fn setting(name: &str) -> Result<Option<u64>> {
    let Some(value) = env::var_os(name) else { return Ok(None) };
    let value = value.to_str().with_context(|| format!("{name} is not UTF-8"))?;
    value.parse().map(Some).with_context(|| format!("{name}={value} is not a number"))
}

/// Runs random scripts until the time is over; the first ones in every world that is wanted and can be here.
pub fn run(worlds: &mut Worlds, wanted: &[Kind]) -> Result<()> {
    #[expect(clippy::disallowed_methods, reason = "a seed, and no time is measured with it")]
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let seed = setting("SKREAP_MODEL_SEED")?.unwrap_or(now.as_nanos() as u64);
    let time = Duration::from_secs(setting("SKREAP_MODEL_SECONDS")?.unwrap_or(SECONDS));
    let most = setting("SKREAP_MODEL_CASES")?.unwrap_or(u64::MAX);
    let mut here: Vec<(u32, &'static str)> = Vec::new();
    for kind in wanted {
        match kind.missing() {
            None => here.push((kind.weight, kind.name)),
            Some(missing) => ensure!(
                !kind.needs_module() || !required("SKREAP_KFUNC"),
                "no world {}: {missing}",
                kind.name
            ),
        }
    }
    ensure!(!here.is_empty(), "none of the worlds can be here");
    eprintln!("model: seed {seed}, worlds {here:?}");
    let mut first = here.clone().into_iter();
    let strategy = strategy::script(here);
    let mut rng_seed = [0; 32];
    rng_seed[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &rng_seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let mut total = Tally::default();
    let begin = Instant::now();
    while begin.elapsed() < time && total.scripts < most {
        let tree = strategy.new_tree(&mut runner).map_err(|why| anyhow::anyhow!("no script: {why}"))?;
        let mut script = tree.current();
        if let Some((_, world)) = first.next() {
            world.clone_into(&mut script.world);
        }
        match worlds.run(&script) {
            Ok(tally) => total.add(tally),
            Err(error) => {
                let after = total.scripts;
                eprintln!("model: seed {seed}, after {after} scripts: {error:#}");
                let failed = Script { ops: worlds.carried_out.clone(), ..script.clone() };
                let Failure { script, error } = shorten(worlds, failed, Failure { script, error });
                let path = keep(&script, seed)?;
                bail!(
                    "seed {seed}, after {after} scripts: {error:?}\n\nThis script shows it:\n\n{script}\nIt is kept; run it \
                     again with SKREAP_MODEL_SCRIPT={}",
                    path.display()
                );
            }
        }
    }
    eprintln!("model: seed {seed}: {total} in {:.0} s", begin.elapsed().as_secs_f64());
    let left: Vec<&str> = first.map(|(_, world)| world).collect();
    ensure!(
        left.is_empty() || total.scripts >= most,
        "the time was over before there was a script in {left:?}"
    );
    Ok(())
}

/// Where cargo puts what it builds, or else where temporary files are.
fn keep(script: &Script, seed: u64) -> Result<PathBuf> {
    let directory = option_env!("CARGO_TARGET_TMPDIR").map_or_else(env::temp_dir, PathBuf::from);
    let directory = if directory.is_dir() { directory } else { env::temp_dir() };
    let path = directory.join(format!("model-{seed}.script"));
    fs::write(&path, script.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// The script in the file that `SKREAP_MODEL_SCRIPT` names.
pub fn replay() -> Option<Result<Script>> {
    let path = env::var_os("SKREAP_MODEL_SCRIPT")?;
    let read = || {
        let text = fs::read_to_string(&path)?;
        text.parse()
    };
    Some(read().with_context(|| format!("read {}", PathBuf::from(&path).display())))
}

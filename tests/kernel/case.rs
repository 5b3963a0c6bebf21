//! One row of the table of tests, and how it becomes tests.

use std::env;
use std::fmt;
use std::sync::Arc;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};
use skreap::core::EngineName;

use crate::world::{self, World, WorldOptions};

/// A test, before it is multiplied by engines.
#[derive(Clone, Copy)]
pub struct Case {
    name: &'static str,
    run: fn(&mut World) -> Result<()>,
    options: WorldOptions,
    index_only: bool,
    only: [Option<EngineName>; 2],
}

/// The row of the table for the function of that name.
macro_rules! case {
    ($run:ident) => {
        $crate::case::Case::new(stringify!($run), $run)
    };
}
pub(crate) use case;

impl Case {
    pub fn new(name: &'static str, run: fn(&mut World) -> Result<()>) -> Self {
        Self { name, run, options: WorldOptions::default(), index_only: false, only: [None; 2] }
    }

    /// The world the test needs, if not the default one.
    pub fn with(mut self, options: WorldOptions) -> Self {
        self.options = options;
        self
    }

    /// The subject is the index: engines that do not use it have nothing to show here.
    pub fn index_only(mut self) -> Self {
        self.index_only = true;
        self
    }

    /// The subject is the same whatever destroys: it is shown once.
    pub fn only(mut self, engine: EngineName) -> Self {
        self.only = [Some(engine), None];
        self
    }

    /// One more engine besides the [`only`](Self::only) one: what it has in common with no other is shown too.
    #[allow(dead_code, reason = "shared with the fault tests, which use it")]
    pub fn and(mut self, engine: EngineName) -> Self {
        self.only[1] = Some(engine);
        self
    }

    /// One test for each engine that fits.
    pub fn trials(self, engines: &[EngineName], missing: &Missing) -> Vec<Trial> {
        engines
            .iter()
            .filter(|engine| !self.index_only || uses_index(**engine))
            .filter(|engine| self.only == [None; 2] || self.only.contains(&Some(**engine)))
            .map(|&engine| {
                let missing = missing.clone();
                let name = format!("{}::{engine}", self.name);
                Trial::ignorable_test(name, move || match (missing.all, missing.kfunc) {
                    (Some(missing), _) if required("SKREAP_TESTS") => Err(Failed::from(missing)),
                    (Some(missing), _) => Ok(Completion::ignored_with(missing)),
                    (None, Some(missing)) if engine == EngineName::Kfunc => {
                        if required("SKREAP_KFUNC") {
                            Err(Failed::from(missing))
                        } else {
                            Ok(Completion::ignored_with(missing))
                        }
                    }
                    (None, _) => self.run(engine),
                })
            })
            .collect()
    }

    fn run(self, engine: EngineName) -> Result<Completion, Failed> {
        let outcome = World::new(&self.options, engine).and_then(|mut world| {
            (self.run)(&mut world)?;
            // The clients were the test's own, so they are gone by now.
            world.finish()
        });
        match outcome {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast::<Skip>() {
                Ok(skip) => Ok(Completion::ignored_with(skip)),
                Err(error) => Err(Failed::from(format!("{error:?}"))),
            },
        }
    }
}

/// What a machine lacks.
#[derive(Clone)]
pub struct Missing {
    /// For any test.
    pub all: Option<Arc<str>>,
    /// For those of engine `kfunc`, which needs the kernel module.
    pub kfunc: Option<Arc<str>>,
}

impl Missing {
    /// What this machine lacks for these `tests`, and says so; nothing if they are only to be listed.
    pub fn look(tests: &str, list: bool) -> Self {
        if list {
            return Self { all: None, kfunc: None };
        }
        let all = world::missing();
        if let Some(missing) = &all {
            eprintln!("{tests} tests cannot run here: {missing}");
        }
        let kfunc = skreap::bpf::module::look().err().map(|error| Arc::from(error.to_string()));
        Self { all: all.map(Arc::from), kfunc }
    }
}

/// True if what is missing is to be a failure.
pub fn required(variable: &str) -> bool {
    env::var_os(variable).is_some_and(|value| value == "required")
}

/// Engines that find sockets through the index.
pub fn uses_index(engine: EngineName) -> bool {
    matches!(engine, EngineName::Kfunc | EngineName::Netlink | EngineName::IndexScan)
}

/// Returned as an error by a test that this kernel has nothing to show for.
#[derive(Debug)]
pub struct Skip(pub &'static str);

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Skip {}

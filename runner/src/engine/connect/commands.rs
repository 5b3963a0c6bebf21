//! The names of processes that have sockets open.

use std::collections::HashMap;

use skreap_bpf::Openers;

use crate::engine::EngineError;
use crate::sys::processes;

/// Finds the names of processes by the sockets that they have open; its program is loaded on first use.
#[derive(Debug, Default)]
pub(crate) struct Commands(Option<Openers>);

impl Commands {
    /// The names of the processes that have these sockets open, by cookie: one pass over the open files of all. A socket
    /// that no visible process has open is left out.
    ///
    /// # Errors
    /// [`EngineError::Walk`] if the program cannot be loaded or run.
    pub(crate) fn of(&mut self, cookies: &[u64]) -> Result<HashMap<u64, Vec<String>>, EngineError> {
        let openers = match &mut self.0 {
            Some(openers) => openers,
            none => none.insert(Openers::load()?),
        };
        let open = openers.find(cookies)?;
        let names = processes::commands_of(open.iter().map(|(_, opener)| opener.process));
        let mut found: HashMap<u64, Vec<String>> = HashMap::new();
        for (cookie, opener) in open {
            found.entry(cookie).or_default().extend(names.get(&opener.process).cloned());
        }
        Ok(found)
    }
}

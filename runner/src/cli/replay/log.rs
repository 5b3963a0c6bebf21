//! An audit log, read back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde_json::value::RawValue;
use skreap::core::{Action, Backend, Event, Request};

use super::super::Failure;

/// A line of the log, as far as it is read back.
#[derive(Deserialize)]
struct Line<'a> {
    kind: String,
    #[serde(default)]
    destroyed: u64,
    #[serde(default)]
    lines: u64,
    #[serde(default)]
    cancelled: BTreeMap<Backend, String>,
    #[serde(default, borrow)]
    request: Option<&'a RawValue>,
}

/// An event of the log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Past {
    /// It waits for nothing, as it was confirmed then.
    pub(super) event: Event,
    /// Sockets that it destroyed then.
    pub(super) destroyed: u64,
}

/// What a log has.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) past: Vec<Past>,
    /// There was an event that was asked for.
    pub(super) found: bool,
    /// Lines that it says are missing: events may be among them.
    pub(super) dropped: u64,
    /// Lines that make no sense: the last one of a service that was killed, or of a disk that was full.
    pub(super) unreadable: u64,
    /// The number of the first of them, and what is wrong with it.
    pub(super) first_unreadable: Option<(u64, String)>,
    /// Deletions all of whose backends were added again before they were confirmed.
    pub(super) cancelled: u64,
    /// Those, some of whose backends were.
    pub(super) partly_cancelled: u64,
    /// Events that take back deletions, and destroy nothing.
    pub(super) added: u64,
}

/// Reads the events of a log; only those of one id, if it is given.
pub(super) fn read(path: &Path, only: Option<&str>) -> Result<Log, Failure> {
    let name = path.display();
    let file = File::open(path).with_context(|| format!("cannot open {name}"))?;
    let mut log = Log::default();
    let mut lines = 0_u64;
    for (number, text) in (1..).zip(BufReader::new(file).split(b'\n')) {
        let text = text.with_context(|| format!("cannot read {name}"))?;
        lines += 1;
        if let Err(why) = log.add(&text, number, only) {
            log.unreadable += 1;
            log.first_unreadable.get_or_insert((number, why));
        }
    }
    match &log.first_unreadable {
        Some((number, why)) if log.unreadable == lines => {
            Err(Failure::Failed(anyhow!("{name}: no line of an audit log; line {number}: {why}")))
        }
        _ => Ok(log),
    }
}

impl Log {
    fn add(&mut self, text: &[u8], number: u64, only: Option<&str>) -> Result<(), String> {
        let line: Line<'_> = serde_json::from_slice(text).map_err(|e| e.to_string())?;
        self.dropped += line.lines;
        let Some(request) = line.request.filter(|_| line.kind == "event") else { return Ok(()) };
        let request = Request::parse(request.get().as_bytes(), number).map_err(|e| e.message)?;
        let Request::Event(mut event) = request else { return Ok(()) };
        if only.is_some_and(|id| id != event.id) {
            return Ok(());
        }
        self.found = true;
        if matches!(event.action, Action::BackendAdded { .. }) {
            self.added += 1;
        } else if !without(&mut event.action, &line.cancelled) {
            self.cancelled += 1;
        } else {
            self.partly_cancelled += u64::from(!line.cancelled.is_empty());
            event.confirm_after_ms = 0;
            self.past.push(Past { event, destroyed: line.destroyed });
        }
        Ok(())
    }
}

/// What was done of an event: nothing about the backends that were taken back. False if nothing is left.
fn without(action: &mut Action, cancelled: &BTreeMap<Backend, String>) -> bool {
    match action {
        Action::BackendDeleted { backend } => !cancelled.contains_key(backend),
        Action::BackendsDeleted { backends } => {
            backends.retain(|backend| !cancelled.contains_key(backend));
            !backends.is_empty()
        }
        Action::Reconcile { backends, .. } => {
            backends.extend(cancelled.keys());
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const A: &str = "udp://10.0.0.1:53";
    const B: &str = "udp://10.0.0.2:53";

    fn line(id: &str, fields: &str, cancelled: &str) -> String {
        format!(
            r#"{{"kind":"event","event":"{id}","request":{{"id":"{id}",{fields}}},"destroyed":3{cancelled},"more":1}}"#
        )
    }

    fn read_text(text: &[u8], only: Option<&str>) -> Result<Log, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        read(file.path(), only)
    }

    fn events(log: &Log) -> Vec<String> {
        log.past.iter().map(|past| serde_json::to_string(&past.event).unwrap()).collect()
    }

    #[test]
    fn what_was_taken_back_is_left_out() {
        let deleted = format!(r#""type":"backend-deleted","backend":"{A}","confirm_after_ms":5000"#);
        let both = format!(r#""type":"backends-deleted","backends":["{A}","{B}"],"confirm_after_ms":5000"#);
        let living = format!(r#""type":"reconcile","backends":["{A}"],"confirm_after_ms":5000"#);
        let added = format!(r#""type":"backend-added","backend":"{A}""#);
        let (a, b) = (format!(r#","cancelled":{{"{A}":"a"}}"#), format!(r#","cancelled":{{"{B}":"a"}}"#));
        let all = format!(r#","cancelled":{{"{A}":"a","{B}":"a"}}"#);
        let text = [
            line("d1", &deleted, ""),
            line("d2", &deleted, &a),
            line("d3", &both, &a),
            line("d4", &both, &all),
            line("d5", &living, &b),
            line("a", &added, ""),
            r#"{"kind":"socket","event":"d1","result":"destroyed"}"#.to_owned(),
            r#"{"kind":"dropped","lines":7,"total":9,"at":"x"}"#.to_owned(),
        ]
        .join("\n");
        let log = read_text(text.as_bytes(), None).unwrap();
        assert_eq!(
            events(&log),
            [
                format!(r#"{{"id":"d1","type":"backend-deleted","backend":"{A}"}}"#),
                format!(r#"{{"id":"d3","type":"backends-deleted","backends":["{B}"]}}"#),
                format!(r#"{{"id":"d5","type":"reconcile","backends":["{A}","{B}"]}}"#),
            ]
        );
        assert_eq!((log.cancelled, log.partly_cancelled, log.added), (2, 2, 1));
        assert_eq!((log.dropped, log.unreadable, log.past[0].destroyed), (7, 0, 3));
        let one = read_text(text.as_bytes(), Some("d2")).unwrap();
        assert_eq!((one.found, one.past.len(), one.cancelled, one.added), (true, 0, 1, 0));
        assert!(!read_text(text.as_bytes(), Some("d9")).unwrap().found);
    }

    #[test]
    fn lines_that_make_no_sense_are_left_out_unless_all_do() {
        let deleted = format!(r#""type":"backend-deleted","backend":"{A}""#);
        let good = line("d1", &deleted, "");
        let unknown = line("d2", r#""type":"backend-vanished""#, "");
        let text =
            [good.as_bytes(), b"\xff\xfe", unknown.as_bytes(), good.as_bytes(), &good.as_bytes()[..40]];
        let found = read_text(&text.join(&b'\n'), None).unwrap();
        assert_eq!((found.past.len(), found.unreadable), (2, 3));
        assert_eq!(found.first_unreadable.unwrap().0, 2);
        let cut = read_text(&[good.as_bytes(), b"\n", &good.as_bytes()[..40]].concat(), None).unwrap();
        let (number, why) = cut.first_unreadable.unwrap();
        assert_eq!((cut.past.len(), cut.unreadable, number), (1, 1, 2));
        assert!(why.contains("EOF while parsing"), "{why}");
        assert!(matches!(read_text(b"hello\nworld\n", None), Err(Failure::Failed(_))));
        assert_eq!(read_text(b"", None).unwrap(), Log::default());
    }
}

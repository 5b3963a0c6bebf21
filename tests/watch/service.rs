//! A unix socket that answers as `skreap serve` does, and keeps what it was asked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::process::until;

/// The service. It accepts until it is dropped.
pub struct Service {
    path: PathBuf,
    asked: Arc<Mutex<Vec<(Instant, Value)>>>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Service {
    pub fn start(path: &Path) -> anyhow::Result<Self> {
        let listener = UnixListener::bind(path)?;
        let asked = Arc::new(Mutex::new(Vec::new()));
        let streams = Arc::new(Mutex::new(Vec::new()));
        let (to_asked, to_streams) = (Arc::clone(&asked), Arc::clone(&streams));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if let Ok(copy) = stream.try_clone() {
                    to_streams.lock().unwrap().push(copy);
                }
                let asked = Arc::clone(&to_asked);
                thread::spawn(move || answer(stream, &asked));
            }
        });
        Ok(Self { path: path.to_owned(), asked, streams })
    }

    /// Waits for a client.
    pub fn connected(&self) -> anyhow::Result<()> {
        until("a connection", || !self.streams.lock().unwrap().is_empty())
    }

    /// Every backend that was said to be gone, with the frontends, in the order of their text: `udp://10.0.0.1:53`, or
    /// `udp://10.0.0.1:53 through udp://10.96.0.1:53`.
    pub fn gone(&self) -> Vec<String> {
        let mut gone = Vec::new();
        for (_, event) in &*self.asked.lock().unwrap() {
            let through = event["frontend"].as_array().map_or_else(String::new, |frontends| {
                let texts: Vec<_> = frontends.iter().filter_map(Value::as_str).collect();
                format!(" through {}", texts.join("+"))
            });
            for backend in event["backends"].as_array().into_iter().flatten() {
                gone.push(format!("{}{through}", backend.as_str().unwrap()));
            }
        }
        gone.sort();
        gone
    }

    /// Waits until so many are gone, and a little longer for those that should not be.
    pub fn wait(&self, expected: &[&str]) -> anyhow::Result<()> {
        let waited = until("that many backends are gone", || self.gone().len() >= expected.len());
        thread::sleep(Duration::from_millis(300));
        assert_eq!(self.gone(), expected, "{waited:?}");
        waited
    }

    /// Events, with the moment of each.
    pub fn events(&self) -> Vec<(Instant, Value)> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        for stream in &*self.streams.lock().unwrap() {
            _ = stream.shutdown(std::net::Shutdown::Both);
        }
        _ = std::fs::remove_file(&self.path);
    }
}

fn answer(stream: UnixStream, asked: &Mutex<Vec<(Instant, Value)>>) {
    let Ok(mut writer) = stream.try_clone() else { return };
    for line in BufReader::new(stream).lines() {
        let Ok(line) = line else { return };
        let request: Value = serde_json::from_str(&line).unwrap();
        let answer = if request["type"] == "status" {
            json!({"id": request["id"], "status": {"order": {"last": true, "first": {"first": true, "moves": 0}}}})
        } else {
            asked.lock().unwrap().push((Instant::now(), request.clone()));
            json!({"id": request["id"], "complete": true, "destroyed": 1, "failed": {"total": 0}})
        };
        if writeln!(writer, "{answer}").is_err() {
            return;
        }
    }
}

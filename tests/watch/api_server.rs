//! An API server made by hand: answers in the shapes that kube-apiserver was seen to send.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

const SLICES: &str = "endpointslices";
const SERVICES: &str = "services";

/// Objects of a page, whatever limit is asked for.
const PAGE: usize = 2;

/// What the server has, and how it behaves.
pub struct World {
    version: u64,
    /// By resource and key.
    objects: BTreeMap<(&'static str, String), Value>,
    /// Everything that happened: version, resource, type, object.
    log: Vec<(u64, &'static str, &'static str, Value)>,
    /// Watches of older versions are refused.
    oldest: u64,
    /// Watches begun before a change of this end.
    epoch: u64,
    /// Lists may be sent as the beginning of a watch.
    pub streaming: bool,
    /// What every request has to show.
    pub token: Option<&'static str>,
    /// Nobody answers.
    pub down: bool,
    /// Versions of the group of slices.
    pub versions: &'static [&'static str],
    /// Lists are refused from their second page on.
    pub half_lists: bool,
    /// Paths and queries, in their order.
    pub requests: Vec<String>,
}

/// See the module.
pub struct ApiServer {
    pub port: u16,
    world: Arc<Mutex<World>>,
    changed: Arc<Condvar>,
}

impl ApiServer {
    pub fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let world = World {
            version: 1000,
            objects: BTreeMap::new(),
            log: Vec::new(),
            oldest: 0,
            epoch: 0,
            streaming: false,
            token: None,
            down: false,
            versions: &["v1", "v1beta1"],
            half_lists: false,
            requests: Vec::new(),
        };
        let server = Self { port, world: Arc::new(Mutex::new(world)), changed: Arc::new(Condvar::new()) };
        let (world, changed) = (Arc::clone(&server.world), Arc::clone(&server.changed));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (world, changed) = (Arc::clone(&world), Arc::clone(&changed));
                thread::spawn(move || {
                    // The client has gone: nothing to do.
                    _ = serve(&stream, &world, &changed);
                    _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Ok(server)
    }

    /// What it has and how it behaves.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Requests whose text has this part.
    pub fn asked(&self, part: &str) -> usize {
        self.world().requests.iter().filter(|request| request.contains(part)).count()
    }

    fn change(&self, act: impl FnOnce(&mut World)) {
        act(&mut self.world());
        self.changed.notify_all();
    }

    /// Makes or changes a slice: `name`, its Service, and endpoints `10.1.0.1 TTF`.
    pub fn slice(&self, name: &str, service: &str, endpoints: &[&str]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|text| {
                let (address, said) = text.split_once(' ').unwrap_or((text, "TTF"));
                let said: Vec<bool> = said.chars().map(|c| c == 'T').collect();
                json!({"addresses": [address],
                    "conditions": {"ready": said[0], "serving": said[1], "terminating": said[2]},
                    "targetRef": {"kind": "Pod", "uid": format!("pod-{address}")}})
            })
            .collect();
        let object = json!({"metadata": {"name": name, "namespace": "d",
            "labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "dns", "protocol": "UDP", "port": 53}]});
        self.change(|world| world.put(SLICES, name, object));
    }

    /// Makes a Service with this address, and perhaps an annotation.
    pub fn service(&self, name: &str, address: &str, annotation: Option<&str>) {
        let object = json!({"metadata": {"name": name, "namespace": "d",
            "annotations": {"skreap.io/on-backend-gone": annotation}},
            "spec": {"clusterIP": address, "ports": [{"name": "dns", "protocol": "UDP", "port": 53}]}, "status": {}});
        self.change(|world| world.put(SERVICES, name, object));
    }

    /// Makes or changes a slice of a Service as it is, without its names.
    pub fn odd_slice(&self, name: &str, service: &str, mut object: Value) {
        object["metadata"] =
            json!({"name": name, "namespace": "d", "labels": {"kubernetes.io/service-name": service}});
        self.change(|world| world.put(SLICES, name, object));
    }

    pub fn delete_service(&self, name: &str) {
        self.change(|world| world.delete(SERVICES, name));
    }

    pub fn delete_slice(&self, name: &str) {
        self.change(|world| world.delete(SLICES, name));
    }

    /// Tells every watch how far it is.
    pub fn bookmark(&self) {
        self.change(|world| {
            world.version += 1;
            for resource in [SLICES, SERVICES] {
                let object = json!({"metadata": {"resourceVersion": world.version.to_string()}});
                world.log.push((world.version, resource, "BOOKMARK", object));
            }
        });
    }

    /// Ends every watch; they may go on where they were.
    pub fn cut(&self) {
        self.change(|world| world.epoch += 1);
    }

    /// As a server that was restarted: it has no version that anybody knows.
    pub fn forget(&self) {
        self.change(|world| {
            world.version += 10;
            world.oldest = world.version;
            world.epoch += 1;
        });
    }
}

impl World {
    fn put(&mut self, resource: &'static str, name: &str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let old = self.objects.insert((resource, name.to_owned()), object.clone());
        let kind = if old.is_some() { "MODIFIED" } else { "ADDED" };
        self.log.push((self.version, resource, kind, object));
    }

    fn delete(&mut self, resource: &'static str, name: &str) {
        self.version += 1;
        if let Some(mut object) = self.objects.remove(&(resource, name.to_owned())) {
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.log.push((self.version, resource, "DELETED", object));
        }
    }

    fn all(&self, resource: &str) -> Vec<Value> {
        self.objects.iter().filter(|((of, _), _)| *of == resource).map(|(_, object)| object.clone()).collect()
    }

    /// The answer to anything but a watch.
    fn answer(&mut self, path: &str, query: &BTreeMap<&str, &str>, resource: &str) -> (u16, Value) {
        if path == "/apis/discovery.k8s.io" {
            let versions: Vec<Value> = self.versions.iter().map(|v| json!({"version": v})).collect();
            return (200, json!({"kind": "APIGroup", "versions": versions}));
        }
        let from: usize = query.get("continue").and_then(|text| text.parse().ok()).unwrap_or(0);
        if from > 0 && self.half_lists {
            return (500, json!({"kind": "Status", "code": 500, "message": "the rest is not to be had"}));
        }
        let items: Vec<Value> = self.all(resource).into_iter().skip(from).collect();
        let more = if items.len() > PAGE { (from + PAGE).to_string() } else { String::new() };
        let items: Vec<Value> = items.into_iter().take(PAGE).collect();
        let metadata = json!({"resourceVersion": self.version.to_string(), "continue": more});
        (200, json!({"metadata": metadata, "items": items}))
    }
}

fn serve(stream: &TcpStream, world: &Mutex<World>, changed: &Condvar) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || world.lock().unwrap().down {
            return Ok(());
        }
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut token = String::new();
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some((name, value)) = header.split_once(": ")
                && name.eq_ignore_ascii_case("authorization")
            {
                value.trim().clone_into(&mut token);
            }
        }
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let query: BTreeMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let resource = if path.ends_with(SLICES) { SLICES } else { SERVICES };
        let mut world_now = world.lock().unwrap();
        world_now.requests.push(target.clone());
        if world_now.token.is_some_and(|wanted| token != format!("Bearer {wanted}")) {
            drop(world_now);
            whole(stream, 401, &json!({"kind": "Status", "code": 401, "message": "Unauthorized"}))?;
        } else if !query.contains_key("watch") {
            let (code, body) = world_now.answer(path, &query, resource);
            drop(world_now);
            whole(stream, code, &body)?;
        } else if query.contains_key("sendInitialEvents") && !world_now.streaming {
            drop(world_now);
            let message = "resourceVersionMatch is forbidden for watch";
            whole(stream, 422, &json!({"kind": "Status", "code": 422, "message": message}))?;
        } else {
            drop(world_now);
            return watch(stream, world, changed, resource, &query);
        }
    }
}

fn whole(mut stream: &TcpStream, code: u16, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    write!(stream, "HTTP/1.1 {code} x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Events until the client, or the end of this epoch. The end is that of the body if the server is up, and none if not.
fn watch(
    mut stream: &TcpStream,
    world: &Mutex<World>,
    changed: &Condvar,
    resource: &str,
    query: &BTreeMap<&str, &str>,
) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let mut send = |kind: &str, object: &Value| -> std::io::Result<()> {
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        // In two pieces, as a network may.
        let (a, b) = line.as_bytes().split_at(line.len() / 2);
        for piece in [a, b] {
            write!(stream, "{:x}\r\n", piece.len())?;
            stream.write_all(piece)?;
            write!(stream, "\r\n")?;
        }
        Ok(())
    };
    let mut now = world.lock().unwrap();
    let (epoch, mut at) = (now.epoch, now.version);
    if query.contains_key("sendInitialEvents") {
        // What changes while the server catches up comes before the end of the list.
        send("ADDED", &json!({"metadata": {"name": "passing", "namespace": "d", "resourceVersion": "1"}}))?;
        for object in now.all(resource) {
            send("ADDED", &object)?;
        }
        send("DELETED", &json!({"metadata": {"name": "passing", "namespace": "d", "resourceVersion": "2"}}))?;
        let metadata =
            json!({"resourceVersion": at.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}});
        send("BOOKMARK", &json!({"metadata": metadata}))?;
    } else {
        at = query.get("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        if at < now.oldest {
            let message = format!("too old resource version: {at} ({})", now.oldest);
            send("ERROR", &json!({"kind": "Status", "code": 410, "reason": "Expired", "message": message}))?;
            drop(now);
            return write!(stream, "0\r\n\r\n");
        }
    }
    while now.epoch == epoch {
        let news: Vec<_> =
            now.log.iter().filter(|entry| entry.0 > at && entry.1 == resource).cloned().collect();
        for (version, _, kind, object) in news {
            send(kind, &object)?;
            at = version;
        }
        (now, _) = changed.wait_timeout(now, Duration::from_millis(500)).unwrap();
    }
    if now.down {
        return Ok(());
    }
    drop(now);
    write!(stream, "0\r\n\r\n")
}

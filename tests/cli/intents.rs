//! The examples of docs/intents.md, carried out: what they print is what the page says.
//!
//! The page has the names that people would give; the test gives its own to cgroups and namespaces, and translates. Numbers
//! of four digits and more (ports, processes) and times are not compared, and neither is the space between columns.
//! With `SKREAP_PAGE` in the environment everything is printed as it is, for the page.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd as _;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use skreap::core::{Backend, Protocol};
use skreap_testbed::bpf::{LoadBalancer, Placing};
use skreap_testbed::{Cgroup, Client, Echo, Mode, Netns, NetnsRef, OpenMany, SpawnOptions, cgroup2_root};
use tempfile::TempDir;

use crate::process::collect;
use crate::serve::{Serve, Talk};

crate::tests![examples_of_the_page];

const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/intents.md");

/// Two services with one pod.
const SERVICES: [(&str, &str); 2] =
    [("udp://10.96.0.10:53", "udp://10.7.0.9:53"), ("udp://10.96.0.11:53", "udp://10.7.0.9:53")];

/// One example: a command or a request, and what is said to it.
#[derive(Debug, Default)]
struct Example {
    asked: String,
    said: String,
}

/// The examples of the page, in their order: commands of consoles, and requests with the reports behind them.
fn examples(page: &str) -> Vec<Example> {
    let mut found: Vec<Example> = Vec::new();
    let examples = page.split_once("\n## Examples\n").map_or("", |(_, rest)| rest);
    for block in examples.split("\n```").skip(1).step_by(2) {
        if let Some(console) = block.strip_prefix("console\n") {
            for line in console.lines() {
                match (line.strip_prefix("# "), found.last_mut()) {
                    (Some(command), _) => {
                        found.push(Example { asked: command.to_owned(), said: String::new() })
                    }
                    (None, Some(example)) => example.said.push_str(&format!("{line}\n")),
                    (None, None) => {}
                }
            }
        } else if let Some(json) = block.strip_prefix("json\n") {
            match found.last_mut().filter(|last| last.asked.starts_with('{') && last.said.is_empty()) {
                Some(last) => json.clone_into(&mut last.said),
                None => found.push(Example { asked: json.replace('\n', ""), said: String::new() }),
            }
        }
    }
    found
}

/// Names of the test, and those of the page for the same.
#[derive(Default)]
struct Names(Vec<(String, String)>);

impl Names {
    fn add(&mut self, own: impl Into<String>, of_page: &str) {
        self.0.push((own.into(), of_page.to_owned()));
    }

    fn to_own(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (own, of_page)| text.replace(of_page, own))
    }

    fn to_page(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (own, of_page)| text.replace(own, of_page))
    }
}

/// The text with process ids as the page has them, five digits long. A process id has as few as one where few processes
/// were ever started. It stands before the command, at the end of a line.
fn with_long_pids(text: &str, clients: &[Client]) -> String {
    let mut found = String::new();
    for line in text.split_inclusive('\n') {
        let owner = clients.iter().find_map(|client| {
            let before = line.trim_end().strip_suffix(client.label())?.strip_suffix(char::is_whitespace)?;
            let before = before.trim_end().strip_suffix(&client.pid().to_string())?;
            before.ends_with(' ').then(|| format!("{before}10000 {}\n", client.label()))
        });
        found.push_str(owner.as_deref().unwrap_or(line));
    }
    found
}

/// Without what differs from run to run.
fn essence(text: &str) -> String {
    let mut essence = String::new();
    let mut rest = text.trim();
    while let Some(first) = rest.chars().next() {
        let in_number = |c: char| c.is_ascii_digit() || c == '.';
        let end = rest.find(|c| !in_number(c)).unwrap_or(rest.len());
        if first.is_ascii_digit() {
            let (number, after) = rest.split_at(end);
            let number = number.trim_end_matches('.');
            let is_time =
                number.split_once('.').is_some_and(|(_, part)| part.len() == 3 && !part.contains('.'));
            let is_long = number.len() > 3 && !number.contains('.');
            essence.push_str(if is_time || is_long { "N" } else { number });
            rest = after;
        } else if first.is_whitespace() {
            let is_end = rest.starts_with('\n');
            rest = rest.trim_start();
            essence.push(if is_end { '\n' } else { ' ' });
        } else {
            essence.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    essence.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

/// Whether a line is as the page says, which leaves things out with an ellipsis.
fn is_as_said(line: &str, said: &str) -> bool {
    let (line, said) = (essence(line).replace(['\n', ' '], ""), essence(said).replace(['\n', ' '], ""));
    let parts: Vec<&str> = said.split('…').collect();
    let [first, between @ .., last] = &parts[..] else { return line == said };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in between {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// What the examples are about.
struct Scene {
    clients: Vec<Client>,
    _balancer: LoadBalancer,
    _servers: Vec<Echo>,
    _netns: Vec<Netns>,
    // Dropped before that of the service.
    _slices: Vec<Cgroup>,
    names: Names,
}

fn connect(client: &mut Client, to: &str, count: u32) -> Result<()> {
    let to: Backend = to.parse()?;
    let opened = client.open_many(OpenMany {
        netns: NetnsRef::Own,
        protocol: to.protocol(),
        count,
        connect: to.socket_addr(),
        timeout_ms: 10_000,
    })?;
    ensure!(opened.failed == 0, "{opened:?}");
    Ok(())
}

fn scene(serve: &Serve) -> Result<Scene> {
    let mut names = Names::default();
    let root = serve.cgroup.path().to_owned();
    let mut slices = Vec::new();
    for name in ["a.slice", "b.slice", "shop.slice"] {
        let slice = serve.cgroup.child(name)?;
        let path = slice.path().to_str().context("the path is not UTF-8")?.to_owned();
        names.add(path.clone(), &format!("/sys/fs/cgroup/{name}"));
        let below_root = slice.path().strip_prefix(cgroup2_root()?)?;
        names.add(format!("/{}", below_root.display()), &format!("/{name}"));
        slices.push(slice);
    }
    names.add(root.to_str().context("the path is not UTF-8")?, "/sys/fs/cgroup/node");
    let mut all_netns = Vec::new();
    for name in ["tenant-a", "tenant-b", "store"] {
        let netns = Netns::create(name)?;
        for last in [1, 2, 9, 53] {
            netns.add_address(std::net::IpAddr::from([10, 7, 0, last]))?;
        }
        names.add(netns.name(), name);
        all_netns.push(netns);
    }
    let everywhere: Vec<&Netns> = all_netns.iter().collect();
    let mut servers = Vec::new();
    for backend in ["10.7.0.1:53", "10.7.0.2:8080", "10.7.0.9:53", "10.7.0.53:53"] {
        servers.push(Echo::start(Protocol::Udp, backend.parse()?, &everywhere, Mode::Echo)?);
    }
    let entries = SERVICES
        .map(|(service, pod)| Ok::<(Backend, Backend), anyhow::Error>((service.parse()?, pod.parse()?)));
    let entries = entries.into_iter().collect::<Result<Vec<_>>>()?;
    let balancer = LoadBalancer::attach_placed(&entries, serve.cgroup.open()?.as_fd(), Placing::Preorder)?;
    // What is recorded before the second look after a change of the programs is not known for sure.
    thread::sleep(Duration::from_millis(2500));

    let [a, b, shop] = &slices[..] else { anyhow::bail!("not three slices") };
    let [tenant_a, tenant_b, of_shop] = &all_netns[..] else { anyhow::bail!("not three netns") };
    let mut clients = Vec::new();
    for (label, cgroup, netns, peers) in [
        ("cart", shop, of_shop, &[("udp://10.96.0.10:53", 3)][..]),
        ("search", shop, of_shop, &[("udp://10.96.0.11:53", 2)]),
        ("probe", shop, of_shop, &[("udp://10.7.0.9:53", 1)]),
        (
            "app-a",
            a,
            tenant_a,
            &[("udp://10.7.0.1:53", 3), ("udp://10.7.0.2:8080", 1), ("udp://10.7.0.53:53", 1)],
        ),
        (
            "app-b",
            b,
            tenant_b,
            &[("udp://10.7.0.1:53", 2), ("udp://10.7.0.2:8080", 1), ("udp://10.7.0.53:53", 1)],
        ),
    ] {
        let mut client = Client::spawn(&SpawnOptions { label, cgroup: Some(cgroup), netns: Some(netns) })?;
        for (to, count) in peers {
            connect(&mut client, to, *count)?;
        }
        clients.push(client);
    }
    Ok(Scene { clients, _balancer: balancer, _servers: servers, _netns: all_netns, _slices: slices, names })
}

/// Gives all sockets of a process to a user.
fn give_away(client: &Client, user: u32) -> Result<()> {
    for entry in fs::read_dir(format!("/proc/{}/fd", client.pid()))? {
        let path = entry?.path();
        let to = fs::read_link(&path).unwrap_or_default();
        if to.to_string_lossy().starts_with("socket:") {
            chown(&path, Some(user), None)?;
        }
    }
    Ok(())
}

fn shell(command: &str, socket: &str, directory: &Path) -> Result<String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_skreap")).parent().context("no directory")?;
    let mut path = OsString::from(bin);
    path.push(":/usr/bin:/bin");
    let mut shell = Command::new("sh");
    shell.args(["-c", command]).current_dir(directory).env("PATH", path).env("SKREAP_SOCKET", socket);
    let ended =
        collect(&mut shell.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
    Ok(ended.out + &ended.err)
}

/// Carries one out. Returns what was said, in the names of the page.
fn carry_out(
    example: &Example,
    scene: &Scene,
    serve: &Serve,
    talk: &mut Talk,
    directory: &Path,
) -> Result<String> {
    let asked = scene.names.to_own(&example.asked);
    let said = if asked.starts_with('{') {
        talk.send(&format!("{asked}\n"))?;
        talk.answer()?.context("closed")?;
        talk.last.clone()
    } else {
        shell(&asked, &serve.socket_arg()?, directory)?
    };
    Ok(with_long_pids(&scene.names.to_page(&said), &scene.clients))
}

fn examples_of_the_page() -> Result<()> {
    if !has_frontends() {
        eprintln!("this kernel cannot record frontends (Linux 6.15): the examples were not carried out");
        return Ok(());
    }
    let serve = Serve::start_with("cli-page", &["--frontends"])?;
    let mut scene = scene(&serve)?;
    let last = scene.clients.pop().context("no client")?;
    give_away(&last, 4711)?;
    scene.clients.push(last);
    let directory = TempDir::new()?;
    fs::write(directory.path().join("living"), "udp://10.7.0.9:53\nudp://10.7.0.53:53\n")?;
    let mut talk = serve.client()?;
    let examples = examples(&fs::read_to_string(PAGE).context(PAGE)?);
    ensure!(examples.len() >= 8, "the page has few examples: {examples:?}");
    for example in &examples {
        let said = carry_out(example, &scene, &serve, &mut talk, directory.path())?;
        if env::var_os("SKREAP_PAGE").is_some() {
            println!("# {}\n{said}", example.asked);
            continue;
        }
        let right = if example.asked.starts_with('{') {
            is_as_said(&said, &example.said)
        } else {
            essence(&said) == essence(&example.said)
        };
        ensure!(right, "{}\nThe page says:\n{}\nIt is:\n{said}", example.asked, example.said);
    }
    drop(scene);
    serve.finish()
}

pub fn has_frontends() -> bool {
    skreap::probe::all().features.iter().any(|finding| finding.feature == "frontends" && finding.works)
}

//! What the demo is played in: namespaces, servers and clients, all of them real.

use anyhow::{Context as _, bail};

use super::super::text::counted;
use super::plan::{self, Group, SERVERS, SERVICES};
use super::step::{Options, Step, go_on};
use skreap::source::Stop;
use skreap_testbed::{
    CallError, Cgroup, Client, Family, Mode, Netns, Op, OpenMany, Protocol, Reply, Selection, SpawnOptions,
    Watched,
};

/// How long handshakes and single answers may take.
pub(super) const PATIENCE_MS: u64 = 30_000;

/// Starts a server: a process that answers on all services of its address, in every netns.
fn start_server(server: usize, netns: &[Netns]) -> anyhow::Result<Client> {
    let label = format!("server-{}", SERVERS[server]);
    let mut process = Client::spawn(&SpawnOptions { label: &label, ..SpawnOptions::default() })?;
    for service in SERVICES {
        process.send(&Op::StartEcho {
            protocol: service.protocol,
            addr: plan::addr(server, service),
            netns: netns.iter().map(Netns::reference).collect::<anyhow::Result<_>>()?,
            mode: Mode::Echo,
        })?;
    }
    for _ in SERVICES {
        process.receive().with_context(|| format!("start server {}", SERVERS[server]))?;
    }
    Ok(process)
}

/// Everything that exists while the demo runs. On drop it goes, in the order of the fields.
pub(super) struct World {
    clients: Vec<Client>,
    servers: Vec<Client>,
    cgroup: Cgroup,
    netns: Vec<Netns>,
    groups: Vec<Group>,
}

impl World {
    /// Builds it; no socket is connected yet.
    pub(super) fn build(options: &Options, stop: &Stop, tell: &mut dyn FnMut(Step)) -> anyhow::Result<Self> {
        let cgroup = Cgroup::create("demo")?;
        let mut netns = Vec::new();
        for i in 0..options.netns {
            go_on(stop)?;
            tell(Step::Netns { done: i, of: options.netns });
            let one = Netns::create(&format!("demo-{i}"))?;
            for server in 0..SERVERS.len() {
                for family in [Family::V4, Family::V6] {
                    one.add_address(plan::ip(server, family))?;
                }
            }
            netns.push(one);
        }
        tell(Step::Processes);
        let mut clients = Vec::new();
        for i in 0..options.clients {
            let label = format!("client-{}", i + 1);
            let options = SpawnOptions { label: &label, cgroup: Some(&cgroup), netns: None };
            clients.push(Client::spawn(&options)?);
        }
        let mut servers = Vec::new();
        for server in 0..SERVERS.len() {
            go_on(stop)?;
            servers.push(start_server(server, &netns)?);
        }
        let groups = plan::deal(options.sockets, netns.len(), clients.len());
        Ok(Self { clients, servers, cgroup, netns, groups })
    }

    /// The cgroup of the clients, and of nobody else.
    pub(super) fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.len()
    }

    pub(super) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The groups of sockets that were connected to a server by [`World::connect`].
    pub(super) fn groups_of(&self, server: usize) -> impl Iterator<Item = &Group> {
        self.groups.iter().filter(move |g| g.server == server)
    }

    /// Changes what a server does with its sockets and messages. A frozen one is like a machine that hangs:
    /// it sends no FIN, no RST and no ICMP, and none of its clients would notice.
    pub(super) fn set_mode(&mut self, server: usize, mode: Mode) -> anyhow::Result<()> {
        let server = self.servers.get_mut(server).context("no such server")?;
        // The handles of its services are given out in the order in which they were started.
        for (_, echo) in SERVICES.iter().zip(0..) {
            server.call(&Op::SetEchoMode { echo, mode })?;
        }
        Ok(())
    }

    /// Opens the sockets of a server and connects them.
    pub(super) fn connect(&mut self, server: usize) -> anyhow::Result<()> {
        for group in self.groups.iter().filter(|g| g.server == server) {
            let service = SERVICES[group.service];
            self.clients[group.client].send(&Op::OpenMany(OpenMany {
                netns: self.netns[group.netns].reference()?,
                protocol: service.protocol,
                count: group.count,
                connect: plan::addr(server, service),
                timeout_ms: PATIENCE_MS,
            }))?;
        }
        for group in self.groups.iter_mut().filter(|g| g.server == server) {
            let Reply::OpenedMany(opened) = self.clients[group.client].receive()? else {
                bail!("a client sent an unexpected response");
            };
            if let Some(error) = opened.first_error {
                bail!(
                    "{} could not be connected, the first: {error}",
                    counted(opened.failed.into(), "socket")
                );
            }
            group.first = opened.first;
            group.cookies = opened.cookies;
        }
        Ok(())
    }

    /// Closes the sockets that [`World::connect`] made, wherever they are connected to by now.
    pub(super) fn close(&mut self, server: usize) -> anyhow::Result<()> {
        for group in self.groups.iter().filter(|g| g.server == server) {
            let sockets = Selection::Range { first: group.first, count: group.count };
            self.clients[group.client].send(&Op::Close { sockets })?;
        }
        for group in self.groups.iter_mut().filter(|g| g.server == server) {
            self.clients[group.client].receive()?;
            group.cookies.clear();
        }
        Ok(())
    }

    /// Lets every client watch all of its sockets: the owners of sockets that get an error go to another
    /// server. `expect` says for each client how many errors there should be.
    pub(super) fn watch(&mut self, deleted: usize, expect: &[u32]) -> anyhow::Result<()> {
        let living: Vec<usize> = (0..SERVERS.len()).filter(|s| *s != deleted).collect();
        for (i, (client, expect)) in self.clients.iter_mut().zip(expect).enumerate() {
            // Each client has a favourite among those that live.
            let server = living[i % living.len()];
            let fallback: Vec<(Protocol, _)> =
                SERVICES.iter().map(|s| (s.protocol, plan::addr(server, *s))).collect();
            client.send(&Op::Watch(skreap_testbed::Watch {
                sockets: Selection::All,
                fallback,
                expect: Some(*expect),
                timeout_ms: PATIENCE_MS,
                verify_rest: false,
            }))?;
        }
        Ok(())
    }

    /// What the clients have seen since [`World::watch`]; waits until they have seen all they expect.
    pub(super) fn watched(&mut self) -> anyhow::Result<Vec<Watched>> {
        self.clients
            .iter_mut()
            .map(|client| match client.receive()? {
                Reply::Watched(watched) => Ok(watched),
                _ => bail!("a client sent an unexpected response"),
            })
            .collect()
    }

    /// Exchanges a message on the sockets of a server, or of all.
    pub(super) fn echo(&mut self, server: Option<usize>) -> anyhow::Result<Vec<skreap_testbed::Echoed>> {
        let selection = |client: usize, groups: &[Group]| match server {
            None => Selection::All,
            Some(server) => Selection::List(
                groups
                    .iter()
                    .filter(|g| g.client == client && g.server == server)
                    .flat_map(|g| g.first..g.first + g.count)
                    .collect(),
            ),
        };
        let groups = &self.groups;
        let ops: Vec<Op> = (0..self.clients.len())
            .map(|client| Op::EchoAll { sockets: selection(client, groups), timeout_ms: PATIENCE_MS })
            .collect();
        let replies = skreap_testbed::call_all(self.clients.iter_mut().zip(ops));
        replies
            .into_iter()
            .map(|reply: Result<Reply, CallError>| match reply? {
                Reply::Echoed(echoed) => Ok(echoed),
                _ => bail!("a client sent an unexpected response"),
            })
            .collect()
    }
}

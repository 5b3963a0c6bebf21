//! `skreap terminate`

use anyhow::anyhow;
use skreap::core::{Action, CgroupName, Event, NetnsName, PortRange, Prefix, Protocol, Selector, Zone};

use super::{Failure, SocketArg, client, reap};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only sockets of this protocol: tcp or udp
    #[arg(long, value_name = "PROTOCOL")]
    protocol: Option<Protocol>,
    /// Only sockets that are connected to these addresses or prefixes, as 10.0.0.0/8,fd00::1
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    to: Vec<Prefix>,
    /// Only sockets that are connected to these ports, as 53,8000-9000
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    port: Vec<PortRange>,
    /// Only sockets that were made in this cgroup or one below it: a directory of cgroup2, or id:N
    #[arg(long, value_name = "CGROUP")]
    cgroup: Option<CgroupName>,
    /// Only sockets in this network namespace: a name under /run/netns, a path, the id of a process, or cookie:N
    #[arg(long, value_name = "NETNS")]
    netns: Option<NetnsName>,
    /// Only sockets of this user
    #[arg(long, value_name = "UID")]
    uid: Option<u32>,
    /// Only sockets that are bound to this interface of --netns
    #[arg(long, value_name = "INTERFACE", requires = "netns")]
    interface: Option<Zone>,
    #[command(flatten)]
    except: ExceptArgs,
    /// Do nothing if more than N sockets would be destroyed
    #[arg(long, value_name = "N")]
    max_victims: Option<u64>,
    /// List the victims, whose they are, and how many of what, and destroy nothing; exit code 1 if a limit would refuse
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the report as one JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Sockets that stay: those for which all of these hold")]
struct ExceptArgs {
    /// As --protocol
    #[arg(long, value_name = "PROTOCOL")]
    except_protocol: Option<Protocol>,
    /// As --to
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',')]
    except_to: Vec<Prefix>,
    /// As --port
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    except_port: Vec<PortRange>,
    /// As --cgroup
    #[arg(long, value_name = "CGROUP")]
    except_cgroup: Option<CgroupName>,
    /// As --netns
    #[arg(long, value_name = "NETNS")]
    except_netns: Option<NetnsName>,
    /// As --uid
    #[arg(long, value_name = "UID")]
    except_uid: Option<u32>,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let selector = Selector {
        protocol: args.protocol,
        to: args.to.clone(),
        ports: args.port.clone(),
        cgroup: args.cgroup.clone(),
        netns: args.netns.clone(),
        uid: args.uid,
        interface: args.interface,
    };
    let e = &args.except;
    let except = Selector {
        protocol: e.except_protocol,
        to: e.except_to.clone(),
        ports: e.except_port.clone(),
        cgroup: e.except_cgroup.clone(),
        netns: e.except_netns.clone(),
        uid: e.except_uid,
        interface: None,
    };
    if selector.is_empty() {
        return Err(Failure::Misused(anyhow!(
            "no condition is given, and every socket would be destroyed; say which are meant, as with --to 10.0.0.0/8"
        )));
    }
    let subject = format!("where {selector}");
    let action = Action::Terminate { max_victims: args.max_victims };
    let mut event = Event::new(client::id("terminate"), action);
    event.dry_run = args.dry_run;
    event.selector = Some(Box::new(selector));
    event.except = (!except.is_empty()).then(|| Box::new(except));
    event.check_selectors().map_err(|e| Failure::Misused(anyhow!("{e}")))?;
    reap::tell(&args.socket, event, &subject, args.json)
}

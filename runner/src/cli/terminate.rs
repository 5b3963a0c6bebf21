//! `skreap terminate`

use anyhow::anyhow;
use skreap::core::{Action, Event, PortRange, Prefix, Protocol, Selector};

use super::action::{ACTION, ActionArgs, DestinationArg};
use super::client::{self, ClientArgs, DryRunArg};
use super::selector::{self, ExceptArgs, MEANT, PlaceArgs};
use super::{Failure, reap};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    mode: DryRunArg,
    /// Do nothing if more than N sockets would be destroyed
    #[arg(long, value_name = "N")]
    max_victims: Option<u64>,
    #[command(flatten)]
    client: ClientArgs,
    /// Only sockets of this protocol: tcp or udp
    #[arg(long, value_name = "PROTOCOL", help_heading = MEANT)]
    protocol: Option<Protocol>,
    /// Only sockets that are connected to these addresses or prefixes, as 10.0.0.0/8,fd00::1
    #[arg(long, value_name = "PREFIXES", value_delimiter = ',', help_heading = MEANT)]
    to: Vec<Prefix>,
    /// Only sockets that are connected to these ports, as 53,8000-9000
    #[arg(long, value_name = "PORTS", value_delimiter = ',', help_heading = MEANT)]
    port: Vec<PortRange>,
    #[command(flatten)]
    place: PlaceArgs,
    #[command(flatten)]
    except: ExceptArgs,
    #[command(flatten, next_help_heading = ACTION)]
    action: ActionArgs,
    #[command(flatten)]
    destination: DestinationArg,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let selector = Selector {
        protocol: args.protocol,
        to: args.to.clone(),
        ports: args.port.clone(),
        ..args.place.selector()
    };
    if selector.is_empty() {
        return Err(Failure::Misused(anyhow!(
            "no condition is given, and every socket would be destroyed; say which are meant, as with --to 10.0.0.0/8"
        )));
    }
    let action = Action::Terminate { max_victims: args.max_victims };
    let mut event = Event::new(client::id("terminate"), action).with_dry_run(args.mode.dry_run);
    selector::restrict(&mut event, selector, &args.except)?;
    let subject = selector::words(&event).trim_start().to_owned();
    event.victim_action = args.action.action_with(&args.destination)?;
    event.check_action().map_err(|e| Failure::Misused(e.into()))?;
    reap::send(&args.client, event, &subject)
}

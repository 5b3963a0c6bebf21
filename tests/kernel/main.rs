//! Kernel tests: real sockets, processes and network namespaces on the running kernel.
//!
//! Each test has a [`World`](world::World) of its own: a cgroup with the hooks, a reaper with one engine, network
//! namespaces and backends. It knows what it opened, so it says exactly which sockets must die, by cookie, and
//! that all others must still get an answer. After each test the index must be empty, the free list complete
//! and inserts equal to removals; no test can forget that, because the runner does it.
//!
//! Every test runs once per engine of [`ENGINES`] and is named `test::engine`. Tests whose subject is the index
//! itself run only with engines that use it.
//!
//! Needs root (CAP_BPF, CAP_NET_ADMIN, CAP_SYS_ADMIN), BTF and cgroup2. Without them the tests are ignored, with
//! the reason; with `SKREAP_TESTS=required` in the environment they fail instead. The engine `kfunc` needs the
//! kernel module besides, and `SKREAP_KFUNC=required` makes its absence a failure.
//!
//! The binary needs nothing but itself: it may be copied to another machine and run there.

mod accepted;
mod audit;
mod balancer;
mod case;
mod churn;
mod client_view;
mod connecting;
mod control;
mod crowd;
mod dump_churn;
mod events;
mod frontends;
mod frontends_balancers;
mod frontends_pins;
mod frontends_storm;
mod full;
mod handle;
mod heal;
mod held_lock;
mod hidden;
mod holder;
mod index;
mod intents;
mod kernel_sockets;
mod kfunc;
mod link;
mod many;
mod moving;
mod moving_source;
mod netns;
mod netns_let_go;
mod odd_owner;
mod odd_owners;
mod order;
mod owners;
mod peer;
mod pending;
mod portless;
mod preexisting;
mod preexisting_held;
mod race;
mod reach;
mod revive;
mod rules;
mod scan_held;
mod selected_actions;
mod selected_frontends;
mod selected_senders;
mod selection;
mod selector_edges;
mod selectors;
mod senders;
mod sharing;
mod sockets;
mod takeover;
mod tcp;
mod udp;
mod unconnected;
mod uring;
mod verifier;
mod wakeups;
mod walk;
mod whose;
mod wildcard;
mod world;
mod zero;

use std::process::ExitCode;

use case::Missing;
use libtest_mimic::Arguments;

use selection::Selection;

fn main() -> ExitCode {
    skreap_testbed::become_client_if_asked();
    let mut arguments = Arguments::from_args();
    // The tests share one machine, and some count what it does in a given time.
    arguments.test_threads.get_or_insert(1);
    let selection = match Selection::from_env() {
        Ok(selection) => selection,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::FAILURE;
        }
    };
    let missing = Missing::look("kernel", arguments.list);
    let cases = [
        udp::cases(),
        tcp::cases(),
        netns::cases(),
        reach::cases(),
        held_lock::cases(),
        netns_let_go::cases(),
        hidden::cases(),
        many::cases(),
        peer::cases(),
        sharing::cases(),
        unconnected::cases(),
        senders::cases(),
        wildcard::cases(),
        zero::cases(),
        control::cases(),
        index::cases(),
        balancer::cases(),
        events::cases(),
        handle::cases(),
        order::cases(),
        frontends::cases(),
        frontends_balancers::cases(),
        frontends_pins::cases(),
        frontends_storm::cases(),
        pending::cases(),
        full::cases(),
        heal::cases(),
        owners::cases(),
        kernel_sockets::cases(),
        accepted::cases(),
        audit::cases(),
        walk::cases(),
        race::cases(),
        portless::cases(),
        churn::cases(),
        dump_churn::cases(),
        client_view::cases(),
        preexisting::cases(),
        preexisting_held::cases(),
        scan_held::cases(),
        revive::cases(),
        crowd::cases(),
        moving::cases(),
        moving_source::cases(),
        connecting::cases(),
        rules::cases(),
        odd_owners::cases(),
        wakeups::cases(),
        takeover::cases(),
        kfunc::cases(),
        verifier::cases(),
        link::cases(),
        whose::cases(),
        selected_actions::cases(),
        selectors::cases(),
        intents::cases(),
        selector_edges::cases(),
        selected_senders::cases(),
        selected_frontends::cases(),
    ];
    let trials = cases.into_iter().flatten().flat_map(|case| case.trials(selection.engines(), &missing));
    let trials = trials.filter(|trial| selection.takes(trial.name())).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

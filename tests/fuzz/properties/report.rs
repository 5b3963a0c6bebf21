//! Reports: whatever engines did for whatever backends, the sums are kept, and a report reads as it is written.

use std::net::{IpAddr, SocketAddr};

use arbitrary::{Result, Unstructured};
use skreap::core::{
    Action, Attribution, Backend, BackendReport, EngineName, Event, FallbackReason, FallbackRun, Incomplete,
    MAX_FAILURES_LISTED, Outcome, Phases, Protocol, Report, SocketTuple, state_name,
};

/// See the module.
pub fn holds(data: &[u8]) {
    // An end of the data is no failure: what was made by then has been tried.
    let _ = conserved(&mut Unstructured::new(data));
}

fn conserved(u: &mut Unstructured<'_>) -> Result<()> {
    let dry_run = u.arbitrary()?;
    let mut sum = outcome(u, dry_run)?;
    let mut backends = vec![sum.clone()];
    while !u.is_empty() {
        let (more, pass) = (outcome(u, dry_run)?, u.arbitrary()?);
        let before = sum.clone();
        // A further pass over the same backend adds victims only; another backend adds all.
        let (visited, skipped) = match pass {
            true => (more.victims, more.skipped.gone),
            false => (more.visited, more.skipped.total()),
        };
        let expected = [
            before.visited + visited,
            before.victims + more.victims,
            before.destroyed + more.destroyed,
            before.failed.total() + more.failed.total(),
            before.skipped.total() + skipped,
        ];
        let complete = before.is_complete() && more.is_complete();
        let fallbacks: u64 = before.fallbacks.iter().chain(&more.fallbacks).map(|f| f.destroyed).sum();
        match (pass, backends.last_mut()) {
            (true, Some(last)) => {
                last.add_victims(more.clone());
                sum.add_victims(more);
            }
            _ => {
                backends.push(more.clone());
                sum.add_backend(more);
            }
        }
        let now = [sum.visited, sum.victims, sum.destroyed, sum.failed.total(), sum.skipped.total()];
        assert_eq!(now, expected);
        assert_eq!(sum.is_complete(), complete, "nothing makes up for what was missed");
        assert_eq!(sum.fallbacks.iter().map(|f| f.destroyed).sum::<u64>(), fallbacks);
        assert_eq!(sum.balanced(dry_run), Ok(()), "from {before:?}");
        divided_without_rest(&sum, &backends);
        reads_as_written(&sum, dry_run);
    }
    Ok(())
}

/// What the report says of its backends one by one is what it says of them together.
fn divided_without_rest(sum: &Outcome, backends: &[Outcome]) {
    let backend = Backend::new(Protocol::Udp, IpAddr::from([10, 0, 0, 1]), 53).unwrap();
    let parts: Vec<_> = backends.iter().map(|o| BackendReport::new(backend, o)).collect();
    let parts = parts
        .iter()
        .fold([0; 4], |n, b| [n[0] + b.visited, n[1] + b.victims, n[2] + b.destroyed, n[3] + b.failed]);
    assert_eq!(parts, [sum.visited, sum.victims, sum.destroyed, sum.failed.total()]);
}

fn reads_as_written(outcome: &Outcome, dry_run: bool) {
    let failed = &outcome.failed;
    assert_eq!(failed.by_errno().values().sum::<u64>(), failed.total());
    assert_eq!(failed.sockets().len() as u64 + failed.left_out(), failed.total());
    assert!(failed.sockets().len() <= MAX_FAILURES_LISTED);
    let Ok(backend) = Backend::new(Protocol::Udp, IpAddr::from([10, 0, 0, 1]), 53) else { return };
    let event = Event::new("e", Action::BackendDeleted { backend }).with_dry_run(dry_run);
    let report = Report::new(&event, outcome.clone(), Phases::default());
    assert_eq!(report.complete, report.incomplete_because.is_empty());
    let written = serde_json::to_vec(&report).unwrap();
    assert!(!written.contains(&b'\n'), "one line");
    assert_eq!(serde_json::from_slice::<Report>(&written).unwrap(), report);
}

/// What an engine may have done: counts that add up.
fn outcome(u: &mut Unstructured<'_>, dry_run: bool) -> Result<Outcome> {
    let engine = *u.choose(&EngineName::ALL)?;
    let n = |u: &mut Unstructured<'_>| u.arbitrary::<u16>().map(u64::from);
    let mut outcome = Outcome::new(engine);
    let (destroyed, gone) = (n(u)?, if dry_run { 0 } else { n(u)? });
    let failures = if dry_run { 0 } else { u.int_in_range(0..=90)? };
    for _ in 0..failures {
        outcome.add_failure(socket(u)?, u.arbitrary()?);
    }
    let skipped = &mut outcome.skipped;
    skipped.unconnected = n(u)?;
    skipped.moved_on = n(u)?;
    skipped.no_peer = n(u)?;
    skipped.state = n(u)?;
    skipped.stale = n(u)?;
    skipped.gone = gone;
    skipped.other_link = n(u)?;
    skipped.spared = n(u)?;
    skipped.frontend = n(u)?;
    skipped.frontend_unknown = n(u)?;
    skipped.not_selected = n(u)?;
    skipped.kernel = n(u)?;
    skipped.accepted = n(u)?;
    outcome.victims = destroyed + failures + gone;
    outcome.destroyed = if dry_run { 0 } else { destroyed };
    outcome.visited = outcome.victims + outcome.skipped.total() - gone;
    for _ in 0..u.int_in_range(0..=2)? {
        outcome.incomplete.insert(*u.choose(&Incomplete::ALL)?);
        outcome.add_fallback(FallbackRun::new(
            *u.choose(&EngineName::ALL)?,
            *u.choose(&[FallbackReason::IndexFull, FallbackReason::NoExactId])?,
            n(u)?,
            n(u)?,
            n(u)?,
        ));
    }
    assert_eq!(outcome.balanced(dry_run), Ok(()));
    Ok(outcome)
}

fn socket(u: &mut Unstructured<'_>) -> Result<SocketTuple> {
    let protocol = *u.choose(&Protocol::ALL)?;
    let ends =
        [SocketAddr::new(u.arbitrary()?, u.arbitrary()?), SocketAddr::new(u.arbitrary()?, u.arbitrary()?)];
    let mut socket = SocketTuple::new(protocol, ends[0], ends[1]);
    socket.ifindex = u.arbitrary()?;
    socket.cookie = u.arbitrary()?;
    socket.netns = u.arbitrary()?;
    socket.netns_inum = u.arbitrary()?;
    socket.state = state_name(u.arbitrary()?).into();
    socket.attribution = attribution(u)?.map(Box::new);
    Ok(socket)
}

fn attribution(u: &mut Unstructured<'_>) -> Result<Option<Attribution>> {
    if !u.ratio(1, 4)? {
        return Ok(None);
    }
    let mut whose = Attribution::default();
    whose.netns_name = u.arbitrary()?;
    whose.cgroup = u.arbitrary()?;
    whose.uid = u.arbitrary()?;
    whose.pid = u.arbitrary()?;
    whose.command = u.arbitrary()?;
    Ok(Some(whose))
}

//! Every metric: its name, its help, and the source of its numbers.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Unit;

use skreap_bpf::FrontendCounters;
use skreap_core::{HeldStatus, errno_name};

use super::durations::Durations;
use crate::observe::listing::Listing;
use crate::observe::monitor::Monitor;
use crate::observe::status::{AuditLogStatus, AuditStatus, Status, Totals};

/// Name and value of each label of one time series.
type Labels = Vec<(&'static str, String)>;

/// Reads the monitor at each scrape.
#[derive(Debug)]
pub(super) struct Families {
    monitor: Monitor,
    durations: Durations,
}

impl Families {
    pub(super) fn new(monitor: Monitor, durations: Durations) -> Self {
        Self { monitor, durations }
    }
}

impl Collector for Families {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Encoder(encoder);
        // An unreadable metric is left out of this scrape: an absent metric raises an alert, a wrong one does not.
        match self.monitor.status() {
            Ok(status) => {
                service(&mut to, &status, self.monitor.started_unix())?;
                if let Some(lines) = status.audit_log {
                    audit_log(&mut to, lines)?;
                }
                events(&mut to, &status)?;
                index(&mut to, &status)?;
                hooks(&mut to, &status)?;
            }
            Err(e) => tracing::warn!("cannot read the index for metrics: {e}"),
        }
        match self.monitor.listing() {
            Ok(listing) => listed(&mut to, &listing)?,
            Err(e) => tracing::warn!("cannot walk the index for metrics: {e}"),
        }
        let help = "Duration of events by phase; all phases together are the total";
        let mut family =
            to.0.encode_descriptor("event_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (phase, histogram) in self.durations.by_phase() {
            histogram.encode(family.encode_family(&[("phase", phase)])?)?;
        }
        Ok(())
    }
}

fn service(to: &mut Encoder<'_>, s: &Status, started: f64) -> fmt::Result {
    let info = Info::new(vec![("version", s.version.clone()), ("engine", s.engine.to_string())]);
    let family =
        to.0.encode_descriptor("build", "Version and engine of the service", None, MetricType::Info)?;
    info.encode(family)?;
    let help = "When the service started, in seconds since 1970";
    let family = to.0.encode_descriptor("start_time", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    ConstGauge::new(started).encode(family)?;
    to.gauge("clients", "Clients connected to the unix sockets", s.clients.connected)?;
    to.counter("clients_accepted", "Clients accepted", one(s.clients.accepted))?;
    to.counter(
        "clients_refused",
        "Clients refused, by reason: uid (not allowed) or full (too many clients)",
        by("reason", [("uid", s.clients.refused_uid), ("full", s.clients.refused_full)]),
    )?;
    to.counter(
        "lines_refused",
        "Lines of input that were not a valid request",
        one(s.clients.refused_lines),
    )?;
    to.gauge("events_waiting", "Events that wait for the reaper", s.waiting)?;
    to.gauge("events_unconfirmed", "Deletions that wait to be confirmed", s.unconfirmed)
}

fn audit_log(to: &mut Encoder<'_>, lines: AuditLogStatus) -> fmt::Result {
    to.counter("audit_log_written", "Lines of the audit log that were written", one(lines.written))?;
    let help = "Lines of the audit log that were dropped, as its reader is too slow";
    to.counter("audit_log_dropped", help, one(lines.dropped))?;
    to.gauge("audit_log_waiting", "Lines of the audit log that wait to be written", lines.waiting)
}

fn events(to: &mut Encoder<'_>, s: &Status) -> fmt::Result {
    let t = &s.totals;
    let by_result = t.events.iter().flat_map(|(kind, results)| {
        results
            .iter()
            .map(move |(result, n)| (vec![("type", kind.clone()), ("result", result.name().to_owned())], *n))
    });
    to.counter("events", "Events answered, by type and result", by_result)?;
    sockets(to, t, &s.held)?;
    to.gauge("sockets_reviving", "Destroyed sockets that will be looked at again", s.reviving)?;
    let incomplete = t.incomplete.iter().map(|(why, n)| (vec![("reason", why.name().to_owned())], *n));
    to.counter("events_incomplete", "Events that may have missed sockets, by reason", incomplete)?;
    s.audit.as_ref().map_or(Ok(()), |audit| audits(to, audit))
}

fn sockets(to: &mut Encoder<'_>, t: &Totals, h: &HeldStatus) -> fmt::Result {
    let destroyed = t.destroyed.iter().flat_map(|(engine, protocols)| {
        protocols.iter().map(move |(protocol, n)| {
            (vec![("engine", engine.to_string()), ("protocol", protocol.clone())], *n)
        })
    });
    to.counter("sockets_destroyed", "Sockets destroyed, by engine and protocol", destroyed)?;
    let k = &t.skipped;
    to.counter(
        "sockets_skipped",
        "Sockets visited and not destroyed, by reason",
        by(
            "reason",
            [
                ("unconnected", k.unconnected),
                ("moved-on", k.moved_on),
                ("no-peer", k.no_peer),
                ("state", k.state),
                ("stale", k.stale),
                ("gone", k.gone),
                ("kernel", k.kernel),
                ("other-link", k.other_link),
                ("frontend", k.frontend),
                ("frontend-unknown", k.frontend_unknown),
                ("not-selected", k.not_selected),
                ("spared", k.spared),
                ("accepted", k.accepted),
            ],
        ),
    )?;
    let mut failed = t.failed.clone();
    if h.taken_back > 0 {
        // A counter never falls.
        *failed.entry(errno_name(libc::ETIMEDOUT).into_owned()).or_default() += h.taken_back;
    }
    let failed = failed.into_iter().map(|(errno, n)| (vec![("errno", errno)], n));
    to.counter("sockets_failed", "Sockets that could not be destroyed, by errno", failed)?;
    let help = "Sockets reported as failed that are still waited for, as their owners hold their locks";
    to.gauge("sockets_held", help, h.waiting)?;
    to.counter(
        "sockets_late",
        "Sockets that came to something after they were reported as failed, by what",
        by("result", [("destroyed", h.late_destroyed), ("gone", h.late_gone)]),
    )?;
    to.gauge("destroyers_given_up", "Threads that wait for the lock of a socket", h.given_up)?;
    let moved = t.moved.not_moved.iter().map(|(reason, n)| (vec![("result", reason.clone())], *n));
    let moved = std::iter::once((vec![("result", "moved".to_owned())], t.moved.moved)).chain(moved);
    to.counter("sockets_moved", "Sockets that were to be moved, by what came of them", moved)?;
    let failed = t.revived.failed.iter().map(|(errno, n)| (vec![("result", errno.clone())], *n));
    let revived = t.revived.counts().into_iter().map(|(result, n)| (vec![("result", result.to_owned())], n));
    let help = "Destroyed sockets that were looked at again, by what came of them";
    to.counter("sockets_looked_at_again", help, revived.chain(failed))?;
    let by_rule = t.rules.iter().flat_map(|(rule, actions)| {
        actions
            .iter()
            .map(move |(action, n)| (vec![("rule", rule.clone()), ("action", action.to_string())], *n))
    });
    to.counter("rule_sockets", "Sockets of events that rules gave an action, by rule and action", by_rule)
}

fn audits(to: &mut Encoder<'_>, audit: &AuditStatus) -> fmt::Result {
    to.counter("audits", "Audits made", one(audit.runs))?;
    to.gauges(
        "audit_differences",
        "Differences between the index and an independent scan in the last audit, by kind",
        by("kind", [("missed", audit.missed), ("stale", audit.stale), ("wrong-key", audit.wrong_key)]),
    )?;
    let not_compared = [
        ("no-room", audit.incomplete),
        ("pre-existing", audit.preexisting),
        ("undecided", audit.undecided),
        ("kernel", audit.kernel),
    ];
    to.gauges(
        "audit_not_compared",
        "Connected sockets that the last audit did not expect in the index, by reason",
        by("reason", not_compared),
    )
}

fn index(to: &mut Encoder<'_>, s: &Status) -> fmt::Result {
    let c = &s.index.counters;
    to.gauge("index_memberships", "Nodes in the index: one for each socket and backend", s.index.nodes)?;
    to.gauge("index_capacity", "Nodes that the index can hold", c.capacity)?;
    to.gauge("index_free", "Nodes not in use", c.free_nodes)?;
    let help = "Kernel memory of the index";
    let family = to.0.encode_descriptor("index_memory", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    ConstGauge::new(signed(s.index.map_bytes)).encode(family)?;
    to.gauge(
        "index_incomplete_backends",
        "backends that lack a socket in the index; one bit may stand for several",
        s.index.incomplete_backends,
    )?;
    to.gauge(
        "index_incomplete_everything",
        "1 if the index may lack sockets of any backend",
        u64::from(s.index.incomplete_everything),
    )?;
    to.counter("index_inserts", "Nodes linked into the index", one(c.inserts))?;
    to.counter("index_removals", "Nodes unlinked from the index", one(c.removals))?;
    to.counter("index_releases", "Closed sockets that had a node", one(c.releases))?;
    to.counter(
        "index_dropped",
        "Memberships that could not be recorded, by reason",
        by("reason", [("full", c.dropped_full), ("chain", c.dropped_chain)]),
    )?;
    to.counter(
        "index_ignored",
        "Sockets that the index does not track, by reason",
        by("reason", [("kernel", c.ignored_kernel), ("protocol", c.ignored_protocol)]),
    )?;
    to.counter(
        "index_wildcard",
        "Sockets that became wildcards: too many peers to list, or a connect to a zero address",
        one(c.wildcard),
    )?;
    to.counter("index_stale", "Nodes whose socket no longer exists: a close was missed", one(c.stale))?;
    s.index.frontends.as_ref().map_or(Ok(()), |known| frontends(to, known))
}

fn frontends(to: &mut Encoder<'_>, f: &FrontendCounters) -> fmt::Result {
    to.gauge("index_frontends", "Distinct frontends in the table; none leaves it", f.known)?;
    to.gauge("index_frontends_capacity", "Frontends that the table can hold", f.room)?;
    let reasons = [("not-first", f.not_first), ("no-note", f.no_note), ("table-full", f.table_full)];
    let help = "Calls of connect and sendmsg whose frontend is not known, by reason";
    to.counter("index_frontends_unknown", help, by("reason", reasons))
}

fn listed(to: &mut Encoder<'_>, listing: &Listing) -> fmt::Result {
    to.gauge("index_sockets", "Sockets in the index", listing.sockets)?;
    to.gauge("index_backends", "Backends with at least one socket", listing.backends.len() as u64)?;
    to.gauge("index_moved_on", "Memberships of sockets that have left that backend", listing.moved_on)?;
    to.gauge("index_no_peer", "Memberships of sockets that have no peer now", listing.no_peer)?;
    listing.census().frontends.map_or(Ok(()), |f| {
        let ways = [("direct", f.direct), ("translated", f.translated), ("unknown", f.unknown)];
        let help = "Memberships of backends, by what their owners named";
        to.gauges("index_named", help, by("frontend", ways))
    })
}

fn hooks(to: &mut Encoder<'_>, s: &Status) -> fmt::Result {
    // Without the kernel's statistics all is 0, which would look like hooks that never run.
    let measured = s.hooks.iter().filter(|hook| hook.runs > 0);
    let runs = measured.clone().map(|hook| (vec![("hook", hook.hook.clone())], hook.runs));
    to.counter("hook_runs", "Runs of each hook while the kernel collected BPF statistics", runs)?;
    let mut measured = measured.peekable();
    if measured.peek().is_some() {
        let help = "Time spent in each hook while the kernel collected BPF statistics";
        let mut family =
            to.0.encode_descriptor("hook_run_time", help, Some(&Unit::Seconds), MetricType::Counter)?;
        for hook in measured {
            let seconds = hook.run_time_ns as f64 / 1e9;
            ConstCounter::new(seconds).encode(family.encode_family(&[("hook", hook.hook.as_str())])?)?;
        }
    }
    if let Some(order) = &s.order {
        let help = "1 if no foreign program runs after our hooks";
        to.gauge("hook_order_last", help, u64::from(order.last))?;
        let help = "Hooks after which a foreign program runs now: each event costs a pass over the index";
        to.gauge("hook_order_behind", help, order.behind)?;
        to.counter("hook_order_moves", "Times our hooks were moved to be last again", one(order.moves))?;
        let help = "Times our hooks were not moved, because they had been moved too often in the last minute";
        to.counter("hook_order_held_back", help, one(order.held_back))?;
        let help = "Memberships recorded anew because they were under another address than the backend's";
        to.counter("hook_order_rekeyed", help, one(order.rekeyed))?;
        let help = "Hooks of ours that another process has detached: restart the service";
        to.gauge("hooks_detached", help, order.detached)?;
        if let Some(first) = &order.first {
            let help = "1 if no foreign program runs before our first programs; 0: no frontends are recorded";
            to.gauge("hook_order_first", help, u64::from(first.first))?;
            let help = "Times our first programs were moved to be first again";
            to.counter("hook_order_first_moves", help, one(first.moves))?;
        }
    }
    Ok(())
}

/// The only time series of a metric.
fn one(value: u64) -> impl Iterator<Item = (Labels, u64)> {
    std::iter::once((Vec::new(), value))
}

/// One time series for each value of a label.
fn by<const N: usize>(
    label: &'static str,
    values: [(&'static str, u64); N],
) -> impl Iterator<Item = (Labels, u64)> {
    values.into_iter().map(move |(name, n)| (vec![(label, name.to_owned())], n))
}

/// Gauges are signed; nothing here comes near the limit.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

struct Encoder<'a>(DescriptorEncoder<'a>);

impl Encoder<'_> {
    /// A counter; without any time series it is left out.
    fn counter(
        &mut self,
        name: &str,
        help: &str,
        series: impl Iterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        let mut series = series.peekable();
        if series.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in series {
            // A time series without labels is the metric itself, not one with an empty set of them.
            if labels.is_empty() {
                return ConstCounter::new(value).encode(family);
            }
            ConstCounter::new(value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.gauges(name, help, one(value))
    }

    fn gauges(&mut self, name: &str, help: &str, series: impl Iterator<Item = (Labels, u64)>) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in series {
            if labels.is_empty() {
                return ConstGauge::new(signed(value)).encode(family);
            }
            ConstGauge::new(signed(value)).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

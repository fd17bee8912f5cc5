//! The catalogue of metrics of all roles, with labels and meanings. `/metrics` shows the meanings, and
//! `docs/metrics.md` is rendered from it.

use std::fmt::Write;

use metrics::{describe_counter, describe_gauge, describe_histogram};

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows, until the process ends.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts values in buckets.
    Histogram,
}

impl MetricKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name in `/metrics`.
    pub name: &'static str,
    /// Its type.
    pub kind: MetricKind,
    /// The names of its labels.
    pub labels: &'static [&'static str],
    /// What it measures.
    pub meaning: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Counter, labels, meaning }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Gauge, labels, meaning }
}

const fn histogram(name: &'static str, labels: &'static [&'static str], meaning: &'static str) -> Metric {
    Metric { name, kind: MetricKind::Histogram, labels, meaning }
}

/// All metrics, ordered by name.
pub const METRICS: &[Metric] = &[
    counter("annals_accept_errors_total", &["listener"], "connections that the system could not hand over"),
    counter("annals_activity_dropped_total", &[], "entries of the activity log that could not be written"),
    counter(
        "annals_append_cas_conflicts_total",
        &[],
        "compare-and-swaps of a log's head that another process won",
    ),
    histogram("annals_append_flush_events", &[], "events in one transaction of an append worker"),
    counter(
        "annals_append_flush_splits_total",
        &[],
        "flushes that PostgreSQL rejected, so that they were split",
    ),
    counter(
        "annals_broker_messages_rejected_total",
        &["reason"],
        "messages of the stream EVENTS that the relay did not write",
    ),
    counter(
        "annals_command_conflicts_total",
        &[],
        "commands that were decided again after a version conflict",
    ),
    counter("annals_commands_total", &["command", "outcome"], "commands"),
    gauge("annals_connections", &["listener"], "open HTTP connections"),
    counter(
        "annals_connections_refused_total",
        &["listener", "reason"],
        "HTTP connections refused at a limit",
    ),
    gauge(
        "annals_consumer_lag_events",
        &["consumer"],
        "events that a read model or a saga has not handled yet",
    ),
    counter(
        "annals_consumer_lost_batches_total",
        &[],
        "batches that a slow consumer read from the log instead",
    ),
    counter(
        "annals_credential_reconcile_failures_total",
        &[],
        "failed attempts to apply the registry of credentials to NATS",
    ),
    gauge("annals_database_connections", &["role"], "open connections to PostgreSQL, by database role"),
    counter("annals_event_stream_reads_total", &["source"], "reads of the log for event streams"),
    counter("annals_event_streams_closed_total", &["transport", "code"], "event streams that ended, and why"),
    gauge("annals_event_streams_open", &["transport"], "open event streams"),
    counter("annals_exports_closed_total", &["code"], "exports that ended early, and why"),
    counter(
        "annals_graphql_plans_total",
        &["outcome"],
        "GraphQL documents by what the cache of plans had: planned, unplannable, new; and plans that were given_up",
    ),
    counter("annals_http_refusals_total", &["listener", "status"], "requests refused before any handler"),
    counter(
        "annals_invariant_violations_total",
        &["invariant"],
        "rules that must always hold and that stored data of a tenant broke",
    ),
    gauge("annals_keys_destroyed", &[], "tombstones of destroyed keys"),
    gauge(
        "annals_keys_missing",
        &[],
        "keys that events name and the key store lacks, at the last comparison",
    ),
    counter(
        "annals_keys_missing_total",
        &[],
        "reads refused because a key is missing that was not destroyed",
    ),
    gauge("annals_keys_unused", &[], "keys that no event names, at the last comparison"),
    counter("annals_logins_total", &["outcome"], "sign-ins"),
    counter("annals_logs_replaced_total", &[], "logs that continue under another id after a restore"),
    counter(
        "annals_projection_dead_letters_total",
        &["projection"],
        "events that a read model could not handle",
    ),
    counter("annals_projection_events_total", &["projection"], "events that read models handled"),
    gauge("annals_relay_lag_events", &[], "committed events that JetStream has not acknowledged"),
    counter("annals_relay_published_total", &[], "events that JetStream acknowledged"),
    counter("annals_relay_republished_total", &[], "events published again because the stream lacked them"),
    counter("annals_saga_steps_total", &["saga", "outcome"], "steps of sagas"),
    counter("annals_sealer_checkpoints_total", &[], "signed checkpoints"),
    counter("annals_sealer_leaves_total", &[], "leaves added to Merkle logs"),
    gauge("annals_sealer_rejected_logs", &[], "logs that are not signed because their history differs"),
    counter("annals_snapshots_total", &["outcome"], "snapshots of folds: kept, skipped, failed, unusable"),
    counter("annals_subjects_erased_total", &[], "people erased"),
    counter(
        "annals_unknown_events_total",
        &["consumer"],
        "events that stop a tenant in a read model or saga until a newer version of the program runs",
    ),
    histogram("annals_webhook_attempt_duration_seconds", &["outcome"], "duration of webhook requests"),
    counter("annals_webhook_attempts_total", &["outcome"], "webhook requests"),
    counter("annals_webhook_dead_letters_total", &[], "deliveries that were given up"),
    counter("annals_webhooks_disabled_total", &["reason"], "endpoints that were disabled"),
    histogram("http_request_duration_seconds", &["method", "route", "status"], "duration of HTTP requests"),
    counter("http_requests_total", &["method", "route", "status"], "HTTP requests"),
];

/// Registers the meanings with the recorder.
pub(crate) fn describe() {
    for Metric { name, kind, meaning, .. } in METRICS {
        match kind {
            MetricKind::Counter => describe_counter!(*name, *meaning),
            MetricKind::Gauge => describe_gauge!(*name, *meaning),
            MetricKind::Histogram => describe_histogram!(*name, *meaning),
        }
    }
}

/// The catalogue as `docs/metrics.md` shows it.
pub fn render_metrics() -> String {
    let mut page = String::from(
        "# Metrics\n\n\
         The catalogue in `gateway/src/metrics.rs` makes this page.\n\
         `UPDATE_DOCS=1 cargo test -p gateway` writes it.\n\
         [operations.md](operations.md) says what to do about them.\n\n\
         | metric | kind | labels | meaning |\n\
         | --- | --- | --- | --- |\n",
    );
    for Metric { name, kind, labels, meaning } in METRICS {
        let (kind, labels) = (kind.as_str(), labels.join(", "));
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {kind} | {labels} | {meaning} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_of_metrics_is_the_catalogue() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let rendered = render_metrics();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &rendered).expect("the page can be written");
        }
        let page = std::fs::read_to_string(path).expect("the page is there");
        assert_eq!(page, rendered, "run UPDATE_DOCS=1 cargo test -p gateway");
    }

    #[test]
    fn metrics_are_in_order_and_carry_the_prefix_of_the_product() {
        assert!(METRICS.is_sorted_by_key(|metric| metric.name));
        for Metric { name, kind, .. } in METRICS {
            assert!(name.starts_with("annals_") || name.starts_with("http_request"), "{name}");
            assert_eq!(*kind == MetricKind::Counter, name.ends_with("_total"), "{name}");
        }
    }
}

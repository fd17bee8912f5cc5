//! The operations listener: liveness, readiness and metrics. It has no tenant data.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::metrics::describe;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use store::Store;
use tokio_util::sync::CancellationToken;

/// Maximum wait of a readiness probe for the database. Then the probe answers "not ready".
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const DURATION_BUCKETS_SECONDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// A condition for readiness, such as the connection to NATS.
#[derive(Clone)]
pub struct ReadinessCheck {
    /// What is checked.
    pub name: &'static str,
    /// Whether the condition holds. It must not block.
    pub check: Arc<dyn Fn() -> bool + Send + Sync>,
}

/// Why metrics cannot be recorded.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be recorded: {0}")]
pub struct MetricsError(String);

impl From<BuildError> for MetricsError {
    fn from(error: BuildError) -> Self {
        Self(error.to_string())
    }
}

/// The process's metrics recorder, installed by the first call. Metrics recorded before that are lost, so the binary
/// calls this early.
///
/// # Errors
/// [`MetricsError`] when the recorder cannot be installed, for example because the process has another one.
pub fn recorder() -> Result<PrometheusHandle, MetricsError> {
    static RECORDER: OnceLock<Result<PrometheusHandle, String>> = OnceLock::new();
    let installed = RECORDER.get_or_init(|| {
        PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS_SECONDS)
            .and_then(PrometheusBuilder::install_recorder)
            .inspect(|_| describe())
            .map_err(|error| error.to_string())
    });
    installed.clone().map_err(MetricsError)
}

/// The state of the operations listener. Every process has one, in every role. Cheap to clone.
#[derive(Clone)]
pub struct Operations(Arc<OperationsState>);

struct OperationsState {
    store: Store,
    checks: Vec<ReadinessCheck>,
    metrics: PrometheusHandle,
    stopping: CancellationToken,
}

impl Operations {
    /// The process is ready when the store and all `checks` work and `stopping` is not cancelled.
    ///
    /// # Errors
    /// [`MetricsError`] when [`recorder`] fails.
    pub fn new(
        store: Store,
        checks: Vec<ReadinessCheck>,
        stopping: CancellationToken,
    ) -> Result<Self, MetricsError> {
        let metrics = recorder()?;
        Ok(Self(Arc::new(OperationsState { store, checks, metrics, stopping })))
    }
}

/// The routes: probes and metrics.
pub fn routes() -> Router<Operations> {
    Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).route("/metrics", get(metrics))
}

/// `GET /livez`: 200 while the process runs.
async fn livez() -> Json<serde_json::Value> {
    Json(json!({ "status": "alive" }))
}

/// `GET /readyz`: 200 when the process can serve; 503 when it cannot or is stopping.
async fn readyz(State(Operations(shared)): State<Operations>) -> Response {
    let ping = tokio::time::timeout(PING_TIMEOUT, shared.store.ping()).await;
    let mut checks = serde_json::Map::new();
    let mut ready = !shared.stopping.is_cancelled();
    let database = matches!(ping, Ok(Ok(())));
    let others = shared.checks.iter().map(|check| (check.name, (check.check)()));
    for (name, works) in std::iter::once(("database", database)).chain(others) {
        ready &= works;
        checks.insert(name.to_owned(), json!(works));
    }
    let (status, word) =
        if ready { (StatusCode::OK, "ready") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready") };
    (status, Json(json!({ "status": word, "checks": checks }))).into_response()
}

/// `GET /metrics`: all metrics in the text format of Prometheus.
async fn metrics(State(Operations(shared)): State<Operations>) -> Response {
    shared.metrics.run_upkeep();
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], shared.metrics.render()).into_response()
}

//! `/v1/audit/read-models`: whole read models as they were, and what became of them, for auditors.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use chrono::{DateTime, Utc};
use queries::{PastChanges, PastError, PastRows, ReadModel, whole};
use schemas::engine::LogId;
use serde::{Deserialize, Serialize};
use tokio::sync::SemaphorePermit;
use uuid::Uuid;

use super::audit::AUDIT_SCOPE;
use super::events::{EVENTS_SCOPE, same_log};
use crate::auth::Principal;
use crate::edge::{Code, Problem};
use crate::gateway::Gateway;

const DEFAULT_LIMIT: usize = 100;
/// Rows, or events looked through, of one page.
const MOST: usize = 500;
/// How long a page waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// The parameter of a question where the log was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionQuery {
    time: DateTime<Utc>,
}

/// Where the log was at a time.
#[derive(Debug, Serialize)]
pub struct PositionBody {
    log_id: LogId,
    position: u64,
    head: u64,
}

/// `GET /v1/audit/position?time=`: the last position that was recorded by then.
pub async fn position(
    principal: Principal,
    query: Result<Query<PositionQuery>, QueryRejection>,
) -> Result<Json<PositionBody>, Problem> {
    if !principal.may(EVENTS_SCOPE) {
        principal.needs(AUDIT_SCOPE)?;
    }
    let Query(query) = query.map_err(|_| malformed())?;
    let (head, position) = principal.store.position_at(query.time).await?;
    Ok(Json(PositionBody { log_id: head.log_id, position, head: head.position }))
}

/// The parameters of a page of rows. `after` is the `next_after` of the page before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsQuery {
    at: Option<u64>,
    log: Option<Uuid>,
    after: Option<Uuid>,
    limit: Option<usize>,
}

/// `GET /v1/audit/read-models/{name}`: rows as they were when the log ended at a position.
pub async fn rows(
    State(gateway): State<Gateway>,
    principal: Principal,
    Path(name): Path<String>,
    query: Result<Query<RowsQuery>, QueryRejection>,
) -> Result<Json<PastRows>, Problem> {
    let checkpoint = read_model(&principal, &name)?;
    let Query(query) = query.map_err(|_| malformed())?;
    let limit = limit(query.limit)?;
    let log = log(&principal, query.log).await?;
    let _turn = turn(&gateway).await?;
    Ok(Json(whole::rows(&principal.store, checkpoint, log, query.at, query.after, limit).await?))
}

/// The parameters of a page of changes. `after` is the `next_after` of the page before.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    from: u64,
    to: Option<u64>,
    log: Option<Uuid>,
    after: Option<u64>,
    limit: Option<usize>,
}

/// `GET /v1/audit/read-models/{name}/changes`: what became of rows between two positions.
pub async fn changes(
    State(gateway): State<Gateway>,
    principal: Principal,
    Path(name): Path<String>,
    query: Result<Query<ChangesQuery>, QueryRejection>,
) -> Result<Json<PastChanges>, Problem> {
    let checkpoint = read_model(&principal, &name)?;
    let Query(query) = query.map_err(|_| malformed())?;
    let limit = limit(query.limit)?;
    if query.to.is_some_and(|to| to < query.from) {
        return Err(Problem::bad_request("to must not stand before from"));
    }
    let log = log(&principal, query.log).await?;
    let _turn = turn(&gateway).await?;
    let between = (query.from, query.to);
    Ok(Json(whole::changes(&principal.store, checkpoint, log, between, query.after, limit).await?))
}

/// The read model of this name, for those who may look back and may see it as it is.
fn read_model(principal: &Principal, name: &str) -> Result<&'static str, Problem> {
    principal.needs(AUDIT_SCOPE)?;
    let model = ReadModel::find(name);
    let model = model.ok_or_else(|| Problem::new(Code::NotFound).detail("there is no such read model"))?;
    principal.needs(model.scope())?;
    Ok(model.checkpoint())
}

fn limit(given: Option<usize>) -> Result<usize, Problem> {
    match given.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MOST => Ok(limit),
        _ => Err(Problem::bad_request(format!("limit must be 1 to {MOST}"))),
    }
}

/// The tenant's log; 410 where another one is meant.
async fn log(principal: &Principal, named: Option<Uuid>) -> Result<LogId, Problem> {
    let current = principal.store.head().await?.log_id;
    same_log(&principal.store, named.map(LogId), current).await?;
    Ok(current)
}

/// A place among the few pages that are worked out at a time: they must not take the database from everybody else.
async fn turn(gateway: &Gateway) -> Result<SemaphorePermit<'_>, Problem> {
    let busy = || Problem::new(Code::Unavailable).detail("too many pages of the past are being worked out");
    let turn = tokio::time::timeout(PATIENCE, gateway.pasts.acquire()).await;
    turn.map_err(|_elapsed| busy())?.map_err(|_closed| busy())
}

fn malformed() -> Problem {
    Problem::bad_request("a parameter is missing, unknown or malformed")
}

impl From<PastError> for Problem {
    fn from(error: PastError) -> Self {
        match error {
            PastError::Store(error) => error.into(),
            error @ PastError::Unknown(_) => Self::new(Code::NotFound).detail(error.to_string()),
            error @ PastError::Beyond { .. } => Self::bad_request(error.to_string()),
            error => Self::internal(error),
        }
    }
}

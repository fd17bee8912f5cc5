//! `/v1/audit/read-models`: historical states of read models and their changes, for auditors.

use access::policy::{AUDIT_READ, POSITIONS_READ, read_permission};
use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use queries::{HistoricStateError, PastChanges, PastRows, ReadModel, whole};
use schemas::engine::LogId;
use schemas::engine::time::deserialize_time;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::auth::Caller;
use crate::http::log_id::check_log_id;
use crate::http::route::Route;
use crate::http::{Digits, ErrorCode, Path, Problem, Query};
use crate::limits::HistoricReadLimit;
use crate::routes::Routes;

const PAGE_SIZE_DEFAULT: usize = 100;
/// Maximum rows of a page, or maximum events that a page of changes reads.
const PAGE_SIZE_MAX: usize = 500;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes
        .add(Route::recorded_get("/v1/audit/position", &POSITIONS_READ), position)
        .add(Route::recorded_get("/v1/audit/read-models/{name}", &AUDIT_READ), rows)
        .add(Route::recorded_get("/v1/audit/read-models/{name}/changes", &AUDIT_READ), changes)
}

/// The parameter of `GET /v1/audit/position`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PositionQuery {
    #[serde(deserialize_with = "deserialize_time")]
    time: Option<DateTime<Utc>>,
}

/// The position of the log at a time.
#[derive(Debug, Serialize)]
pub struct PositionBody {
    log_id: LogId,
    position: u64,
    head: u64,
}

/// `GET /v1/audit/position?time=`: the last position that was recorded at or before the time.
async fn position(caller: Caller, Query(query): Query<PositionQuery>) -> Result<Json<PositionBody>, Problem> {
    let time = query.time.ok_or(Problem::bad_request("the parameter time is missing"))?;
    let (head, position) = caller.store.position_at(time).await?;
    Ok(Json(PositionBody { log_id: head.log_id, position, head: head.position }))
}

/// The parameters of a page of rows. `after` is the `next_after` of the previous page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsQuery {
    at: Option<Digits>,
    log: Option<Uuid>,
    after: Option<Uuid>,
    limit: Option<Digits>,
}

/// `GET /v1/audit/read-models/{name}`: the rows when the log ended at a position.
async fn rows(
    State(reads): State<HistoricReadLimit>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<RowsQuery>,
) -> Result<Json<PastRows>, Problem> {
    let checkpoint = read_model(&caller, &name)?;
    let limit = Digits::limit(query.limit, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    let log = log(&caller, query.log).await?;
    let _permit = reads.acquire(caller.record.id).await?;
    Ok(Json(whole::rows(&caller.store, checkpoint, log, number(query.at), query.after, limit).await?))
}

/// The parameters of a page of changes. `after` is the `next_after` of the previous page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangesQuery {
    from: Digits,
    to: Option<Digits>,
    log: Option<Uuid>,
    after: Option<Digits>,
    limit: Option<Digits>,
}

/// `GET /v1/audit/read-models/{name}/changes`: the rows that changed between two positions.
async fn changes(
    State(reads): State<HistoricReadLimit>,
    caller: Caller,
    Path(name): Path<String>,
    Query(query): Query<ChangesQuery>,
) -> Result<Json<PastChanges>, Problem> {
    let checkpoint = read_model(&caller, &name)?;
    let limit = Digits::limit(query.limit, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    if query.to.is_some_and(|to| to.0 < query.from.0) {
        return Err(Problem::bad_request("to must not stand before from"));
    }
    let log = log(&caller, query.log).await?;
    let _permit = reads.acquire(caller.record.id).await?;
    let between = (query.from.0, number(query.to));
    Ok(Json(whole::changes(&caller.store, checkpoint, log, between, number(query.after), limit).await?))
}

/// The checkpoint name of a read model.
///
/// # Errors
/// 404 for an unknown name; 403 when the caller may not read the read model itself.
fn read_model(caller: &Caller, name: &str) -> Result<&'static str, Problem> {
    let model = ReadModel::find(name);
    let model =
        model.ok_or_else(|| Problem::new(ErrorCode::NotFound).detail("there is no such read model"))?;
    caller.require_permission(&read_permission(model.model))?;
    Ok(model.checkpoint())
}

fn number(given: Option<Digits>) -> Option<u64> {
    given.map(|digits| digits.0)
}

/// The tenant's log id.
///
/// # Errors
/// 410 when the client named another one.
async fn log(caller: &Caller, named: Option<Uuid>) -> Result<LogId, Problem> {
    let current = caller.store.head().await?.log_id;
    check_log_id(&caller.store, named.map(LogId), current).await?;
    Ok(current)
}

impl From<HistoricStateError> for Problem {
    fn from(error: HistoricStateError) -> Self {
        match error {
            HistoricStateError::Store(error) => error.into(),
            error @ HistoricStateError::Unknown(_) => {
                Self::new(ErrorCode::NotFound).detail(error.to_string())
            }
            error @ HistoricStateError::Beyond { .. } => Self::bad_request(error.to_string()),
            error => Self::internal(error),
        }
    }
}

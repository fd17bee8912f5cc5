//! `GET /v1/activities`: a tenant's activity log, the newest entries first.

use axum::Json;
use axum::extract::Query;
use axum::extract::rejection::QueryRejection;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};
use store::activities::ActivityFilter;
use store::{Activity, ActivityKind};
use uuid::Uuid;

use crate::auth::Caller;
use crate::http::Problem;

const DEFAULT_LIMIT: usize = 100;
const MOST: usize = 1_000;

/// The parameters. `before` is the `next_before` of the page before this one.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivitiesQuery {
    kind: Option<String>,
    before: Option<Uuid>,
    since: Option<DateTime<Utc>>,
    until: Option<DateTime<Utc>>,
    limit: Option<usize>,
}

/// Answers one page.
pub async fn page(
    caller: Caller,
    query: Result<Query<ActivitiesQuery>, QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(query) = query.map_err(|_| Problem::bad_request("a parameter is unknown or malformed"))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MOST {
        return Err(Problem::bad_request(format!("limit must be 1 to {MOST}")));
    }
    let kind = match query.kind.as_deref().map(ActivityKind::parse) {
        Some(None) => return Err(Problem::bad_request("there is no such kind of activity")),
        given => given.flatten(),
    };
    let filter = ActivityFilter { kind, before: query.before, since: query.since, until: query.until };
    let activities: Vec<Activity> = caller.store.activities(filter, limit).await?;
    let next = activities.last().filter(|_| activities.len() == limit).map(|last| last.id);
    Ok(Json(json!({ "activities": activities, "next_before": next })))
}

//! `GET /v1/activities`: a tenant's activity log, the newest entries first.

use access::policy::AUDIT_READ;
use activity::{Activity, ActivityFilter, ActivityKind};
use axum::Json;
use chrono::{DateTime, Utc};
use schemas::engine::time::deserialize_time;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::pages::split_page;
use crate::auth::Caller;
use crate::http::route::Route;
use crate::http::{Digits, Problem, Query};
use crate::routes::Routes;

const PAGE_SIZE_DEFAULT: usize = 100;
const PAGE_SIZE_MAX: usize = 1_000;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes.add(Route::recorded_get("/v1/activities", &AUDIT_READ), page)
}

/// The parameters. `before` is the `next_before` of the previous page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ActivitiesQuery {
    kind: Option<String>,
    before: Option<Uuid>,
    #[serde(default, deserialize_with = "deserialize_time")]
    since: Option<DateTime<Utc>>,
    #[serde(default, deserialize_with = "deserialize_time")]
    until: Option<DateTime<Utc>>,
    limit: Option<Digits>,
}

/// Returns one page.
async fn page(caller: Caller, Query(query): Query<ActivitiesQuery>) -> Result<Json<Value>, Problem> {
    let limit = Digits::limit(query.limit, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)?;
    let kind = match query.kind.as_deref().map(ActivityKind::parse) {
        Some(None) => return Err(Problem::bad_request("there is no such kind of activity")),
        given => given.flatten(),
    };
    let filter = ActivityFilter { kind, before: query.before, since: query.since, until: query.until };
    let activities: Vec<Activity> = activity::page(&caller.store, filter, limit + 1).await?;
    let (activities, next) = split_page(activities, limit, |activity| activity.id);
    Ok(Json(json!({ "activities": activities, "next_before": next })))
}

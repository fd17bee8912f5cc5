//! `POST /v1/stream-tickets`: a ticket that opens one event stream in a browser's `EventSource`.

use access::policy::{EVENTS_READ, PERSONAL_DATA_READ};
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use schemas::engine::InvalidValue;
use serde_json::{Value, json};
use store::Store;
use store::requests::AnswerRetention;

use crate::auth::Caller;
use crate::auth::tickets::{TICKET_LIFETIME, Ticket};
use crate::http::route::Route;
use crate::http::{ErrorCode, JsonBody, Problem};
use crate::routes::Routes;
use crate::streams::sse;

/// The paths that accept tickets.
const TICKET_PATHS: [&str; 1] = [sse::PATH];

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let issuing = Route::write(Method::POST, "/v1/stream-tickets", &EVENTS_READ);
    routes.add(issuing.stored(AnswerRetention::TemporarySecret), issue)
}

/// Issues a ticket for a path.
async fn issue(
    State(store): State<Store>,
    caller: Caller,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if caller.claims.is_service() {
        // A service's token can be revoked at any time, and a ticket is not checked against revocations.
        return Err(Problem::new(ErrorCode::Forbidden).detail("a service sends its token"));
    }
    let path = body.required("path", |path| {
        let known = TICKET_PATHS.into_iter().find(|known| *known == path);
        known.ok_or_else(|| {
            InvalidValue::new("path_invalid", format!("must be one of {}", TICKET_PATHS.join(", ")))
        })
    });
    let path = body.finish(|| path)?;
    let personal_data = caller.has_permission(&PERSONAL_DATA_READ);
    let ticket = Ticket::new(caller.record.id, caller.user_id(), caller.expires_at(), personal_data);
    let body = json!({
        "ticket": ticket.encode(store.key(), path),
        "path": path,
        "expires_in": TICKET_LIFETIME.as_secs(),
    });
    Ok((StatusCode::CREATED, Json(body)))
}

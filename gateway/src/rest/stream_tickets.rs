//! `POST /v1/stream-tickets`: a ticket with which a browser's `EventSource` opens a stream of events once.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use schemas::engine::InvalidValue;
use serde_json::{Value, json};

use super::events::{EVENTS_SCOPE, PERSONAL_SCOPE};
use crate::auth::Principal;
use crate::auth::tickets::{LIFETIME, Ticket};
use crate::edge::{Body, Code, Problem};
use crate::gateway::Gateway;

/// The paths that take tickets.
const PATHS: [&str; 1] = ["/v1/events/stream"];

/// Issues a ticket for a path to somebody who may read events.
pub async fn issue(
    State(gateway): State<Gateway>,
    principal: Principal,
    Body(mut body): Body,
) -> Result<(StatusCode, Json<Value>), Problem> {
    principal.needs(EVENTS_SCOPE)?;
    if principal.claims.is_service() {
        // A service's token may be taken back at any time, and a ticket knows nothing of that.
        return Err(Problem::new(Code::Forbidden).detail("a service sends its token"));
    }
    let path = body.required("path", |path| {
        let known = PATHS.into_iter().find(|known| *known == path);
        known.ok_or_else(|| InvalidValue::new("path_invalid", format!("must be one of {}", PATHS.join(", "))))
    });
    let path = body.finish(|| path)?;
    let personal = principal.may(PERSONAL_SCOPE);
    let ticket = Ticket::new(principal.record.id, principal.user_id(), principal.expires_at(), personal);
    let body = json!({
        "ticket": ticket.encode(gateway.store.key(), path),
        "path": path,
        "expires_in": LIFETIME.as_secs(),
    });
    Ok((StatusCode::CREATED, Json(body)))
}

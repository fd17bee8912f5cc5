//! The layer that authenticates and authorizes callers. It runs before the path, the query and the body are checked. So
//! a refusal does not reveal what exists or what is wrong with the request.

use std::sync::Arc;

use access::Principal;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use commands::Executor;
use commands::identity::authority::{self, AuthorityError, FreshAuthority};

use super::content::buffer_body;
use super::idempotency::execute_once;
use super::problem::Problem;
use super::request_log::RequestContext;
use super::route::{AccessRule, AuthoritySource, ErrorFormat, Route};
use super::tenancy::Tenancy;
use crate::auth::{Authenticator, Caller};

/// What the layer uses. Cheap to clone.
#[derive(Clone)]
pub struct Authorization(Arc<AuthorizationState>);

struct AuthorizationState {
    authenticator: Authenticator,
    tenancy: Tenancy,
    executor: Executor,
}

impl Authorization {
    /// The caller's own events are read through the executor.
    pub fn new(authenticator: Authenticator, tenancy: Tenancy, executor: Executor) -> Self {
        Self(Arc::new(AuthorizationState { authenticator, tenancy, executor }))
    }
}

/// The layer, for `axum::middleware::from_fn_with_state`.
pub async fn authorize(
    State(Authorization(state)): State<Authorization>,
    request: Request,
    next: Next,
) -> Response {
    let context = request.extensions().get::<RequestContext>().cloned();
    let route = context.as_ref().and_then(RequestContext::route);
    let (Some(context), Some(route)) = (context, route) else {
        // The request has no route: the fallbacks answer 404 or 405.
        return next.run(request).await;
    };
    match authorize_request(&state, &context, &route, request).await {
        Ok((request, authority)) => {
            let response = run_handler(&state, &context, &route, request, next).await;
            if let Some(authority) = authority {
                authority.release().await;
            }
            response.unwrap_or_else(Problem::into_response)
        }
        Err(problem) => {
            let graphql = route.errors == ErrorFormat::Graphql;
            if graphql { problem.for_graphql() } else { problem }.into_response()
        }
    }
}

async fn run_handler(
    state: &AuthorizationState,
    context: &RequestContext,
    route: &Route,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    if !route.is_idempotent() {
        return Ok(next.run(request).await);
    }
    if let Some(caller) = request.extensions().get::<Arc<Caller>>().cloned() {
        return execute_once(context, route, &caller.store, caller.principal(), request, next).await;
    }
    let tenant = state.tenancy.find(request.headers(), context).await?;
    execute_once(context, route, &tenant.store, &Principal::Anonymous, request, next).await
}

/// Adds the caller to the request when the route needs one. The second value holds the caller's authority until the
/// request is answered.
async fn authorize_request(
    state: &AuthorizationState,
    context: &RequestContext,
    route: &Route,
    mut request: Request,
) -> Result<(Request, Option<FreshAuthority>), Problem> {
    let permission = match route.access {
        AccessRule::Public | AccessRule::Handler(_) => return Ok((request, None)),
        AccessRule::Token => None,
        AccessRule::Permission(permission) => Some(permission),
    };
    let caller = Caller::authenticate(request.headers(), None, context, &state.authenticator).await?;
    if let Some(permission) = permission {
        caller.require_permission(permission)?;
    }
    let mut held = None;
    if let Some(permission) = permission
        && route.requires_fresh_authority()
    {
        // Read the body before the lock is taken, so that a slow client does not hold the lock.
        request = buffer_body(request).await?;
        let (tenant, principal) = (caller.record.id, caller.principal());
        if route.authority == AuthoritySource::LockedEvents {
            held = Some(FreshAuthority::acquire(&state.executor, tenant, principal, permission).await?);
        } else {
            // This check runs first, so that a refusal comes before every other error. The use case checks again under
            // its lock.
            let current = authority::current(&state.executor, tenant, principal).await?;
            if !permission.is_held_by(&current) {
                return Err(AuthorityError::Forbidden.into());
            }
        }
    }
    request.extensions_mut().insert(Arc::new(caller));
    Ok((request, held))
}

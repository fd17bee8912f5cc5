//! The layer that decides who may call: before the path, the query or the body are looked at, so that a refusal tells
//! nothing of what exists or of what is wrong with the request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use commands::identity::authority::{self, AuthorityError, FreshAuthority};

use super::content::buffered;
use super::observe::RequestContext;
use super::problem::Problem;
use super::route::{Authority, ErrorFormat, Needs, Route};
use crate::auth::Caller;
use crate::gateway::Gateway;

/// The layer itself, for `axum::middleware::from_fn_with_state`.
pub async fn guard(State(gateway): State<Gateway>, request: Request, next: Next) -> Response {
    let context = request.extensions().get::<RequestContext>().cloned();
    let route = context.as_ref().and_then(RequestContext::route);
    let (Some(context), Some(route)) = (context, route) else {
        // No route: the fallbacks answer 404 and 405.
        return next.run(request).await;
    };
    match admit(&gateway, &context, &route, request).await {
        Ok((request, authority)) => {
            let response = next.run(request).await;
            if let Some(authority) = authority {
                authority.release().await;
            }
            response
        }
        Err(problem) => {
            let graphql = route.errors == ErrorFormat::Graphql;
            if graphql { problem.for_graphql() } else { problem }.into_response()
        }
    }
}

/// The request with its caller, where the route needs one, and what holds the caller's authority while it is answered.
async fn admit(
    gateway: &Gateway,
    context: &RequestContext,
    route: &Route,
    mut request: Request,
) -> Result<(Request, Option<FreshAuthority>), Problem> {
    let permission = match route.needs {
        Needs::Nothing | Needs::Handler => return Ok((request, None)),
        Needs::Token => None,
        Needs::Permission(permission) => Some(permission),
    };
    let caller = Caller::of(request.headers(), None, context, gateway).await?;
    if let Some(permission) = permission {
        caller.needs(permission)?;
    }
    let mut held = None;
    if let Some(permission) = permission
        && route.asks_events()
    {
        // A client that sends its body slowly must not hold a lock meanwhile.
        request = buffered(request).await?;
        let (tenant, principal) = (caller.record.id, caller.principal());
        if route.authority == Authority::Held {
            held = Some(FreshAuthority::hold(&gateway.executor, tenant, principal, permission).await?);
        } else {
            // The use case asks again, under its lock. This look comes before everything else that could be refused.
            let current = authority::current(&gateway.executor, tenant, principal).await?;
            if !permission.is_held_by(&current) {
                return Err(AuthorityError::Forbidden.into());
            }
        }
    }
    request.extensions_mut().insert(Arc::new(caller));
    Ok((request, held))
}

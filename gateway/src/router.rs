//! The routes of the three listeners with their properties, and the layers around them.

use access::policy::{
    AUDIT_READ, EVENTS_READ, POSITIONS_READ, TENANT_ADMINISTER, TENANTS_WRITE, USERS_READ, USERS_WRITE,
};
use axum::Router;
use axum::http::Method;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;

use store::requests::AnswerRetention;

use crate::http::authorization::authorize;
use crate::http::catch_panic::{catch_panic, request_timeout};
use crate::http::compression;
use crate::http::cors::{self, Cors};
use crate::http::request_log::log_request;
use crate::http::route::{AccessRule, AuditRule, AuthoritySource, Idempotency, Route, RouteTable};
use crate::http::{ErrorCode, Problem};
use crate::operations::Operations;
use crate::routes::Routes;
use crate::state::Gateway;
use crate::{activity, admin, graphql, operations, rest, streams};

const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const PATCH: Method = Method::PATCH;
const DELETE: Method = Method::DELETE;

impl Gateway {
    /// The routes of the public listener.
    pub fn public_router(&self) -> Router {
        let (router, table) = public_routes(self.config.development).build();
        let cors = from_fn_with_state(Cors::new(&self.config), cors::cors_layer);
        let log_request = from_fn_with_state(table, log_request);
        self.with_layers(router)
            .layer(cors)
            .layer(log_request)
            .layer(compression::layer())
            .with_state(self.clone())
    }

    /// The routes of the admin listener.
    pub fn admin_router(&self) -> Router {
        let operator = |path| Route::any(path).access(AccessRule::Handler).with_audit(AuditRule::Operator);
        let routes = Routes::default()
            .add(Route::public(Method::GET, "/"), admin::status_page)
            .add(operator("/admin"), admin::not_found)
            .add(operator("/admin/{*path}"), admin::not_found);
        let (router, table) = routes.build();
        self.with_layers(router.layer(from_fn(admin::require_local_host)))
            .layer(from_fn_with_state(table, log_request))
            .with_state(self.clone())
    }

    /// The inner layers of every router: authorization, the activity log, panics, timeouts, and the fallbacks for
    /// unknown paths and methods.
    fn with_layers(&self, router: Router<Gateway>) -> Router<Gateway> {
        router
            .method_not_allowed_fallback(|| async { Problem::new(ErrorCode::MethodNotAllowed) })
            .fallback(|| async { Problem::new(ErrorCode::NotFound) })
            .layer(from_fn_with_state(self.clone(), authorize))
            .layer(from_fn_with_state(self.clone(), activity::layer))
            .layer(catch_panic())
            .layer(from_fn(request_timeout))
    }
}

impl Operations {
    /// The routes of the operations listener: probes and metrics. All callers may call them, so there is no
    /// authorization and no table of routes.
    pub fn router(&self) -> Router {
        Router::new()
            .route("/livez", get(operations::livez))
            .route("/readyz", get(operations::readyz))
            .route("/metrics", get(operations::metrics))
            .method_not_allowed_fallback(|| async { Problem::new(ErrorCode::MethodNotAllowed) })
            .fallback(|| async { Problem::new(ErrorCode::NotFound) })
            .layer(catch_panic())
            .layer(from_fn(request_timeout))
            .layer(from_fn_with_state(RouteTable::default(), log_request))
            .with_state(self.clone())
    }
}

/// The table of the routes of the public listener.
pub fn public_route_table() -> RouteTable {
    public_routes(true).build().1
}

fn public_routes(dev: bool) -> Routes {
    let routes = identity_routes(Routes::default());
    let routes = event_routes(routes);
    let routes = audit_routes(routes);
    let routes = integration_routes(routes);
    let routes = rest::webhooks::routes(routes);
    let page = Route::public(Method::GET, "/graphql");
    let asset = Route::public(Method::GET, "/graphql/assets/{name}");
    let routes = if dev {
        routes.add(page, graphql::page::show).add(asset, graphql::page::asset)
    } else {
        routes.add(page, graphql::page::hidden)
    };
    let graphql = Route::public(POST, "/graphql").access(AccessRule::Token).graphql();
    routes.add(graphql, graphql::handler::answer)
}

fn identity_routes(routes: Routes) -> Routes {
    let rights = |method, path, permission| {
        Route::write(method, path, permission)
            .authority(AuthoritySource::UseCase)
            .with_audit(AuditRule::RightsChange)
    };
    routes
        .add(rights(POST, "/v1/tenants", &TENANTS_WRITE), rest::tenants::create)
        .add(Route::public(POST, "/v1/auth/register").idempotency(Idempotency::Rebuilt), rest::auth::register)
        .add(Route::public(POST, "/v1/auth/login").with_audit(AuditRule::SignIn), rest::auth::login)
        .add(Route::public(Method::GET, "/v1/auth/me").access(AccessRule::Token), rest::auth::me)
        .add(Route::get("/v1/users", &USERS_READ), rest::users::list)
        .add(rights(POST, "/v1/users", &USERS_WRITE), rest::users::add)
        .add(Route::get("/v1/users/{id}", &USERS_READ), rest::users::show)
        .add(rights(PATCH, "/v1/users/{id}", &USERS_WRITE), rest::users::change)
        .add(rights(PUT, "/v1/users/{id}/roles", &USERS_WRITE), rest::users::put_roles)
        .add(Route::get("/v1/erasures", &TENANT_ADMINISTER), rest::erasures::list)
        .add(
            Route::write(POST, "/v1/erasures", &TENANT_ADMINISTER).authority(AuthoritySource::UseCase),
            rest::erasures::request,
        )
        .add(Route::get("/v1/erasures/{subject}", &TENANT_ADMINISTER), rest::erasures::show)
        .add(Route::public(Method::GET, "/.well-known/jwks.json"), rest::jwks::keys)
}

fn event_routes(routes: Routes) -> Routes {
    let follow = |path| Route::public(Method::GET, path).access(AccessRule::Handler);
    let external = "/v1/streams/{category}/{id}/events";
    routes
        .add(Route::get("/v1/events", &EVENTS_READ), rest::events::page)
        .add(follow("/v1/events/stream"), streams::sse::follow)
        .add(follow("/v1/events/ws"), streams::websocket::follow)
        .add(
            Route::write(POST, "/v1/stream-tickets", &EVENTS_READ)
                .idempotency(Idempotency::Stored(AnswerRetention::TemporarySecret)),
            rest::stream_tickets::issue,
        )
        .add(Route::get("/v1/event-types", &EVENTS_READ), rest::event_types::list)
        .add(Route::get("/v1/event-types/{type}", &EVENTS_READ), rest::event_types::show)
        // Rights depend on the category, so the handler checks who may register a type or append to a stream.
        .add(
            Route::public(PUT, "/v1/event-types/{type}")
                .access(AccessRule::Token)
                .authority(AuthoritySource::UseCase)
                .idempotency(Idempotency::Rebuilt),
            rest::event_types::put,
        )
        .add(Route::public(Method::GET, external).access(AccessRule::Token), rest::external_streams::page)
        .add(
            Route::public(POST, external).access(AccessRule::Token).idempotency(Idempotency::Rebuilt),
            rest::external_streams::append,
        )
        .add(Route::public(Method::GET, "/asyncapi.json"), rest::contracts::asyncapi)
}

fn audit_routes(routes: Routes) -> Routes {
    let audit = |path| Route::get(path, &AUDIT_READ).with_audit(AuditRule::Access);
    let positions = Route::get("/v1/audit/position", &POSITIONS_READ).with_audit(AuditRule::Access);
    routes
        .add(audit("/v1/activities"), rest::activities::page)
        .add(audit("/v1/audit/key"), rest::audit::key)
        .add(audit("/v1/audit/checkpoint"), rest::audit::checkpoint)
        .add(audit("/v1/audit/proofs/{position}"), rest::audit::proof)
        .add(audit("/v1/audit/consistency"), rest::audit::consistency)
        .add(audit("/v1/audit/export"), rest::audit::export)
        .add(positions, rest::read_models::position)
        .add(audit("/v1/audit/read-models/{name}"), rest::read_models::rows)
        .add(audit("/v1/audit/read-models/{name}/changes"), rest::read_models::changes)
}

fn integration_routes(routes: Routes) -> Routes {
    let read = |path| Route::get(path, &TENANT_ADMINISTER);
    let write = |method, path| {
        Route::write(method, path, &TENANT_ADMINISTER)
            .authority(AuthoritySource::LockedEvents)
            .with_audit(AuditRule::CredentialChange)
    };
    let stored = |retention| Idempotency::Stored(retention);
    let kept = |method, path| write(method, path).idempotency(stored(AnswerRetention::Permanent));
    let secret = |method, path| write(method, path).idempotency(stored(AnswerRetention::Secret));
    routes
        .add(read("/v1/service-tokens"), rest::service_tokens::list)
        .add(write(POST, "/v1/service-tokens"), rest::service_tokens::issue)
        .add(write(DELETE, "/v1/service-tokens/{id}"), rest::service_tokens::revoke)
        .add(read("/v1/integrations/credentials"), rest::credentials::list)
        .add(secret(POST, "/v1/integrations/credentials"), rest::credentials::create)
        .add(read("/v1/integrations/credentials/{name}"), rest::credentials::show)
        .add(kept(DELETE, "/v1/integrations/credentials/{name}"), rest::credentials::revoke)
        .add(kept(POST, "/v1/integrations/credentials/{name}/reset"), rest::credentials::reset)
        .add(secret(POST, "/v1/integrations/credentials/{name}/rotate"), rest::credentials::rotate)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_page_of_routes_is_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/routes.md");
        let rendered = public_route_table().render();
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &rendered).expect("the page can be written");
        }
        let page = std::fs::read_to_string(path).expect("the page is there");
        assert_eq!(page, rendered, "run UPDATE_DOCS=1 cargo test -p gateway");
    }

    #[test]
    fn every_write_of_administrators_asks_their_own_events() {
        for route in public_route_table().all() {
            let administers = match route.access {
                AccessRule::Permission(permission) => {
                    [&TENANT_ADMINISTER, &TENANTS_WRITE, &USERS_WRITE].contains(&permission)
                }
                _ => false,
            };
            if administers && !route.is_read_only() {
                assert!(
                    route.requires_fresh_authority() && route.is_idempotent(),
                    "{} {}",
                    route.method_name(),
                    route.path
                );
            }
        }
    }

    #[test]
    fn every_write_takes_an_idempotency_key_or_is_a_sign_in_or_graphql() {
        for route in public_route_table().all() {
            let write = !route.is_read_only();
            let exempt = route.audit == AuditRule::SignIn || route.path == "/graphql";
            assert_eq!(route.is_idempotent(), write && !exempt, "{} {}", route.method_name(), route.path);
        }
    }
}

//! The resources of the three listeners, and the layers around them.

use axum::Router;
use axum::extract::FromRef;
use axum::middleware::{from_fn, from_fn_with_state};

use crate::activity::ActivityLog;
use crate::activity::layer::record_activity;
use crate::http::authorization::{Authorization, authorize};
use crate::http::catch_panic::{catch_panic, request_timeout};
use crate::http::compression;
use crate::http::cors::{self, Cors};
use crate::http::origin::AllowedOrigins;
use crate::http::request_log::log_request;
use crate::http::route::RouteTable;
use crate::http::{ErrorCode, Problem};
use crate::operations::Operations;
use crate::routes::Routes;
use crate::state::Gateway;
use crate::{admin, graphql, operations, rest, streams};

/// The resources of the public listener that every process serves.
const RESOURCES: [fn(Routes) -> Routes; 18] = [
    // Identity and privacy.
    rest::tenants::routes,
    rest::auth::routes,
    rest::users::routes,
    rest::erasures::routes,
    rest::jwks::routes,
    // Events, and the events of external services.
    rest::events::routes,
    streams::sse::routes,
    streams::websocket::routes,
    rest::stream_tickets::routes,
    rest::event_types::routes,
    rest::external_streams::routes,
    rest::contracts::routes,
    // What auditors read.
    rest::activities::routes,
    rest::audit::routes,
    rest::read_models::routes,
    // Credentials of services and integrators, and deliveries to them.
    rest::service_tokens::routes,
    rest::credentials::routes,
    rest::webhooks::routes,
];

impl Gateway {
    /// The routes of the public listener.
    pub fn public_router(&self) -> Router {
        let (router, table) = public_routes(self.is_development()).build();
        let cors = Cors::new(&AllowedOrigins::from_ref(self));
        self.with_layers(router)
            .layer(from_fn_with_state(cors, cors::cors_layer))
            .layer(from_fn_with_state(table, log_request))
            .layer(compression::layer())
            .with_state(self.clone())
    }

    /// The routes of the admin listener.
    pub fn admin_router(&self) -> Router {
        let (router, table) = admin::routes(Routes::default()).build();
        self.with_layers(router.layer(from_fn(admin::require_local_host)))
            .layer(from_fn_with_state(table, log_request))
            .with_state(self.clone())
    }

    /// The inner layers of every router: authorization, the activity log, panics, timeouts, and the fallbacks for
    /// unknown paths and methods.
    fn with_layers(&self, router: Router<Gateway>) -> Router<Gateway> {
        let authorization =
            Authorization::new(FromRef::from_ref(self), FromRef::from_ref(self), FromRef::from_ref(self));
        router
            .method_not_allowed_fallback(|| async { Problem::new(ErrorCode::MethodNotAllowed) })
            .fallback(|| async { Problem::new(ErrorCode::NotFound) })
            .layer(from_fn_with_state(authorization, authorize))
            .layer(from_fn_with_state(ActivityLog::from_ref(self), record_activity))
            .layer(catch_panic())
            .layer(from_fn(request_timeout))
    }
}

impl Operations {
    /// The routes of the operations listener. All callers may call them, so there is no authorization and no table of
    /// routes.
    pub fn router(&self) -> Router {
        operations::routes()
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
    let routes = RESOURCES.into_iter().fold(Routes::default(), |routes, resource| resource(routes));
    graphql::handler::routes(routes, dev)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use access::policy::{TENANT_ADMINISTER, TENANTS_WRITE, USERS_WRITE};

    use super::*;
    use crate::http::route::{AccessRule, AuditRule};

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

//! Routes with their handlers, as the router puts them together.

use axum::Router;
use axum::handler::Handler;
use axum::routing::{MethodFilter, any, on};

use crate::http::route::{Route, RouteTable};
use crate::state::Gateway;

/// Collects routes and their handlers.
#[derive(Default)]
pub struct Routes {
    router: Router<Gateway>,
    routes: Vec<Route>,
}

impl Routes {
    /// Adds a route.
    #[must_use]
    pub fn add<H, T>(mut self, route: Route, handler: H) -> Self
    where
        H: Handler<T, Gateway>,
        T: 'static,
    {
        let method = route.method.clone().map(MethodFilter::try_from);
        let handler = match method {
            Some(Ok(filter)) => on(filter, handler),
            // All methods, and methods without a filter of their own.
            _ => any(handler),
        };
        self.router = self.router.route(route.path, handler);
        self.routes.push(route);
        self
    }

    /// The router, and the table of routes for its layers.
    pub fn build(self) -> (Router<Gateway>, RouteTable) {
        (self.router, RouteTable::new(self.routes))
    }
}

//! The properties of each route beside its handler: who may call it, how the activity log records it, whether it is
//! idempotent. Layers read them here and contain no paths.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use access::Permission;
use axum::http::Method;

use store::requests::AnswerRetention;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRule {
    /// Every caller. The handler decides whether the request must name a tenant.
    Public,
    /// Every caller with an access token. Further checks are made for each field or aggregate.
    Token,
    /// A caller with an access token and this permission.
    Permission(&'static Permission),
    /// The handler checks the credential, because it may be outside the header `Authorization`.
    Handler(Credential),
}

/// The credential that a handler checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Credential {
    /// An access token.
    Token,
    /// An access token, or a ticket in the query.
    TokenOrTicket,
}

/// How the activity log records a request. Refusals are always recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditRule {
    /// Not recorded, unless the caller is an auditor.
    Auditors,
    /// A sign-in, accepted or refused.
    SignIn,
    /// A read that only auditors and administrators may do.
    Access,
    /// A credential was issued, exchanged or revoked.
    CredentialChange,
    /// A user was added or deactivated, roles were changed, or a tenant was registered.
    RightsChange,
    /// A request of an operator of the platform.
    Operator,
}

/// The source of the rights that a route checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthoritySource {
    /// The token.
    Token,
    /// The caller's own events, locked until the write has committed. For effects that outlive the token or cannot be
    /// undone.
    LockedEvents,
    /// The caller's own events, locked by the use case that the handler calls.
    UseCase,
}

/// How a repeated `Idempotency-Key` gets the first answer (`docs/adr/0027`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// The route accepts no key.
    None,
    /// The handler rebuilds the answer from the stream at the version in the receipt.
    Rebuilt,
    /// The answer is stored encrypted with the receipt.
    Stored(AnswerRetention),
}

/// The format of error responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `application/problem+json` with field errors.
    Rest,
    /// `application/problem+json` with `errors` in the shape of GraphQL.
    Graphql,
}

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method; `None` for all methods. `GET` serves `HEAD` too.
    pub method: Option<Method>,
    /// The pattern of the path.
    pub path: &'static str,
    /// Who may call it.
    pub access: AccessRule,
    /// How the activity log records it.
    pub audit: AuditRule,
    /// The format of its errors.
    pub errors: ErrorFormat,
    /// How a repeated request gets the first answer.
    pub idempotency: Idempotency,
    /// The source of the rights that it checks.
    pub authority: AuthoritySource,
}

impl Route {
    /// A route that every caller may call.
    pub fn public(method: Method, path: &'static str) -> Self {
        Self {
            method: Some(method),
            path,
            access: AccessRule::Public,
            audit: AuditRule::Auditors,
            errors: ErrorFormat::Rest,
            idempotency: Idempotency::None,
            authority: AuthoritySource::Token,
        }
    }

    /// A route for all methods of a path.
    pub fn any(path: &'static str) -> Self {
        Self { method: None, ..Self::public(Method::GET, path) }
    }

    /// `GET` for callers with the permission.
    pub fn get(path: &'static str, permission: &'static Permission) -> Self {
        Self::public(Method::GET, path).access(AccessRule::Permission(permission))
    }

    /// A write for callers with the permission. It accepts an idempotency key.
    pub fn write(method: Method, path: &'static str, permission: &'static Permission) -> Self {
        Self {
            idempotency: Idempotency::Rebuilt,
            ..Self::public(method, path).access(AccessRule::Permission(permission))
        }
    }

    /// `GET` for callers with the permission. The activity log records every read.
    pub fn recorded_get(path: &'static str, permission: &'static Permission) -> Self {
        Self::get(path, permission).with_audit(AuditRule::Access)
    }

    /// A write that changes rights. The use case checks the caller's own events.
    pub fn rights_change(method: Method, path: &'static str, permission: &'static Permission) -> Self {
        Self::write(method, path, permission)
            .authority(AuthoritySource::UseCase)
            .with_audit(AuditRule::RightsChange)
    }

    /// A write whose effect outlives the caller's token. The caller's own events are locked until it has committed.
    pub fn locked_write(method: Method, path: &'static str, permission: &'static Permission) -> Self {
        Self::write(method, path, permission).authority(AuthoritySource::LockedEvents)
    }

    /// A [`locked_write`](Self::locked_write) that issues, exchanges or revokes a credential.
    pub fn credential_change(method: Method, path: &'static str, permission: &'static Permission) -> Self {
        Self::locked_write(method, path, permission).with_audit(AuditRule::CredentialChange)
    }

    /// The method's name; `*` for all methods.
    pub fn method_name(&self) -> &str {
        self.method.as_ref().map_or("*", Method::as_str)
    }

    /// Whether its method changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.method == Some(Method::GET)
    }

    /// Returns the route with another access rule.
    #[must_use]
    pub fn access(self, access: AccessRule) -> Self {
        Self { access, ..self }
    }

    /// Returns the route with another audit rule.
    #[must_use]
    pub fn with_audit(self, audit: AuditRule) -> Self {
        Self { audit, ..self }
    }

    /// Returns the route with another rule for idempotency.
    #[must_use]
    pub fn idempotency(self, idempotency: Idempotency) -> Self {
        Self { idempotency, ..self }
    }

    /// Returns the route with stored answers.
    #[must_use]
    pub fn stored(self, retention: AnswerRetention) -> Self {
        self.idempotency(Idempotency::Stored(retention))
    }

    /// Whether it accepts an `Idempotency-Key`.
    pub fn is_idempotent(&self) -> bool {
        self.idempotency != Idempotency::None
    }

    /// Returns the route with another source of rights.
    #[must_use]
    pub fn authority(self, authority: AuthoritySource) -> Self {
        Self { authority, ..self }
    }

    /// Whether the caller's own events are checked in addition to its token.
    pub fn requires_fresh_authority(&self) -> bool {
        self.authority != AuthoritySource::Token
    }

    /// Returns the route with errors in the shape of GraphQL.
    #[must_use]
    pub fn graphql(self) -> Self {
        Self { errors: ErrorFormat::Graphql, ..self }
    }
}

/// Finds routes by method and pattern. Cheap to clone.
#[derive(Clone, Default)]
pub struct RouteTable {
    by_path: Arc<HashMap<&'static str, Vec<Arc<Route>>>>,
}

impl RouteTable {
    /// The table of these routes.
    pub fn new(routes: Vec<Route>) -> Self {
        let mut by_path: HashMap<_, Vec<_>> = HashMap::new();
        for route in routes {
            by_path.entry(route.path).or_default().push(Arc::new(route));
        }
        Self { by_path: Arc::new(by_path) }
    }

    /// The route for `method` and the matched `pattern`; `None` when the path does not support the method.
    pub fn find(&self, method: &Method, pattern: &str) -> Option<Arc<Route>> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.by_path
            .get(pattern)?
            .iter()
            .find(|route| route.method.as_ref().is_none_or(|own| own == method))
            .cloned()
    }

    /// All routes, ordered by path.
    pub fn all(&self) -> Vec<Arc<Route>> {
        let mut all: Vec<_> = self.by_path.values().flatten().cloned().collect();
        all.sort_by(|a, b| (a.path, a.method_name()).cmp(&(b.path, b.method_name())));
        all
    }

    /// The table as `docs/routes.md` shows it.
    pub fn render(&self) -> String {
        let mut page = String::from(
            "# Routes of the public listener\n\n\
             `gateway/src/router.rs` makes this page; `UPDATE_DOCS=1 cargo test -p gateway` writes it anew.\n\
             *Fresh* routes ask the caller's own events, not only its token.\n\n\
             | method | path | needs | activity log | idempotent | fresh |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        let yes = |yes: bool| if yes { "yes" } else { "" };
        for route in self.all() {
            let method = route.method_name();
            let Route { path, access, audit, .. } = &*route;
            let access = match access {
                AccessRule::Public => "nothing".to_owned(),
                AccessRule::Token | AccessRule::Handler(Credential::Token) => "a token".to_owned(),
                AccessRule::Permission(permission) => permission.to_string(),
                AccessRule::Handler(Credential::TokenOrTicket) => "a token or ticket".to_owned(),
            };
            let audit = match audit {
                AuditRule::Auditors => "",
                AuditRule::SignIn => "sign-in",
                AuditRule::Access => "access",
                AuditRule::CredentialChange => "credential change",
                AuditRule::RightsChange => "rights change",
                AuditRule::Operator => "operator",
            };
            let (idempotent, fresh) = (yes(route.is_idempotent()), yes(route.requires_fresh_authority()));
            // Writing to a string cannot fail.
            let _ = writeln!(page, "| {method} | `{path}` | {access} | {audit} | {idempotent} | {fresh} |");
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use access::policy::{TENANT_ADMINISTER, USERS_READ};

    use super::*;

    #[test]
    fn a_route_is_found_by_method_and_pattern() {
        let routes = vec![
            Route::get("/v1/users", &USERS_READ),
            Route::write(Method::POST, "/v1/webhooks", &TENANT_ADMINISTER)
                .authority(AuthoritySource::LockedEvents),
        ];
        let table = RouteTable::new(routes);
        assert!(table.find(&Method::GET, "/v1/users").is_some());
        assert!(table.find(&Method::HEAD, "/v1/users").is_some());
        assert!(table.find(&Method::POST, "/v1/users").is_none());
        assert!(table.find(&Method::GET, "/v1/other").is_none());
        let webhook = table.find(&Method::POST, "/v1/webhooks").expect("added");
        assert!(webhook.is_idempotent() && webhook.requires_fresh_authority());
    }
}

//! What is known of each route beside its handler: who may call it, what the activity log says of it, whether it is
//! idempotent. The layers read it here; none of them knows a path.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use access::Permission;
use axum::http::Method;

use store::requests::AnswerRetention;

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessRule {
    /// Every caller. A tenant is named where the handler asks for one.
    Public,
    /// Every caller with an access token. What it may do is decided for each field or aggregate.
    Token,
    /// A caller with an access token and this permission.
    Permission(&'static Permission),
    /// The handler decides, because the credential comes another way than in the header `Authorization`.
    Handler,
}

/// What the activity log says of a request beside refusals, which it always tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditRule {
    /// Nothing, unless the caller is an auditor.
    Auditors,
    /// A sign-in, accepted or refused.
    SignIn,
    /// An access to what only auditors and administrators read.
    Access,
    /// A credential was issued, exchanged or revoked.
    CredentialChange,
    /// A user was added or deactivated, roles were given or taken, or a tenant was registered.
    RightsChange,
    /// What an operator of the platform asked for.
    Operator,
}

/// What the right to call a route rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthoritySource {
    /// What the token says.
    Token,
    /// The caller's own events, held until the write has committed. For what outlives the token, or cannot be undone.
    LockedEvents,
    /// The same, where the use case behind the handler holds it.
    UseCase,
}

/// How a repeat under an `Idempotency-Key` gets the first answer (`docs/adr/0027`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Idempotency {
    /// The route takes no key.
    None,
    /// The handler rebuilds the answer at the version of the receipt.
    Rebuilt,
    /// The answer is stored, sealed, with the receipt.
    Stored(AnswerRetention),
}

/// How a route says that something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorFormat {
    /// `application/problem+json` with field errors.
    Rest,
    /// The same, with `errors` in the shape of GraphQL.
    Graphql,
}

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The method, `None` for every one. `GET` serves `HEAD` as well.
    pub method: Option<Method>,
    /// The path's pattern.
    pub path: &'static str,
    /// Who may call it.
    pub access: AccessRule,
    /// What the activity log says.
    pub audit: AuditRule,
    /// How it answers errors.
    pub errors: ErrorFormat,
    /// How a repeat gets the first answer.
    pub idempotency: Idempotency,
    /// What the right to call it rests on.
    pub authority: AuthoritySource,
}

impl Route {
    /// A method of a path that every caller may use.
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

    /// Every method of a path.
    pub fn any(path: &'static str) -> Self {
        Self { method: None, ..Self::public(Method::GET, path) }
    }

    /// `GET`, for callers with the permission.
    pub fn get(path: &'static str, permission: &'static Permission) -> Self {
        Self::public(Method::GET, path).access(AccessRule::Permission(permission))
    }

    /// A write for callers with the permission, under an idempotency key where they send one.
    pub fn write(method: Method, path: &'static str, permission: &'static Permission) -> Self {
        Self {
            idempotency: Idempotency::Rebuilt,
            ..Self::public(method, path).access(AccessRule::Permission(permission))
        }
    }

    /// The method's name, `*` for every one.
    pub fn method_name(&self) -> &str {
        self.method.as_ref().map_or("*", Method::as_str)
    }

    /// Whether it changes nothing.
    pub fn is_read_only(&self) -> bool {
        self.method == Some(Method::GET)
    }

    /// The same route for other callers.
    #[must_use]
    pub fn access(self, access: AccessRule) -> Self {
        Self { access, ..self }
    }

    /// The same route with another entry in the activity log.
    #[must_use]
    pub fn with_audit(self, audit: AuditRule) -> Self {
        Self { audit, ..self }
    }

    /// The same route with another way to repeat the first answer.
    #[must_use]
    pub fn idempotency(self, idempotency: Idempotency) -> Self {
        Self { idempotency, ..self }
    }

    /// Whether it takes an `Idempotency-Key`.
    pub fn is_idempotent(&self) -> bool {
        self.idempotency != Idempotency::None
    }

    /// The same route with another foundation of the right to call it.
    #[must_use]
    pub fn authority(self, authority: AuthoritySource) -> Self {
        Self { authority, ..self }
    }

    /// Whether the caller's own events are asked, and not only its token.
    pub fn requires_fresh_authority(&self) -> bool {
        self.authority != AuthoritySource::Token
    }

    /// The same route with errors in the shape of GraphQL.
    #[must_use]
    pub fn graphql(self) -> Self {
        Self { errors: ErrorFormat::Graphql, ..self }
    }
}

/// Looks routes up by method and pattern. Cheap to clone.
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

    /// The route of a request whose path matched `pattern`; `None` where it does not take the method.
    pub fn find(&self, method: &Method, pattern: &str) -> Option<Arc<Route>> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        self.by_path
            .get(pattern)?
            .iter()
            .find(|route| route.method.as_ref().is_none_or(|own| own == method))
            .cloned()
    }

    /// Every route, by path.
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
                AccessRule::Token => "a token".to_owned(),
                AccessRule::Permission(permission) => permission.to_string(),
                AccessRule::Handler => "a token or ticket".to_owned(),
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

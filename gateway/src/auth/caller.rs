//! The authenticated caller of a request: the claims of its token, its tenant and its rights.

use std::sync::Arc;

use access::{ErrorCode, Permission, Principal, policy};
use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use commands::CommandContext;
use schemas::engine::ids::PLATFORM;
use store::{Store, TenantRecord, TenantStore};
use uuid::Uuid;

use super::service_tokens::ServiceTokens;
use super::tokens::{Audience, Claims, Tokens};
use crate::http::problem::Problem;
use crate::http::request_log::RequestContext;
use crate::http::tenancy::Tenancy;

/// Authenticates callers by their access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Authenticator(Arc<AuthenticatorState>);

struct AuthenticatorState {
    store: Store,
    tenancy: Tenancy,
    tokens: Tokens,
    service_tokens: ServiceTokens,
}

impl Authenticator {
    /// Accepts the tokens of `tokens` whose tenant is active and that are not revoked.
    pub fn new(store: Store, tenancy: Tenancy, tokens: Tokens, service_tokens: ServiceTokens) -> Self {
        Self(Arc::new(AuthenticatorState { store, tenancy, tokens, service_tokens }))
    }
}

/// A caller with a token for the public listener. Its tenant is the one in the token.
#[derive(Clone)]
pub struct Caller {
    /// The claims of the token.
    pub claims: Arc<Claims>,
    /// The tenant's entry in the directory.
    pub record: Arc<TenantRecord>,
    /// The handle to the tenant's data.
    pub store: TenantStore,
    principal: Principal,
}

impl Caller {
    /// The caller that these claims describe, in the tenant with this entry.
    pub fn new(claims: Arc<Claims>, record: Arc<TenantRecord>, store: TenantStore) -> Self {
        let principal = claims.principal();
        Self { claims, record, store, principal }
    }

    /// The principal, with the rights in the token.
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// The user's id. For a service it is the id of its token, which no user has.
    pub fn user_id(&self) -> Uuid {
        self.claims.sub
    }

    /// Whether the caller holds the permission.
    pub fn has_permission(&self, permission: &Permission) -> bool {
        self.is_allowed_in_tenant(permission) && permission.is_held_by(&self.principal)
    }

    /// Whether the caller holds the permission for data that belongs to the user `owner`.
    pub fn has_permission_for(&self, permission: &Permission, owner: Uuid) -> bool {
        permission.permits(&self.principal, owner)
    }

    /// Checks the permission.
    ///
    /// # Errors
    /// 403 unless the caller [`has_permission`](Self::has_permission).
    pub fn require_permission(&self, permission: &Permission) -> Result<(), Problem> {
        if self.has_permission(permission) {
            Ok(())
        } else {
            Err(Problem::new(ErrorCode::Forbidden).detail(format!("needs {permission}")))
        }
    }

    /// Tenants are administered only from the tenant `platform`.
    fn is_allowed_in_tenant(&self, permission: &Permission) -> bool {
        *permission != policy::TENANTS_WRITE || self.record.id == PLATFORM
    }

    /// When the token expires. Everything that was opened with it ends then.
    pub fn expires_at(&self) -> DateTime<Utc> {
        self.claims.expires_at()
    }

    /// Authenticates the caller by a token that was passed in, otherwise by the header `Authorization`.
    ///
    /// # Errors
    /// 401 when the token is missing, invalid, expired or revoked.
    pub async fn authenticate(
        headers: &HeaderMap,
        token: Option<&str>,
        request: &RequestContext,
        authenticator: &Authenticator,
    ) -> Result<Self, Problem> {
        let AuthenticatorState { store, tenancy, tokens, service_tokens } = &*authenticator.0;
        let token = token.map_or_else(|| bearer_token(headers), Ok)?;
        let claims = verify_token(token, tokens, Audience::Public)?;
        let principal = claims.principal();
        request.set_principal(&principal);
        let record = store.tenant_by_id(claims.tid).await?.filter(|record| !record.suspended);
        // Set the tenant first, so that a refusal is recorded in the activity log of the token's tenant.
        if let Some(record) = &record {
            request.set_tenant(record);
        }
        tenancy.check(headers, &claims.tenant)?;
        let record = record.ok_or(Problem::new(ErrorCode::TenantUnknown))?;
        service_tokens.check(&claims).await?;
        let store = store.tenant(record.id);
        Ok(Self { claims, record, store, principal })
    }

    /// The context of a command of this caller.
    pub fn command_context(&self, request: &RequestContext, command_id: Option<Uuid>) -> CommandContext {
        CommandContext {
            tenant: self.record.id,
            caller: self.principal.clone(),
            command_id,
            request_digest: request.digest(),
            expected_version: None,
            request_id: Some(request.id().clone()),
            traceparent: request.traceparent().map(str::to_owned),
            correlation_id: None,
            causation_id: None,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Caller
where
    Authenticator: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        // The layer `authorize` has authenticated the caller already.
        if let Some(caller) = parts.extensions.get::<Arc<Self>>() {
            return Ok(Self::clone(caller));
        }
        let context = RequestContext::from_request_parts(parts, state).await?;
        Self::authenticate(&parts.headers, None, &context, &Authenticator::from_ref(state)).await
    }
}

/// A caller with a token for the admin listener.
pub struct Operator(pub Arc<Claims>);

impl<S: Sync> FromRequestParts<S> for Operator
where
    Tokens: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let token = bearer_token(&parts.headers)?;
        let claims = verify_token(token, &Tokens::from_ref(state), Audience::Operations)?;
        let context = RequestContext::from_request_parts(parts, state).await?;
        context.set_principal(&Principal::Operator { id: claims.sub });
        Ok(Self(claims))
    }
}

fn verify_token(token: &str, tokens: &Tokens, audience: Audience) -> Result<Arc<Claims>, Problem> {
    tokens.verify(token, audience).map_err(|error| {
        Problem::new(ErrorCode::Unauthenticated)
            .detail("the access token is not accepted")
            .cause(error)
            .with_rejected_token()
    })
}

/// The token in `Authorization: Bearer <token>` (RFC 6750).
fn bearer_token(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut given = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return Err(
            Problem::new(ErrorCode::Unauthenticated).detail("send one access token as Authorization: Bearer")
        );
    };
    let parts = value.to_str().ok().and_then(|text| text.split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(token.trim()),
        _ => Err(Problem::new(ErrorCode::Unauthenticated)
            .detail("send the access token as Authorization: Bearer")
            .with_rejected_token()),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn a_token_comes_as_one_bearer_header() {
        let read = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("valid"));
            }
            bearer_token(&headers).map(str::to_owned).map_err(|problem| problem.code())
        };
        assert_eq!(read(&["Bearer abc"]), Ok("abc".to_owned()));
        assert_eq!(read(&["bearer  abc"]), Ok("abc".to_owned()));
        for refused in [&[][..], &["Basic abc"], &["abc"], &["Bearer a", "Bearer b"]] {
            assert_eq!(read(refused), Err(ErrorCode::Unauthenticated), "{refused:?}");
        }
    }
}

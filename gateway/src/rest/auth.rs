//! Registration, login and the signed-in user.

use access::Principal;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use commands::identity::user::{EMAIL, PASSWORD};
use commands::{CommandContext, CommandResult, Decider, Executor, User, new_aggregate_id, register_user};
use schemas::engine::ids::PLATFORM;
use schemas::engine::{Email, Name, StreamName, TenantId};
use schemas::identity::role::Role;
use schemas::identity::tenant::Registration;
use schemas::identity::user::{UserCommand, UserDetails, UserStatus};
use serde_json::{Value, json};
use store::TenantRecord;
use uuid::Uuid;

use super::users::{SignedInBody, UserBody};
use crate::auth::{Audience, Caller, Grant, Password, Passwords, Tokens};
use crate::http::route::{AccessRule, AuditRule, Idempotency, Route};
use crate::http::{ErrorCode, IdempotencyKey, JsonBody, Problem, RequestContext, RequestTenant};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes
        .add(Route::public(Method::POST, "/v1/auth/register").idempotency(Idempotency::Rebuilt), register)
        .add(Route::public(Method::POST, "/v1/auth/login").with_audit(AuditRule::SignIn), login)
        .add(Route::public(Method::GET, "/v1/auth/me").access(AccessRule::Token), me)
}

/// `POST /v1/auth/register`: creates a user of a tenant with open registration.
async fn register(
    State(executor): State<Executor>,
    State(passwords): State<Passwords>,
    request: RequestContext,
    tenant: RequestTenant,
    key: IdempotencyKey,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let email = body.required("email", Email::parse);
    let password = body.required("password", Password::parse);
    let name = body.required("name", Name::parse);
    let (email, password, name) = body.finish(|| Some((email?, password?, name?)))?;

    let context = CommandContext {
        command_id: key.0,
        request_digest: request.digest(),
        request_id: Some(request.id().clone()),
        traceparent: request.traceparent().map(str::to_owned),
        ..CommandContext::new(tenant.record.id, Principal::Anonymous)
    };
    let roles = vec![Role::Member];
    // A repeated request returns the first answer, even if the rules have changed since. It costs no hash.
    let details = UserDetails { email: email.clone(), name: name.clone() };
    let command = UserCommand::RegisterUser { details, roles: roles.clone() };
    let id = new_aggregate_id(&context, User::CATEGORY);
    if let Some(earlier) = executor.previous_result::<User>(&context, id, command).await? {
        return Ok(registered(&earlier, &tenant.record));
    }
    if tenant.record.registration != Registration::Open {
        return Err(Problem::new(ErrorCode::Forbidden).detail("this tenant takes no registrations"));
    }
    // The append decides who gets the address. This check only saves a hash. If the holder is this user, a repeat of
    // this request registered it just now, and the append finds that answer.
    let holder = tenant.store.reserved_by(EMAIL.name, &email.normalised()).await?;
    if holder.is_some_and(|holder| holder.uuid() != Some(id)) {
        return Err(Problem::new(ErrorCode::EmailTaken));
    }
    let hash = passwords.hash(tenant.record.id, password).await?;
    let executed = register_user(&executor, &context, email, name, roles, hash).await?;
    Ok(registered(&executed, &tenant.record))
}

fn registered(executed: &CommandResult<User>, tenant: &TenantRecord) -> (StatusCode, Json<Value>) {
    let user = UserBody::new(executed.id, &tenant.slug, &executed.state);
    (StatusCode::CREATED, Json(json!({ "user": user, "consistency_token": executed.consistency_token })))
}

/// `POST /v1/auth/login`: an access token for e-mail and password. An unknown address, a wrong password and a
/// deactivated user get the same answer after the same work.
async fn login(
    State(executor): State<Executor>,
    State(passwords): State<Passwords>,
    State(tokens): State<Tokens>,
    request: RequestContext,
    tenant: RequestTenant,
    JsonBody(mut body): JsonBody,
) -> Result<Json<Value>, Problem> {
    let email = body.required("email", |text| Ok(text.to_owned()));
    let password = body.required("password", |text| Ok(Password::for_sign_in(text)));
    let (email, password) = body.finish(|| Some((email?, password?)))?;

    // For an unknown address, the secret of the nil id is looked up. So the response time does not reveal which
    // addresses exist.
    let holder = match Email::parse(&email) {
        Ok(email) => tenant.store.reserved_by(EMAIL.name, &email.normalised()).await?,
        Err(_) => None,
    };
    let stream = holder.unwrap_or_else(|| StreamName::new(User::CATEGORY, Uuid::nil()));
    let hash = tenant.store.secret(&stream, PASSWORD).await?;
    let fits = passwords.verify(tenant.record.id, password, hash.as_deref()).await?;
    let id = stream.uuid().filter(|_| fits);
    let user = match id {
        Some(id) => active_user(&executor, tenant.record.id, id).await?.map(|user| (id, user)),
        None => None,
    };
    let Some((id, user)) = user else {
        metrics::counter!("annals_logins_total", "outcome" => "refused").increment(1);
        return Err(Problem::new(ErrorCode::InvalidCredentials));
    };
    request.set_principal(&Principal::user(id, user.roles.clone()));
    metrics::counter!("annals_logins_total", "outcome" => "accepted").increment(1);

    let grant = grant(id, user, &tenant.record);
    let issued = tokens.issue(&grant).map_err(Problem::internal)?;
    let user = SignedInBody {
        id,
        tenant_id: grant.tenant_slug.clone(),
        scopes: grant.scopes(),
        email: grant.email,
        name: grant.name,
        roles: grant.roles,
        subscription_tier: grant.tier,
    };
    Ok(Json(json!({
        "access_token": issued.access_token,
        "token_type": "Bearer",
        "expires_in": issued.expires_in.as_secs(),
        "user": user,
    })))
}

async fn active_user(executor: &Executor, tenant: TenantId, id: Uuid) -> Result<Option<User>, Problem> {
    let loaded = executor.load::<User>(tenant, id).await?;
    Ok(loaded.map(|(user, _)| user).filter(|user| user.status != UserStatus::Deactivated))
}

fn grant(user_id: Uuid, user: User, tenant: &TenantRecord) -> Grant {
    // Only platform administrators get a token that is also valid for the admin listener.
    let operates = tenant.id == PLATFORM && user.roles.contains(&Role::PlatformAdmin);
    let audiences =
        if operates { vec![Audience::Public, Audience::Operations] } else { vec![Audience::Public] };
    Grant {
        user_id,
        tenant: tenant.id,
        tenant_slug: tenant.slug.clone(),
        tier: tenant.tier,
        email: user.email,
        name: user.name,
        roles: user.roles,
        audiences,
    }
}

/// `GET /v1/auth/me`: the present data of the user, and the rights of the token.
async fn me(State(executor): State<Executor>, caller: Caller) -> Result<Json<Value>, Problem> {
    let id = caller.user_id();
    let Some(user) = active_user(&executor, caller.record.id, id).await? else {
        return Err(Problem::new(ErrorCode::Unauthenticated)
            .detail("this user may not sign in")
            .with_rejected_token());
    };
    let user = SignedInBody {
        id,
        tenant_id: caller.record.slug.clone(),
        email: user.email,
        name: user.name,
        roles: caller.claims.roles.clone(),
        scopes: caller.claims.scopes.clone(),
        subscription_tier: caller.record.tier,
    };
    Ok(Json(json!({ "user": user })))
}

#[cfg(test)]
mod tests {
    use schemas::engine::{TenantSlug, clock, ids};
    use schemas::identity::tenant::Tier;

    use super::*;

    #[test]
    fn only_platform_admins_of_the_platform_get_through_the_admin_door() {
        let audiences = |tenant: TenantId, roles: Vec<Role>| {
            let record = TenantRecord {
                id: tenant,
                slug: TenantSlug::parse("acme").expect("valid"),
                name: "Acme".to_owned(),
                tier: Tier::Free,
                registration: Registration::Open,
                suspended: false,
                opened_at: clock::now(),
            };
            grant(ids::new_id(), User { roles, ..User::default() }, &record).audiences
        };
        assert!(audiences(PLATFORM, vec![Role::PlatformAdmin]).contains(&Audience::Operations));
        assert!(!audiences(PLATFORM, vec![Role::Member]).contains(&Audience::Operations));
        let elsewhere = TenantId(ids::new_id());
        assert!(!audiences(elsewhere, vec![Role::PlatformAdmin]).contains(&Audience::Operations));
    }
}

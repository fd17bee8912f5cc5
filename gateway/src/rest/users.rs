//! `/v1/users`: user administration of a tenant, and the JSON form of a user.

use access::policy::{USERS_READ, USERS_WRITE};
use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use commands::identity::administration::{add_user, change_roles, deactivate};
use commands::identity::user::EMAIL;
use commands::{
    CommandResult, CommandSideEffects, Decider, ExecuteError, Executor, User, UserRejection, new_aggregate_id,
};
use queries::{Select, StoredRow, USERS, UserRow};
use schemas::engine::Row;
use schemas::engine::{Email, InvalidValue, Name, Reason, TenantSlug};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::Tier;
use schemas::identity::user::{UserCommand, UserDetails, UserStatus};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::pages::PageQuery;
use crate::auth::{Caller, Password, Passwords};
use crate::http::consistency;
use crate::http::failures::rejected_field;
use crate::http::path::parse_id;
use crate::http::route::Route;
use crate::http::{ErrorCode, IdempotencyKey, JsonBody, Path, Problem, RequestContext};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    let change_of = |method, path| Route::rights_change(method, path, &USERS_WRITE);
    routes
        .add(Route::get("/v1/users", &USERS_READ), list)
        .add(change_of(Method::POST, "/v1/users"), add)
        .add(Route::get("/v1/users/{id}", &USERS_READ), show)
        .add(change_of(Method::PATCH, "/v1/users/{id}"), change)
        .add(change_of(Method::PUT, "/v1/users/{id}/roles"), put_roles)
}

/// A user in the response to a registration.
#[derive(Debug, Serialize)]
pub struct UserBody {
    id: Uuid,
    tenant_id: TenantSlug,
    email: String,
    name: String,
    roles: Vec<Role>,
}

impl UserBody {
    /// The user `id` of the tenant, with the state of its stream.
    pub fn new(id: Uuid, tenant: &TenantSlug, user: &User) -> Self {
        Self {
            id,
            tenant_id: tenant.clone(),
            email: user.email.clone(),
            name: user.name.clone(),
            roles: user.roles.clone(),
        }
    }
}

/// A signed-in user in the responses of login and `me`.
#[derive(Debug, Serialize)]
pub struct SignedInBody {
    /// The user's id.
    pub id: Uuid,
    /// The slug of the tenant.
    pub tenant_id: TenantSlug,
    /// The e-mail address.
    pub email: String,
    /// The name.
    pub name: String,
    /// The roles.
    pub roles: Vec<Role>,
    /// The scopes of the roles.
    pub scopes: Vec<Scope>,
    /// The tier that the tenant pays for.
    pub subscription_tier: Tier,
}

/// A user with its status, for administrators and auditors.
#[derive(Debug, Serialize)]
struct UserStatusBody {
    #[serde(flatten)]
    user: UserBody,
    status: UserStatus,
    version: u64,
}

impl UserStatusBody {
    fn new(id: Uuid, tenant: &TenantSlug, user: &User, version: u64) -> Self {
        Self { user: UserBody::new(id, tenant, user), status: user.status, version }
    }

    fn from_row(tenant: &TenantSlug, entry: StoredRow<UserRow>) -> Result<Self, InvalidValue> {
        let StoredRow { id, row, version, .. } = entry;
        let UserRow { email, name, roles, status, .. } = row;
        let roles = roles.iter().map(|role| Role::parse(role)).collect::<Result<_, _>>()?;
        Ok(Self { user: UserBody { id, tenant_id: tenant.clone(), email, name, roles }, status, version })
    }
}

/// `GET /v1/users`: pages in order of id. The rows are those of GraphQL's `users`, which also filters and sorts. The
/// list contains at least what was recorded before the request, or before the consistency token in it.
///
/// # Errors
/// `consistency_timeout` when the read model lags for longer than the wait.
async fn list(caller: Caller, headers: HeaderMap, uri: Uri) -> Result<Json<Value>, Problem> {
    let page = PageQuery::read(&uri)?;
    consistency::wait_for_read_models(&caller.store, &headers, &[USERS]).await?;
    let select = Select::of(UserRow::MODEL);
    let (rows, next_after) = select.page_by_id(&caller.store, page.after(), page.limit()).await?;
    let entries = rows.into_iter().map(queries::entry).collect::<Result<Vec<_>, _>>()?;
    let slug = &caller.record.slug;
    let users = entries.into_iter().map(|entry| UserStatusBody::from_row(slug, entry));
    // Roles that do not parse are of a newer version of the program.
    let users = users.collect::<Result<Vec<_>, _>>().map_err(Problem::internal)?;
    Ok(Json(json!({ "users": users, "next_after": next_after })))
}

/// `GET /v1/users/{id}`.
async fn show(
    State(executor): State<Executor>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let id = parse_id(&id)?;
    let found = executor.load::<User>(caller.record.id, id).await?;
    let (user, version) = found.ok_or(Problem::new(ErrorCode::NotFound))?;
    Ok(Json(json!({ "user": UserStatusBody::new(id, &caller.record.slug, &user, version) })))
}

/// `POST /v1/users`: adds a user. A user without a password cannot sign in.
async fn add(
    State(executor): State<Executor>,
    State(passwords): State<Passwords>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(mut body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let email = body.required("email", Email::parse);
    let name = body.required("name", Name::parse);
    let roles = body.texts("roles", Role::parse);
    let password = body.optional("password", Password::parse);
    let (email, name, roles) = body.finish(|| Some((email?, name?, roles?)))?;

    let context = caller.command_context(&request, key.0);
    let id = new_aggregate_id(&context, User::CATEGORY);
    // As for registration: a repeated request gets the first answer, and no hash is computed for a request that will be
    // refused.
    let details = UserDetails { email: email.clone(), name: name.clone() };
    let command = UserCommand::RegisterUser { details, roles: roles.clone() };
    let repeated = executor.previous_result::<User>(&context, id, command).await.map_err(to_problem)?;
    let executed = if let Some(earlier) = repeated {
        earlier
    } else {
        let holder = caller.store.reserved_by(EMAIL.name, &email.normalised()).await?;
        if holder.is_some_and(|holder| holder.uuid() != Some(id)) {
            return Err(Problem::new(ErrorCode::EmailTaken));
        }
        let hash = match password {
            Some(password) => Some(passwords.hash(caller.record.id, password).await?),
            None => None,
        };
        add_user(&executor, &context, email, name, roles, hash).await.map_err(to_problem)?
    };
    Ok((StatusCode::CREATED, user_response(&executed, &caller)))
}

/// `PUT /v1/users/{id}/roles`: replaces all roles. Access tokens keep the old roles until they expire.
async fn put_roles(
    State(executor): State<Executor>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
    JsonBody(mut body): JsonBody,
) -> Result<Json<Value>, Problem> {
    let roles = body.texts("roles", Role::parse);
    let roles = body.finish(|| roles)?;
    let context = caller.command_context(&request, key.0);
    let executed = change_roles(&executor, &context, parse_id(&id)?, roles).await.map_err(to_problem)?;
    Ok(user_response(&executed, &caller))
}

/// The change that a `PATCH` requests.
enum UserChange {
    Name(Name),
    Deactivation(Option<Reason>),
}

/// `PATCH /v1/users/{id}`: a new `name`, or `"status": "deactivated"` with a `reason`.
async fn change(
    State(executor): State<Executor>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    Path(id): Path<String>,
    JsonBody(mut body): JsonBody,
) -> Result<Json<Value>, Problem> {
    let names = body.values().get("name").is_some_and(|name| !name.is_null());
    let name = body.optional("name", Name::parse);
    let status = if names { None } else { body.required("status", parse_deactivated) };
    let reason = if names { None } else { body.optional("reason", Reason::parse) };
    let change = body.finish(|| match (name, status) {
        (Some(name), _) => Some(UserChange::Name(name)),
        (None, status) => status.map(|()| UserChange::Deactivation(reason)),
    })?;
    let (context, id) = (caller.command_context(&request, key.0), parse_id(&id)?);
    let executed = match change {
        UserChange::Name(name) => {
            let command = UserCommand::ChangeUserName { name };
            executor.execute::<User>(&context, id, command, CommandSideEffects::default()).await
        }
        UserChange::Deactivation(reason) => deactivate(&executor, &context, id, reason).await,
    };
    Ok(user_response(&executed.map_err(to_problem)?, &caller))
}

fn parse_deactivated(text: &str) -> Result<(), InvalidValue> {
    if text == UserStatus::Deactivated.as_str() {
        return Ok(());
    }
    Err(InvalidValue::new("status_invalid", "can be changed to deactivated only"))
}

fn user_response(executed: &CommandResult<User>, caller: &Caller) -> Json<Value> {
    let (slug, version) = (&caller.record.slug, executed.version);
    let user = UserStatusBody::new(executed.id, slug, &executed.state, version);
    Json(json!({ "user": user, "consistency_token": executed.consistency_token }))
}

fn to_problem(error: ExecuteError<UserRejection>) -> Problem {
    let ExecuteError::Rejected(rejection) = error else { return error.into() };
    match rejection {
        UserRejection::RolesEmpty => rejected_field("roles", "roles_empty", &rejection),
        UserRejection::RoleNotAllowed(_) => rejected_field("roles", "role_not_allowed", &rejection),
        UserRejection::Erased => rejected_field("id", "user_erased", &rejection),
        UserRejection::SelfAdminChange => rejected_field("id", "self_admin_change", &rejection),
        UserRejection::Deactivated => ExecuteError::Rejected(rejection).into(),
    }
}

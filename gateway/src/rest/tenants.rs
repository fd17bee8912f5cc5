//! `POST /v1/tenants`: a platform administrator creates a tenant.

use access::policy::TENANTS_WRITE;
use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use commands::identity::registration::{
    RegisterTenantError, TenantAdmin, TenantRegistration, register_tenant,
};
use commands::{ExecuteError, Executor, TenantRejection};
use schemas::engine::ids::PLATFORM;
use schemas::engine::{Email, InvalidValue, Name, TenantSlug};
use schemas::identity::role::Role;
use schemas::identity::tenant::{Registration, TenantOrganisation, Tier};
use serde_json::{Value, json};

use super::users::UserBody;
use crate::auth::{Caller, Password, Passwords};
use crate::http::failures::rejected_field;
use crate::http::route::Route;
use crate::http::{ErrorCode, IdempotencyKey, JsonBody, JsonFields, Problem, RequestContext};
use crate::routes::Routes;

/// The routes.
pub fn routes(routes: Routes) -> Routes {
    routes.add(Route::rights_change(Method::POST, "/v1/tenants", &TENANTS_WRITE), create)
}

struct NewAdmin {
    email: Email,
    name: Name,
    password: Password,
}

/// Creates the tenant and, if the request has one, its first administrator.
async fn create(
    State(executor): State<Executor>,
    State(passwords): State<Passwords>,
    request: RequestContext,
    caller: Caller,
    key: IdempotencyKey,
    JsonBody(body): JsonBody,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if caller.record.id != PLATFORM || !caller.claims.roles.contains(&Role::PlatformAdmin) {
        return Err(Problem::new(ErrorCode::Forbidden).detail("needs platform_admin"));
    }
    let (command, admin) = read(body)?;
    let admin = match admin {
        Some(NewAdmin { email, name, password }) => {
            let password_hash = passwords.hash(caller.record.id, password).await?;
            Some(TenantAdmin { email, name, password_hash })
        }
        None => None,
    };
    let slug = command.slug.clone();
    let context = caller.command_context(&request, key.0);
    let registered = register_tenant(&executor, &context, command, admin).await.map_err(to_problem)?;

    let tenant = registered.tenant.state;
    let mut answer = json!({
        "tenant": {
            "slug": tenant.slug,
            "name": tenant.name,
            "tier": tenant.tier,
            "registration": tenant.registration,
            "organisation": tenant.organisation,
            "business_unit": tenant.business_unit,
            "country": tenant.country,
        },
    });
    if let Some(admin) = registered.admin {
        answer["admin"] = json!({ "user": UserBody::new(admin.id, &slug, &admin.state) });
    }
    Ok((StatusCode::CREATED, Json(answer)))
}

fn read(mut body: JsonFields) -> Result<(TenantRegistration, Option<NewAdmin>), Problem> {
    let slug = body.required("slug", TenantSlug::parse);
    let name = body.required("name", Name::parse);
    let tier = body.optional("tier", tier).unwrap_or_default();
    let registration = body.optional("registration", registration).unwrap_or_default();
    let organisation = body.optional("organisation", Name::parse);
    let business_unit = body.optional("business_unit", Name::parse);
    let country = body.optional("country", country);
    let mut asked_for_admin = false;
    let admin = body.object("admin").and_then(|mut admin| {
        asked_for_admin = true;
        let email = admin.required("email", Email::parse);
        let password = admin.required("password", Password::parse);
        let name = admin.required("name", Name::parse);
        body.merge(admin);
        Some(NewAdmin { email: email?, name: name?, password: password? })
    });
    body.finish(|| {
        let organisation = TenantOrganisation { organisation, business_unit, country };
        let new = TenantRegistration { slug: slug?, name: name?, tier, registration, organisation };
        Some((new, if asked_for_admin { Some(admin?) } else { None }))
    })
}

fn to_problem(error: RegisterTenantError) -> Problem {
    match error {
        RegisterTenantError::Tenant(ExecuteError::Rejected(rejection @ TenantRejection::SlugReserved)) => {
            rejected_field("slug", "slug_reserved", &rejection)
        }
        RegisterTenantError::Tenant(ExecuteError::Rejected(rejection @ TenantRejection::CountryInvalid)) => {
            rejected_field("country", "country_invalid", &rejection)
        }
        RegisterTenantError::Tenant(error) => error.into(),
        RegisterTenantError::Admin(error) => error.into(),
    }
}

fn tier(text: &str) -> Result<Tier, InvalidValue> {
    [Tier::Free, Tier::Pro, Tier::Enterprise]
        .into_iter()
        .find(|tier| tier.as_str() == text)
        .ok_or_else(|| InvalidValue::new("tier_invalid", "must be free, pro or enterprise"))
}

fn registration(text: &str) -> Result<Registration, InvalidValue> {
    [Registration::Open, Registration::Invitation, Registration::Closed]
        .into_iter()
        .find(|registration| registration.as_str() == text)
        .ok_or_else(|| InvalidValue::new("registration_invalid", "must be open, invitation or closed"))
}

fn country(text: &str) -> Result<String, InvalidValue> {
    if text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase()) {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::new("country_invalid", "must be two upper-case letters (ISO 3166-1 alpha-2)"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(body: Value) -> Result<(TenantRegistration, Option<NewAdmin>), Vec<String>> {
        let Value::Object(values) = body else { panic!("an object") };
        read(JsonFields::new(values))
            .map_err(|problem| problem.field_errors().iter().map(|error| error.field.clone()).collect())
    }

    #[test]
    fn a_tenant_needs_a_slug_and_a_name() {
        let (command, admin) = parsed(json!({"slug": "acme", "name": "Acme"})).expect("complete");
        assert_eq!((command.tier, command.registration), (Tier::Free, Registration::Invitation));
        assert!(admin.is_none());
        assert_eq!(parsed(json!({})).err(), Some(vec!["slug".to_owned(), "name".to_owned()]));
    }

    #[test]
    fn all_that_is_wrong_is_listed_the_admin_included() {
        let wrong = parsed(json!({
            "slug": "Acme!", "name": "Acme", "tier": "gold", "registration": "maybe", "country": "gb",
            "admin": {"email": "x", "password": "short", "name": "", "role": "boss"},
        }));
        let mut wrong = wrong.err().expect("much is wrong");
        wrong.sort();
        let fields = [
            "admin.email",
            "admin.name",
            "admin.password",
            "admin.role",
            "country",
            "registration",
            "slug",
            "tier",
        ];
        assert_eq!(wrong, fields);
    }
}

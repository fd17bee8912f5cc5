//! Registering users and tenants: reservations, secrets, the opening of a log.

use access::Principal;
use bytes::Bytes;
use commands::identity::registration::TenantRegistration;
use commands::{
    CommandContext, ExecuteError, ExecutionOutcome, Executor, RegisterTenantError, TenantAdmin,
    TenantRejection, UserRejection, register_tenant, register_user,
};
use futures::future::join_all;
use schemas::engine::{StreamName, TenantId, TenantSlug, ids};
use schemas::identity::role::Role;
use schemas::identity::tenant::{Registration, TenantOrganisation, Tier};
use uuid::Uuid;

use crate::support::commands::{email, name};
use crate::support::postgres::{Database, open_tenant};

fn tenant_command(slug: &str, registration: Registration) -> TenantRegistration {
    TenantRegistration {
        slug: TenantSlug::parse(slug).expect("a slug"),
        name: name("Acme"),
        tier: Tier::Pro,
        registration,
        organisation: TenantOrganisation::default(),
    }
}

fn by_cli() -> CommandContext {
    CommandContext::new(ids::PLATFORM, Principal::system("cli"))
}

fn hash() -> Bytes {
    Bytes::from_static(b"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA")
}

#[tokio::test]
async fn a_user_is_registered_with_address_and_password_hash() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = CommandContext::new(tenant.id(), Principal::Anonymous);

    let member = vec![Role::Member];
    let user = register_user(&executor, &context, email("Ada@Example.com"), name("Ada"), member, hash())
        .await
        .expect("registration is open");
    let stream = StreamName::new("identity.user", user.id);
    assert_eq!(tenant.reserved_by("email", "ada@example.com").await.expect("reads"), Some(stream.clone()));
    assert_eq!(tenant.secret(&stream, "password").await.expect("reads"), Some(hash()));
    let page = tenant.read_log_page(0, None, 10, &store::LogFilter::default()).await.expect("reads");
    let payload = String::from_utf8(page.events[0].payload.to_vec()).expect("JSON");
    assert!(!payload.contains("argon2"), "no secret stands in an event");
}

#[tokio::test]
async fn one_address_is_taken_once_however_many_ask_at_once() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = CommandContext::new(tenant.id(), Principal::Anonymous);

    let asked = (0..50).map(|n| {
        let address = if n % 2 == 0 { "ada@example.com" } else { "ADA@example.com" };
        register_user(&executor, &context, email(address), name("Ada"), vec![Role::Member], hash())
    });
    let answers = join_all(asked).await;
    let winner: Vec<Uuid> = answers.iter().flatten().map(|executed| executed.id).collect();
    assert_eq!(winner.len(), 1);
    for refused in answers.iter().filter_map(|answer| answer.as_ref().err()) {
        let ExecuteError::Reserved { kind, holder } = refused else { panic!("{refused}") };
        assert_eq!((kind.name, holder.uuid()), ("email", Some(winner[0])));
    }
    assert_eq!(tenant.head().await.expect("reads").position, 1);
}

#[tokio::test]
async fn a_repeated_registration_is_a_duplicate_and_not_a_taken_address() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store, 1024 * 1024);
    let context = CommandContext::new(tenant.id(), Principal::Anonymous).with_command_id(ids::new_id());

    let again = || {
        register_user(&executor, &context, email("ada@example.com"), name("Ada"), vec![Role::Member], hash())
    };
    let first = again().await.expect("registered");
    let second = again().await.expect("a repeat");
    assert_eq!((second.outcome, second.id, second.version), (ExecutionOutcome::Duplicate, first.id, 1));
}

#[tokio::test]
async fn who_may_register_whom_depends_on_tenant_and_roles() {
    let database = Database::create().await;
    let executor = Executor::new(database.store().await, 1024 * 1024);
    let closed =
        register_tenant(&executor, &by_cli(), tenant_command("closed", Registration::Invitation), None)
            .await
            .expect("the tenant is registered");
    let tenant = TenantId(closed.tenant.id);

    let attempt = |caller: Principal, roles: Vec<Role>| {
        let executor = &executor;
        async move {
            let context = CommandContext::new(tenant, caller);
            let address = email(&format!("{}@example.com", ids::new_id().simple()));
            register_user(executor, &context, address, name("Ada"), roles, hash()).await
        }
    };
    let admin = || Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]);
    assert!(matches!(attempt(Principal::Anonymous, vec![Role::Member]).await, Err(ExecuteError::Forbidden)));
    assert!(matches!(attempt(admin(), vec![Role::PlatformAdmin]).await, Err(ExecuteError::Forbidden)));
    assert!(attempt(admin(), vec![Role::Member, Role::TenantAdmin]).await.is_ok());
    assert!(matches!(
        attempt(Principal::system("cli"), vec![Role::PlatformAdmin]).await,
        Err(ExecuteError::Rejected(UserRejection::RoleNotAllowed(Role::PlatformAdmin)))
    ));
    assert!(matches!(
        attempt(Principal::system("cli"), vec![]).await,
        Err(ExecuteError::Rejected(UserRejection::RolesEmpty))
    ));
}

#[tokio::test]
async fn a_tenant_is_registered_with_its_log_and_its_administrator_once() {
    let database = Database::create().await;
    let store = database.store().await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let context = by_cli().with_command_id(ids::new_id());
    let admin = || TenantAdmin { email: email("ada@acme.example"), name: name("Ada"), password_hash: hash() };

    let register =
        || register_tenant(&executor, &context, tenant_command("acme", Registration::Open), Some(admin()));
    let first = register().await.expect("the tenant is registered");
    let again = register().await.expect("a repeat");
    assert_eq!((again.tenant.outcome, again.tenant.id), (ExecutionOutcome::Duplicate, first.tenant.id));
    let (first_admin, again_admin) = (first.admin.expect("an admin"), again.admin.expect("an admin"));
    assert_eq!((again_admin.outcome, again_admin.id), (ExecutionOutcome::Duplicate, first_admin.id));
    assert_eq!(first_admin.state.roles, [Role::TenantAdmin]);

    let slug = TenantSlug::parse("acme").expect("a slug");
    let record = store.tenant_by_slug(&slug).await.expect("reads").expect("is there");
    assert_eq!(
        (record.id, record.tier, record.registration),
        (TenantId(first.tenant.id), Tier::Pro, Registration::Open)
    );
    assert_eq!(store.tenant(record.id).head().await.expect("reads").position, 1);
}

#[tokio::test]
async fn a_slug_is_given_once_and_never_a_reserved_one() {
    let database = Database::create().await;
    let executor = Executor::new(database.store().await, 1024 * 1024);
    let context = by_cli();
    let asked = (0..10)
        .map(|_| register_tenant(&executor, &context, tenant_command("acme", Registration::Open), None));
    let answers = join_all(asked).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    for refused in answers.into_iter().filter_map(Result::err) {
        assert!(
            matches!(refused, RegisterTenantError::Tenant(ExecuteError::Reserved { kind, .. }) if kind.name == "slug")
        );
    }
    let reserved =
        register_tenant(&executor, &context, tenant_command("admin", Registration::Open), None).await;
    assert!(matches!(
        reserved,
        Err(RegisterTenantError::Tenant(ExecuteError::Rejected(TenantRejection::SlugReserved)))
    ));
    let member =
        CommandContext::new(ids::PLATFORM, Principal::user(Uuid::from_u128(1), vec![Role::TenantAdmin]));
    let forbidden =
        register_tenant(&executor, &member, tenant_command("other", Registration::Open), None).await;
    assert!(matches!(forbidden, Err(RegisterTenantError::Tenant(ExecuteError::Forbidden))));
}

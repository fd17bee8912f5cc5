//! What the runtime roles may not do, and that what PostgreSQL says of it stays in the logs.

use schemas::engine::{StreamName, TenantId, ids};
use schemas::identity::tenant::{Registration, Tier};
use store::{AppendError, ExpectedVersion, NewTenant, OwnerConfig, StreamAppend, TlsConfig};

use crate::support::connections::login;
use crate::support::postgres::{Database, PASSWORD, event, metadata, password_of};
use crate::support::postgres_server::PostgresServer;

const ROLES: [&str; 8] = [
    "annals_appender",
    "annals_lookup",
    "annals_tenant",
    "annals_projector",
    "annals_scratch",
    "annals_worker",
    "annals_relay",
    "annals_sealer",
];

/// A clone of a database does not take the rights on the database itself along; migrating it again sets them.
async fn migrated() -> Database {
    let database = Database::create().await;
    let owner = OwnerConfig {
        host: "127.0.0.1".to_owned(),
        port: database.port,
        database: database.name.clone(),
        user: "postgres".to_owned(),
        password: PASSWORD.to_owned(),
        tls: TlsConfig::default(),
    };
    store::migrate::run(&owner, PASSWORD, &projections::tables()).await.expect("migrates");
    database
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_role_for_past_states_makes_temporary_tables() {
    let database = migrated().await;
    for role in ROLES {
        let client = database.connect(role).await;
        client.batch_execute("set default_transaction_read_only = off").await.expect("sets");
        let made = client.batch_execute("create temporary table heads (x int)").await;
        let refused = made.err().map(|error| error.code().expect("a code").code().to_owned());
        let expected = (role != "annals_scratch").then(|| "42501".to_owned());
        assert_eq!(refused, expected, "{role}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_for_past_states_reads_one_tenant_and_writes_nothing() {
    let database = migrated().await;
    let client = database.connect("annals_scratch").await;
    for statement in [
        "delete from customers_v2",
        "update checkpoints set position = 0",
        "select from events",
        "select from secrets",
    ] {
        let refused = client.batch_execute(statement).await.expect_err("it may not");
        assert_eq!(refused.code().expect("a code").code(), "42501", "{statement}");
    }
    let rows = client.query("select from customers_v2", &[]).await.expect("reads").len();
    assert_eq!(rows, 0, "without a tenant");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_password_of_one_role_signs_in_as_no_other() {
    let server = PostgresServer::start(&[]).await;
    let signs_in = async |role: &str, password: String| {
        let config = login("127.0.0.1", server.port(), role, TlsConfig::default());
        database::connect(&database::DatabaseConfig { password: password.into(), ..config }).await.is_ok()
    };
    for (index, role) in ROLES.iter().enumerate() {
        let next = ROLES[(index + 1) % ROLES.len()];
        assert!(signs_in(role, password_of(role)).await, "{role}");
        assert!(!signs_in(role, password_of(next)).await, "{role} with the password of {next}");
        assert!(!signs_in(role, PASSWORD.to_owned()).await, "{role} with the secret itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_postgresql_refuses_does_not_tell_what_postgresql_said() {
    let store = Database::create().await.store().await;
    let id = TenantId(ids::new_id());
    let mut append = StreamAppend::new(
        StreamName::new("identity.tenant", id.0),
        ExpectedVersion::NoStream,
        vec![event("identity.tenant.registered.v1", "{}")],
        metadata(),
    );
    append.new_tenant = Some(NewTenant {
        id,
        slug: schemas::engine::TenantSlug::parse("acme").expect("a slug"),
        // PostgreSQL takes no such text: `invalid byte sequence for encoding "UTF8": 0x00`.
        name: "Ac\0me".to_owned(),
        tier: Tier::Free,
        registration: Registration::Open,
    });
    let refused = store.tenant(ids::PLATFORM).append(append).await.expect_err("it cannot be stored");
    assert!(matches!(refused, AppendError::Invalid(_)), "{refused:?}");
    assert_eq!(refused.to_string(), "the append is invalid: the database cannot store a value of it");
    assert!(store.tenant(id).head().await.is_err(), "no tenant was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_statements_keep_what_postgresql_said_for_the_logs_alone() {
    let store = Database::create().await.store().await;
    let transaction = store.tenant(ids::PLATFORM).begin().await.expect("begins");
    let refused = transaction.query("select secret_column from heads", &[]).await.expect_err("no column");
    drop(transaction);
    let transaction = store.tenant(ids::PLATFORM).begin().await.expect("begins");
    let interrupt = "select pg_terminate_backend(pg_backend_pid())";
    let interrupted = transaction.query(interrupt, &[]).await.expect_err("the session ends");
    assert!(interrupted.is_unavailable() && !refused.is_unavailable());
    for (error, said) in [(refused, "secret_column"), (interrupted, "terminat")] {
        let shown = error.to_string();
        assert!(
            shown == "the database refused a statement" || shown == "the database is unavailable",
            "{shown}"
        );
        assert!(store::Causes(&error).to_string().contains(said), "{}", store::Causes(&error));
    }
    let transaction = store.tenant(ids::PLATFORM).begin().await.expect("begins");
    let raise = "do $$ begin raise 'it is taken' using detail = 'Key (email)=(ada@example.com)'; end $$";
    let detailed = transaction.query(raise, &[]).await.expect_err("it raises");
    assert_eq!(
        store::Causes(&detailed).to_string(),
        "the database refused a statement: it is taken (P0001)",
        "details may hold values of rows, so not even logs show them"
    );
}

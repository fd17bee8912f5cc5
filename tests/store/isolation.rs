//! Tenants do not see each other: attacks in SQL as the real runtime roles, and a pool under fire.

use database::{Connector, DatabaseConfig, ReadPool, ReadPoolConfig};
use futures::future::join_all;
use schemas::engine::{StreamName, TenantId, ids};
use store::sql::{Read, Value};
use store::{
    ExpectedVersion, IdempotencyClaim, Reservation, Secret, Store, StoreConfig, StreamAppend, TenantStore,
    TlsConfig,
};
use uuid::Uuid;

use crate::support::connections::login;
use crate::support::postgres::{Database, event, metadata, open_tenant};

/// Every table that holds a tenant's rows.
pub const TENANT_TABLES: [&str; 29] = [
    "heads",
    "events",
    "receipts",
    "request_answers",
    "reservations",
    "secrets",
    "checkpoints",
    "dead_letters",
    "saga_steps",
    "relay_progress",
    "replaced_logs",
    "tenants",
    "read_models",
    "snapshots",
    "activities",
    "subtrees",
    "sealed_logs",
    "signed_checkpoints",
    "integrator_credentials",
    "integrator_keys",
    "integrator_commands",
    "stream_tickets",
    "webhooks",
    "webhook_failures",
    "webhook_deliveries",
    "customers_v2",
    "customers_v2_b",
    "users_v2",
    "users_v2_b",
];

/// Two tenants with a row of each sort.
async fn two_tenants(database: &Database) -> (TenantId, TenantId) {
    let store = database.store().await;
    let mut tenants = Vec::new();
    for slug in ["alpha", "beta"] {
        let tenant = open_tenant(&store, slug).await;
        let mut append = StreamAppend::new(
            StreamName::new("identity.user", ids::new_id()),
            ExpectedVersion::NoStream,
            vec![event("identity.user.registered.v1", &format!("{{\"canary\":\"{slug}\"}}"))],
            metadata(),
        );
        append.claim = Some(IdempotencyClaim::new(ids::new_id(), [1; 32]));
        append.reservations = vec![Reservation { kind: "email", value: "ada@example.com".to_owned() }];
        append.secrets = vec![Secret { kind: "password", value: slug.into() }];
        let receipt = tenant.append(append).await.expect("appends");
        let transaction = tenant.begin_worker_transaction().await.expect("begins");
        assert!(transaction.move_checkpoint("test", receipt.log_id, 0, 1).await.expect("moves"));
        transaction.commit().await.expect("commits");
        tenants.push(tenant.id());
    }
    (tenants[0], tenants[1])
}

async fn count(client: &tokio_postgres::Client, sql: &str) -> Result<i64, String> {
    client.query_one(sql, &[]).await.map(|row| row.get(0)).map_err(|error| {
        error.as_db_error().map_or_else(|| error.to_string(), |db| db.code().code().to_owned())
    })
}

const DENIED: &str = "42501";

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_bound_role_without_a_tenant_sees_nothing() {
    let database = Database::create().await;
    two_tenants(&database).await;
    for role in ["annals_tenant", "annals_projector"] {
        let client = database.connect(role).await;
        for table in TENANT_TABLES {
            match count(&client, &format!("select count(*) from {table}")).await {
                Ok(rows) => assert_eq!(rows, 0, "{role} {table}"),
                Err(code) => assert_eq!(code, DENIED, "{role} {table}"),
            }
        }
        // An emptied setting, as a committed transaction leaves it, is no tenant either.
        client.batch_execute("select set_config('annals.tenant', '', false)").await.expect("sets");
        assert_eq!(count(&client, "select count(*) from events").await, Ok(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_bound_role_sees_its_tenant_alone_whatever_it_asks() {
    let database = Database::create().await;
    let (alpha, beta) = two_tenants(&database).await;
    let client = database.connect("annals_tenant").await;
    client
        .batch_execute(&format!("begin; select set_config('annals.tenant', '{alpha}', true)"))
        .await
        .expect("sets");
    for (sql, rows) in [
        ("select count(*) from events".to_owned(), 1),
        (format!("select count(*) from events where tenant_id = '{beta}'"), 0),
        ("select count(distinct tenant_id) from secrets".to_owned(), 1),
        (format!("select count(*) from heads where exists (select from events where tenant_id = '{beta}')"), 0),
        ("with all_events as (select * from events) select count(*) from all_events".to_owned(), 1),
        ("select count(*) from receipts r left join events e on e.tenant_id <> r.tenant_id where e.tenant_id is not null".to_owned(), 0),
        ("select count(*) from events where convert_from(payload, 'UTF8') like '%beta%'".to_owned(), 0),
    ] {
        assert_eq!(count(&client, &sql).await, Ok(rows), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_runtime_role_changes_or_removes_an_event() {
    let database = Database::create().await;
    let (alpha, beta) = two_tenants(&database).await;
    for role in [
        "annals_appender",
        "annals_lookup",
        "annals_tenant",
        "annals_projector",
        "annals_worker",
        "annals_relay",
        "annals_sealer",
    ] {
        let client = database.connect(role).await;
        client
            .batch_execute(&format!(
                "select set_config('annals.tenant', '{alpha}', false), set_config('annals.tenants', '{alpha},{beta}', false);
                 set default_transaction_read_only = off"
            ))
            .await
            .expect("sets");
        for sql in [
            "update events set payload = 'x'",
            "delete from events",
            "truncate events",
            "alter table events disable row level security",
            "set role annals_owner",
            "set role postgres",
            "drop table events",
            "create table mine (x int)",
        ] {
            let error = client.batch_execute(sql).await.expect_err(sql);
            assert_eq!(
                error.code().map(tokio_postgres::error::SqlState::code),
                Some(DENIED),
                "{role}: {sql}"
            );
        }
        let error = client.batch_execute("set row_security = off; select count(*) from events").await;
        let refused = error.is_err();
        // Their own policies pass every row, so for these two there is nothing to bypass.
        assert!(
            refused || ["annals_relay", "annals_sealer"].contains(&role),
            "{role} bypassed row-level security"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_appender_writes_only_the_tenants_of_its_flush_and_reads_no_event() {
    let database = Database::create().await;
    let (alpha, beta) = two_tenants(&database).await;
    let client = database.connect("annals_appender").await;
    client
        .batch_execute(&format!("select set_config('annals.tenants', '{alpha}', false)"))
        .await
        .expect("sets");
    assert_eq!(count(&client, "select count(*) from events").await, Err(DENIED.to_owned()));
    assert_eq!(
        count(&client, "select count(*) from secrets where value is not null").await,
        Err(DENIED.to_owned())
    );
    assert_eq!(count(&client, "select count(*) from heads").await, Ok(1));
    let insert = |tenant: TenantId| {
        format!(
            "insert into events values ('{tenant}', 99, 1, now(), gen_random_uuid(), 1, 1, 'a.b/c', 'a.b.c.v1',
                                        '', '', '', '', '')"
        )
    };
    let error = client.batch_execute(&insert(beta)).await.expect_err("another tenant's log");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some(DENIED));
    client.batch_execute(&insert(alpha)).await.expect("its own tenant's log");
    let moved = client
        .execute(&format!("update heads set position = 1000 where tenant_id = '{beta}'"), &[])
        .await
        .expect("finds nothing");
    assert_eq!(moved, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lookup_role_reads_no_payload() {
    let database = Database::create().await;
    two_tenants(&database).await;
    let client = database.connect("annals_lookup").await;
    assert_eq!(
        count(&client, "select count(*) from events where version = 1").await.map(|rows| rows > 1),
        Ok(true)
    );
    for column in ["payload", "metadata", "salts", "type"] {
        let sql = format!("select count({column}) from events");
        assert_eq!(count(&client, &sql).await, Err(DENIED.to_owned()), "{column}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_cannot_write_another_tenants_rows() {
    let database = Database::create().await;
    let (alpha, beta) = two_tenants(&database).await;
    let client = database.connect("annals_projector").await;
    client
        .batch_execute(&format!("select set_config('annals.tenant', '{alpha}', false)"))
        .await
        .expect("sets");
    let foreign = format!("insert into checkpoints values ('{beta}', 'mine', gen_random_uuid(), 1, now())");
    let error = client.batch_execute(&foreign).await.expect_err("refused");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some(DENIED));
    let error = client.batch_execute(&format!("update checkpoints set tenant_id = '{beta}'")).await;
    assert!(error.is_err(), "a row moved to another tenant");
    let touched =
        client.execute(&format!("update checkpoints set position = 9 where tenant_id = '{beta}'"), &[]).await;
    assert_eq!(touched.expect("finds nothing"), 0);
}

/// Two connections shared by two tenants in thousands of transactions, many of them dropped half-way: no transaction ever
/// sees the other tenant, and no connection keeps a tenant.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_pool_never_leaks_a_tenant() {
    let database = Database::create().await;
    let (alpha, beta) = two_tenants(&database).await;
    let mut config = database.store_config();
    config.pool_size = 2;
    let store = store::Store::connect(config).await.expect("connects");
    let work = (0..8).map(|worker: usize| {
        let tenant = store.tenant(if worker.is_multiple_of(2) { alpha } else { beta });
        async move {
            for round in 0..150 {
                let transaction = tenant.begin().await.expect("begins");
                if round % 3 == 0 {
                    // Dropped in the middle of a statement.
                    let query =
                        transaction.query("select count(*) from events, generate_series(1, 5000)", &[]);
                    drop(tokio::time::timeout(std::time::Duration::from_micros(300), query).await);
                    continue;
                }
                let rows = transaction.query("select tenant_id from events", &[]).await.expect("reads");
                assert_eq!(rows.len(), 1);
                assert_eq!(rows[0].get::<_, uuid::Uuid>(0), tenant.id().0);
                if round % 3 == 1 {
                    transaction.commit().await.expect("commits");
                }
            }
        }
    });
    join_all(work).await;
}

/// Many tenants, few connections; some reads fail, some are dropped.
#[tokio::test(flavor = "multi_thread")]
async fn reads_in_one_round_trip_see_their_tenant_alone() {
    let database = Database::create().await;
    let config = StoreConfig { pool_size: 6, ..database.store_config() };
    let store = Store::connect(config).await.expect("connects");
    let tenants = join_all((0..24).map(async |number| {
        let tenant = open_tenant(&store, &format!("tenant-{number}")).await;
        let append = StreamAppend::new(
            StreamName::new("identity.user", ids::new_id()),
            ExpectedVersion::NoStream,
            vec![event("identity.user.registered.v1", "{}")],
            metadata(),
        );
        tenant.append(append).await.expect("appends");
        tenant
    }))
    .await;
    let rows = Read { sql: "select tenant_id, current_setting('annals.tenant') from events", values: &[] };
    let failing = Read { sql: "select 1 / (position - position) from events", values: &[] };
    let read = async |tenant: &TenantStore, round: usize| match round % 4 {
        0 => assert!(tenant.read(&[rows, failing]).await.is_err()),
        1 => {
            let group = [rows, rows];
            let mut dropped = Box::pin(tenant.read(&group));
            for _ in 0..round {
                if futures::poll!(&mut dropped).is_ready() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
        _ => {
            let beta = tenants[(round + 5) % tenants.len()].id().0;
            let values = [Value::Uuid(beta)];
            let foreign = Read { sql: "select count(*) from events where tenant_id = $1", values: &values };
            let answers = tenant.read(&[rows, foreign]).await.expect("reads");
            let seen: Vec<(Uuid, String)> = answers[0]
                .iter()
                .map(|row| (row.get(0).expect("a uuid"), row.get(1).expect("text")))
                .collect();
            let own = (tenant.id().0, tenant.id().to_string());
            assert_eq!(seen, [own]);
            let expected = i64::from(beta == tenant.id().0);
            assert_eq!(answers[1].row(0).get::<i64>(0).expect("a number"), expected);
        }
    };
    for round in 0..12 {
        join_all(tenants.iter().map(|tenant| read(tenant, round))).await;
    }

    // A group without a tenant, on connections that had one: nothing is left of it.
    let login = login("127.0.0.1", database.port, "annals_tenant", TlsConfig::default());
    let login = DatabaseConfig { name: database.name.clone(), ..login };
    let config = ReadPoolConfig {
        connections: 1,
        connections_per_key: 1,
        idle_timeout: std::time::Duration::from_mins(1),
    };
    let pool = ReadPool::new(&Connector::new(&login).expect("no files"), config);
    let text = tenants[0].id().to_string();
    let setting = [Value::Text(&text)];
    let set = Read { sql: "select set_config('annals.tenant', $1, true)", values: &setting };
    let count = Read { sql: "select count(*) from events", values: &[] };
    let left = Read { sql: "select coalesce(current_setting('annals.tenant', true), '')", values: &[] };
    let key = tenants[0].id().0;
    for ends_badly in [false, true] {
        let group = if ends_badly { vec![set, count, failing] } else { vec![set, count] };
        assert_eq!(pool.read(key, &group).await.is_err(), ends_badly);
        let rows = pool.read(key, &[count, left]).await.expect("reads");
        assert_eq!(rows[0].row(0).get::<i64>(0).expect("a number"), 0);
        assert_eq!(rows[1].row(0).get::<&str>(0).expect("text"), "");
    }
}

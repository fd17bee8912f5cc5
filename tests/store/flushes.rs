//! Flushes that meet another process, or each other, at the worst moment, one case at a time. The other process is a
//! superuser who holds heads.

use futures::poll;
use schemas::engine::{StreamName, TenantId, ids};
use schemas::identity::tenant::{Registration, Tier};
use store::append::NewTenant;
use store::{AppendError, ExpectedVersion, Reservation, Secret, Store, StoreConfig, StreamAppend};
use uuid::Uuid;

use super::append::{append, assert_dense, stream};
use crate::support::eventually;
use crate::support::postgres::{Database, open_tenant};
use crate::support::wire::{Moment, Wire};

/// A store with one lane, so that what is asked for at once shares a flush.
async fn one_lane(database: &Database) -> Store {
    let config = StoreConfig { append_workers: 1, ..database.store_config() };
    Store::connect(config).await.expect("the store connects")
}

/// Waits until so many of the appenders' statements wait for a lock.
pub async fn waits_for_a_lock(observer: &tokio_postgres::Client) {
    let waiting = "select count(*) from pg_stat_activity where datname = current_database()
                   and usename = 'annals_appender' and wait_event_type = 'Lock'";
    eventually("a flush waits for the head", || async {
        (observer.query_one(waiting, &[]).await.expect("counts").get::<_, i64>(0) > 0).then_some(())
    })
    .await;
}

/// A flush is under way, the next is sent on top of it, and another process moves the head exactly as far as the first
/// would have.
#[tokio::test]
async fn a_head_moved_equally_far_by_another_process_is_not_taken_for_ones_own() {
    let database = Database::create().await;
    let store = one_lane(&database).await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = stream();
    tenant.append(append(&stream, ExpectedVersion::NoStream, "{}")).await.expect("appends");
    let (other, observer) = (database.connect("postgres").await, database.connect("postgres").await);
    let hold = format!("begin; select from heads where tenant_id = '{}' for update", tenant.id());
    other.batch_execute(&hold).await.expect("holds the head");

    let mut first = Box::pin(tenant.append(append(&stream, ExpectedVersion::Any, "{}")));
    assert!(poll!(&mut first).is_pending());
    waits_for_a_lock(&observer).await;
    // Enough of them for a second flush to go at once. It is not seen until the first has been answered.
    let mut second = Box::pin(tenant.append_all(vec![append(&stream, ExpectedVersion::Any, "{}"); 60]));
    assert!(poll!(&mut second).is_pending());
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let elsewhere = StreamName::new("crm.customer", ids::new_id());
    other
        .batch_execute(&format!(
            "insert into events select tenant_id, position + 1, 1, recorded_at, gen_random_uuid(), schema_version,
                 payload_encoding, '{elsewhere}', type, payload, metadata, salts, subject_keys, leaf_hash
             from events where tenant_id = '{0}';
             update heads set position = position + 1, fence = gen_random_uuid() where tenant_id = '{0}';
             commit",
            tenant.id()
        ))
        .await
        .expect("appends elsewhere");
    first.await.expect("appends");
    assert!(second.await.iter().all(Result::is_ok));
    assert_eq!(assert_dense(&tenant).await, 63);
}

/// The flush opens a tenant for a log that another process holds, and writes to a log that nobody holds.
#[tokio::test]
async fn a_tenant_is_not_opened_before_its_registration_stands() {
    let database = Database::create().await;
    let store = one_lane(&database).await;
    let acme = open_tenant(&store, "acme").await;
    let (other, observer) = (database.connect("postgres").await, database.connect("postgres").await);
    let hold = format!("begin; select from heads where tenant_id = '{}' for update", ids::PLATFORM);
    other.batch_execute(&hold).await.expect("holds the head");
    let id = TenantId(ids::new_id());
    let mut opening = append(&StreamName::new("identity.tenant", id.0), ExpectedVersion::NoStream, "{}");
    opening.new_tenant = Some(NewTenant {
        id,
        slug: "bolt".parse().expect("a slug"),
        name: "Bolt".to_owned(),
        tier: Tier::default(),
        registration: Registration::default(),
    });
    let platform = store.tenant(ids::PLATFORM);
    let mut opened = Box::pin(platform.append(opening));
    assert!(poll!(&mut opened).is_pending());
    acme.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
    let directory = "select count(*) from tenants where slug = 'bolt'";
    assert_eq!(observer.query_one(directory, &[]).await.expect("counts").get::<_, i64>(0), 0);
    other.batch_execute("rollback").await.expect("lets the head go");
    opened.await.expect("opens");
    store.tenant(id).append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
}

#[tokio::test]
async fn of_two_secrets_in_one_flush_the_later_remains() {
    let database = Database::create().await;
    let store = one_lane(&database).await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = stream();
    for round in 0..3 {
        let with = |value: String| {
            let mut append = append(&stream, ExpectedVersion::Any, "{}");
            append.secrets = vec![Secret { kind: "password", value: value.into() }];
            append
        };
        let all = (0..20).map(|n| with(format!("{round}-{n}"))).collect();
        let answers = tenant.append_all(all).await;
        let last =
            answers.iter().enumerate().max_by_key(|(_, answer)| answer.as_ref().expect("appends").position);
        let (last, _) = last.expect("some");
        let secret = tenant.secret(&stream, "password").await.expect("reads").expect("there");
        assert_eq!(secret, format!("{round}-{last}"));
    }
}

#[tokio::test]
async fn a_value_taken_and_given_back_in_one_append_stays_taken() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = stream();
    for _ in 0..2 {
        let mut both = append(&stream, ExpectedVersion::Any, "{}");
        both.reservations = vec![Reservation { kind: "email", value: "ada@example.com".to_owned() }];
        both.releases = both.reservations.clone();
        tenant.append(both).await.expect("appends");
        let holder = tenant.reserved_by("email", "ada@example.com").await.expect("reads");
        assert_eq!(holder.as_ref(), Some(&stream));
    }
}

/// Another process moves a stream on: a conflict that is answered from memory would name a version that is no more.
#[tokio::test]
async fn a_conflict_names_the_version_that_the_stream_has() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let tenant = open_tenant(&here, "acme").await;
    let elsewhere = there.tenant(tenant.id());
    let stream = stream();
    tenant.append(append(&stream, ExpectedVersion::NoStream, "{}")).await.expect("appends");
    for version in 1..5 {
        elsewhere.append(append(&stream, ExpectedVersion::Exact(version), "{}")).await.expect("appends");
        match tenant.append(append(&stream, ExpectedVersion::NoStream, "{}")).await {
            Err(AppendError::VersionConflict { actual }) => assert_eq!(actual, version + 1),
            other => panic!("{other:?}"),
        }
    }
}

/// A flush is given up while its statement is still on its way. One of its appends is told that it conflicts, because the
/// caller of the one before it has gone; then the statement arrives.
#[tokio::test]
async fn a_flush_that_was_given_up_and_arrives_late_writes_nothing() {
    let database = Database::create().await;
    let wire = Wire::start(database.port).await;
    let mut config = StoreConfig { append_workers: 1, ..database.store_config() };
    config.port = wire.port();
    let store = Store::connect(config).await.expect("the store connects");
    let tenant = open_tenant(&store, "acme").await;
    tenant.append(append(&stream(), ExpectedVersion::NoStream, "{}")).await.expect("appends");
    let observer = database.connect("postgres").await;
    let stream = StreamName::new("crm.customer", Uuid::nil());

    wire.arm("annals_appender", 1, Moment::Late);
    let of = |expected| -> StreamAppend { append(&stream, expected, "{}") };
    let mut first = Box::pin(tenant.append(of(ExpectedVersion::NoStream)));
    let mut second = Box::pin(tenant.append(of(ExpectedVersion::Exact(1))));
    assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending());
    wire.held().await;
    drop(first);
    let refused = second.await;
    assert!(matches!(refused, Err(AppendError::VersionConflict { actual: 0 })), "{refused:?}");
    wire.release();
    eventually("the late statement is over", || async {
        let left = "select count(*) from pg_stat_activity where datname = current_database()
                    and usename = 'annals_appender'";
        (observer.query_one(left, &[]).await.expect("counts").get::<_, i64>(0) == 1).then_some(())
    })
    .await;
    assert_eq!(assert_dense(&tenant).await, 1);
}

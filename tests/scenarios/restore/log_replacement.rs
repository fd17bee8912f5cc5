//! Replacing a log in the store: what moves along, what is refused, and that every leaf still verifies.

use commands::{CommandSideEffects, Customer, Executor};
use futures::TryStreamExt;
use proofs::{CommitmentKind, Frame, commitment, leaf_hash};
use schemas::crm::customer::{CustomerCommand, CustomerStatus};
use schemas::engine::{Actor, LogId, RecordedEvent, StreamName, TenantId, ids};
use store::{AppendError, ExpectedVersion, LogFilter, Replacement, Store, StoreError, StreamAppend};
use uuid::Uuid;

use crate::support::commands::{by_admin, registered, rename};
use crate::support::postgres::{Database, event, metadata, open_tenant};

fn append(stream: &StreamName, log: Option<LogId>) -> StreamAppend {
    let events = vec![event("test.thing.happened.v1", "{\"a\":1}")];
    StreamAppend { log, ..StreamAppend::new(stream.clone(), ExpectedVersion::Any, events, metadata()) }
}

async fn replace(store: &Store, tenant: TenantId, log_id: LogId) -> Option<LogId> {
    let wanted = [Replacement { published_to: Some(9), ..Replacement::of(tenant, log_id) }];
    let replaced = store.replace_logs(&wanted, "a test", &Actor::system("test")).await.expect("replaces");
    replaced.first().map(|log| log.next_log_id)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_remembers_a_position_moves_along_and_a_second_replacement_does_nothing() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = StreamName::new("test.thing", ids::new_id());
    let first = tenant.append(append(&stream, None)).await.expect("appends");
    let move_to = async |consumer: &str, log: LogId, from: u64, to: u64| {
        let transaction = tenant.begin_worker_transaction().await.expect("begins");
        let moved = transaction.move_checkpoint(consumer, log, from, to).await.expect("asks");
        transaction.commit().await.expect("commits");
        moved
    };
    assert!(move_to("kept", first.log_id, 0, 1).await);
    assert!(!move_to("beyond", first.log_id, 0, 2).await, "the log ends before");
    let admin = database.connect("postgres").await;
    let beyond =
        "insert into checkpoints (tenant_id, consumer, log_id, position) values ($1, 'beyond', $2, 7)";
    admin.execute(beyond, &[&tenant.id().0, &first.log_id.0]).await.expect("inserts");

    let second = replace(&store, tenant.id(), first.log_id).await.expect("replaced");
    assert_eq!(replace(&store, tenant.id(), first.log_id).await, None, "somebody else did it");
    let head = tenant.head().await.expect("reads");
    assert_eq!((head.log_id, head.position), (second, 2));
    let transaction = tenant.begin_worker_transaction().await.expect("begins");
    assert!(!transaction.is_of_another_log("kept").await.expect("asks"));
    assert!(transaction.is_of_another_log("beyond").await.expect("asks"), "its facts are gone");
    transaction.commit().await.expect("commits");
    assert!(!move_to("kept", first.log_id, 1, 2).await, "a batch of the old log");
    assert!(move_to("kept", second, 1, 2).await);

    // The lane remembers the old log; an append that rests on it is refused, others go on.
    let refused = tenant.append(append(&stream, Some(first.log_id))).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable(StoreError::LogReplaced { current })) if current == second),
        "{refused:?}"
    );
    let third = tenant.append(append(&stream, Some(second))).await.expect("appends");
    assert_eq!((third.log_id, third.position, third.version), (second, 3, 2));
    let known = tenant.replaced_log(first.log_id).await.expect("reads").expect("known");
    assert_eq!((known.last_position, known.next_log_id, known.published_to), (1, second, Some(9)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_in_memory_of_a_log_that_is_no_more_is_not_believed() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (executor, elsewhere) =
        (Executor::new(store.clone(), 1024 * 1024), Executor::new(database.store().await, 100));
    let context = by_admin(tenant.id());
    let first = registered(&executor, tenant.id(), "Ada").await;
    let id = first.id;
    let suspend = CustomerCommand::SuspendCustomer { reason: None };
    let lost = executor.execute::<Customer>(&context, id, suspend, CommandSideEffects::default()).await;
    assert_eq!(lost.expect("suspended").version, 2);
    // The database goes back by one event, and another process writes something else in its place.
    let admin = database.connect("postgres").await;
    let back = format!(
        "delete from events where tenant_id = '{0}' and position = 2;
         update heads set position = 1 where tenant_id = '{0}'",
        tenant.id()
    );
    admin.batch_execute(&back).await.expect("goes back");
    replace(&store, tenant.id(), first.log_id).await.expect("replaced");
    let other =
        elsewhere.execute::<Customer>(&context, id, rename("Other"), CommandSideEffects::default()).await;
    assert_eq!(other.expect("renamed").version, 2, "as many versions as the first process remembers");

    let third =
        executor.execute::<Customer>(&context, id, rename("Third"), CommandSideEffects::default()).await;
    let third = third.expect("renamed");
    assert_eq!((third.version, third.position), (3, 4));
    assert_eq!(third.state.status, CustomerStatus::Active, "the suspension is gone");
    for executor in [&executor, &elsewhere] {
        let loaded = executor.load::<Customer>(tenant.id(), id).await.expect("loads").expect("is there");
        assert_eq!((loaded.0.name.as_str(), loaded.0.status, loaded.1), ("Third", CustomerStatus::Active, 3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_leaf_verifies_under_the_log_id_that_its_position_was_written_under() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = StreamName::new("test.thing", ids::new_id());
    let mut written_under = Vec::new();
    for _ in 0..3 {
        for _ in 0..2 {
            written_under.push(tenant.append(append(&stream, None)).await.expect("appends").log_id);
        }
        let log_id = tenant.head().await.expect("reads").log_id;
        written_under.push(replace(&store, tenant.id(), log_id).await.expect("replaced"));
    }
    let log_ids = tenant.log_ids().await.expect("reads");
    let recorded: Vec<RecordedEvent> =
        tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    assert_eq!(recorded.len(), 9);
    let citing: Vec<u64> = recorded
        .iter()
        .filter(|event| event.event_type.as_str() == "platform.log.replaced.v1")
        .map(|event| event.version)
        .collect();
    assert_eq!(citing, [1, 2, 3]);
    let admin = database.connect("postgres").await;
    let rows = admin
        .query(
            "select position, event_id, stream, version, type, schema_version, recorded_at, payload, metadata, salts,
                    leaf_hash
             from events where tenant_id = $1 order by position",
            &[&tenant.id().0],
        )
        .await
        .expect("reads");
    for (row, wrote) in rows.iter().zip(written_under) {
        let position = row.get::<_, i64>(0) as u64;
        let under = log_ids.at(position);
        assert_eq!(under, wrote);
        let salts: &[u8] = row.get(9);
        let salt = |part: &[u8]| part.try_into().expect("16 bytes");
        let recorded_at: chrono::DateTime<chrono::Utc> = row.get(6);
        let frame = Frame {
            log_id: under.0,
            event_id: row.get::<_, Uuid>(1),
            stream: row.get(2),
            version: row.get::<_, i64>(3) as u64,
            event_type: row.get(4),
            schema_version: row.get::<_, i32>(5) as u32,
            recorded_at: recorded_at.timestamp_micros(),
            payload_encoding: 1,
            payload_commitment: commitment(CommitmentKind::Payload, &salt(&salts[..16]), row.get(7)),
            metadata_commitment: commitment(CommitmentKind::Metadata, &salt(&salts[16..]), row.get(8)),
            subject_keys: &[],
        };
        let leaf = leaf_hash(&frame.encode().expect("frames"));
        assert_eq!(row.get::<_, &[u8]>(10), leaf.as_slice(), "position {position}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_does_not_end_as_early_as_was_said_stays() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = StreamName::new("test.thing", ids::new_id());
    let mut log_id = tenant.append(append(&stream, None)).await.expect("appends").log_id;
    for (ends_before, is_replaced) in [(Some(1), false), (Some(2), true), (Some(2), false), (None, true)] {
        let wanted = [Replacement { ends_before, ..Replacement::of(tenant.id(), log_id) }];
        let replaced = store.replace_logs(&wanted, "a test", &Actor::system("test")).await.expect("asks");
        assert_eq!(replaced.len() == 1, is_replaced, "{ends_before:?}");
        log_id = tenant.head().await.expect("reads").log_id;
    }
}

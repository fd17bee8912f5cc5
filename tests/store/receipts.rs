//! Receipts of commands without effect, and event ids that come from outside.

use futures::future::join_all;
use schemas::engine::{StreamName, ids};
use store::{AppendError, ExpectedVersion, IdempotencyClaim, KeyUse, NewEvent, Receipt, StreamAppend};
use uuid::Uuid;

use super::append::{append, stream};
use crate::support::postgres::{Database, event, metadata, open_tenant};

fn without_effect(stream: &StreamName, expected: ExpectedVersion, claim: IdempotencyClaim) -> StreamAppend {
    StreamAppend::without_effect(stream.clone(), expected, claim, metadata())
}

/// What a repeat answers with, whether it is the first answer or not.
fn said(receipt: &Receipt) -> (u64, u64, u32) {
    (receipt.version, receipt.position, receipt.count)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_without_effect_leaves_a_receipt_and_no_event() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let stream = stream();
    tenant.append(append(&stream, ExpectedVersion::NoStream, "{}")).await.expect("appends");
    let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    let first = tenant.append(without_effect(&stream, ExpectedVersion::Exact(1), claim)).await;
    let first = first.expect("keeps a receipt");
    assert_eq!((said(&first), first.duplicate), ((1, 1, 0), false));
    assert_eq!(tenant.head().await.expect("reads").position, 1);

    // Whatever it would do by now: the first answer.
    tenant.append(append(&stream, ExpectedVersion::Exact(1), "{}")).await.expect("appends");
    let mut acting = append(&stream, ExpectedVersion::Exact(2), "{}");
    acting.claim = Some(claim);
    for again in [without_effect(&stream, ExpectedVersion::Exact(1), claim), acting] {
        let again = tenant.append(again).await.expect("a repeat");
        assert_eq!((said(&again), again.duplicate), (said(&first), true));
    }
    assert_eq!(
        tenant.key_use(&claim).await.expect("reads"),
        KeyUse::Repeat(Receipt { duplicate: true, ..first })
    );
    let other = IdempotencyClaim { digest: [2; 32], ..claim };
    let reused = tenant.append(without_effect(&stream, ExpectedVersion::Exact(2), other)).await;
    assert!(matches!(reused, Err(AppendError::CommandIdReused)));
    assert_eq!(tenant.key_use(&other).await.expect("reads"), KeyUse::Other);
    assert_eq!(tenant.head().await.expect("reads").position, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receipt_without_events_is_kept_only_at_the_version_it_was_decided_on() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let id = open_tenant(&here, "acme").await.id();
    let processes = [here.tenant(id), there.tenant(id)];
    for round in 0..20 {
        let stream = stream();
        processes[0].append(append(&stream, ExpectedVersion::NoStream, "{}")).await.expect("appends");
        // One key, two processes: one of them found nothing to do, the other found something.
        let claim = IdempotencyClaim::new(ids::new_id(), [1; 32]);
        let mut acting = append(&stream, ExpectedVersion::Exact(1), "{}");
        acting.claim = Some(claim);
        let idle = without_effect(&stream, ExpectedVersion::Exact(1), claim);
        let (one, other) = (&processes[round % 2], &processes[1 - round % 2]);
        let (acted, kept) = tokio::join!(one.append(acting), other.append(idle));
        let (acted, kept) = (acted.expect("answered"), kept.expect("answered"));
        assert_eq!(said(&acted), said(&kept), "both get the first answer");
        assert!(acted.duplicate != kept.duplicate, "one of them was first");
        let version = one.stream_version(&stream).await.expect("reads");
        assert_eq!(version, 1 + u64::from(acted.count));
    }
    let stream = stream();
    processes[0].append(append(&stream, ExpectedVersion::NoStream, "{}")).await.expect("appends");
    processes[1].append(append(&stream, ExpectedVersion::Exact(1), "{}")).await.expect("appends");
    let late =
        without_effect(&stream, ExpectedVersion::Exact(1), IdempotencyClaim::new(ids::new_id(), [1; 32]));
    let late = processes[0].append(late).await;
    assert!(matches!(late, Err(AppendError::VersionConflict { actual: 2 })), "{late:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_without_events_writes_a_receipt_and_nothing_else() {
    let tenant = open_tenant(&Database::create().await.store().await, "acme").await;
    let none = StreamAppend::new(stream(), ExpectedVersion::Any, Vec::new(), metadata());
    assert!(matches!(tenant.append(none).await, Err(AppendError::Invalid(_))));
    let mut secret =
        without_effect(&stream(), ExpectedVersion::Any, IdempotencyClaim::new(ids::new_id(), [1; 32]));
    secret.secrets = vec![store::Secret { kind: "password", value: "hash".into() }];
    assert!(matches!(tenant.append(secret).await, Err(AppendError::Invalid(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_without_events_end_after_thirty_days_or_beyond_the_quota_the_oldest_first() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let superuser = database.connect("postgres").await;
    let stream = stream();
    let mut lasting = append(&stream, ExpectedVersion::NoStream, "{}");
    let effect = IdempotencyClaim::new(ids::new_id(), [1; 32]);
    lasting.claim = Some(effect);
    tenant.append(lasting).await.expect("appends");
    let claims: Vec<IdempotencyClaim> =
        (0..6).map(|_| IdempotencyClaim::new(ids::new_id(), [1; 32])).collect();
    for claim in &claims {
        tenant.append(without_effect(&stream, ExpectedVersion::Exact(1), *claim)).await.expect("kept");
    }
    let days = "select distinct expires_at - recorded_at = interval '30 days' from receipts where count = 0";
    assert!(superuser.query_one(days, &[]).await.expect("one answer").get::<_, bool>(0));

    // The first is over its time, the second is the oldest of one too many.
    let over = "update receipts set expires_at = now() - interval '1 second' where command_id = $1";
    superuser.execute(over, &[&claims[0].key]).await.expect("updates");
    assert_eq!(tenant.expire_receipts(4).await.expect("removes"), 2);
    assert_eq!(tenant.expire_receipts(4).await.expect("removes"), 0);
    let mut kept = Vec::new();
    for claim in claims.iter().chain([&effect]) {
        kept.push(tenant.key_use(claim).await.expect("reads") != KeyUse::Unused);
    }
    assert_eq!(kept, [false, false, true, true, true, true, true]);

    superuser.execute(over, &[&claims[5].key]).await.expect("updates");
    store.expire_receipts().await.expect("every tenant is looked at");
    assert_eq!(tenant.key_use(&claims[5]).await.expect("reads"), KeyUse::Unused);
    assert_ne!(tenant.key_use(&effect).await.expect("reads"), KeyUse::Unused);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_projector_neither_makes_nor_removes_the_receipt_of_an_event() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let mut lasting = append(&stream(), ExpectedVersion::NoStream, "{}");
    lasting.claim = Some(IdempotencyClaim::new(ids::new_id(), [1; 32]));
    tenant.append(lasting).await.expect("appends");
    let client = database.connect("annals_projector").await;
    let set = format!("select set_config('annals.tenant', '{}', false)", tenant.id());
    client.batch_execute(&set).await.expect("sets");
    assert_eq!(client.execute("delete from receipts", &[]).await.expect("finds nothing"), 0);
    let forged = "insert into receipts (tenant_id, command_id, digest, stream, version, first_position, count, recorded_at)
                  values (current_setting('annals.tenant')::uuid, gen_random_uuid(), '', 'a.b/c', 1, 1, 1, now())";
    let error = client.execute(forged, &[]).await.expect_err("refused");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("42501"));
}

fn with_id(id: Uuid) -> NewEvent {
    NewEvent { event_id: Some(id), ..event("ext.loyalty.account.opened.v1", "{}") }
}

fn with_ids(stream: &StreamName, ids: impl IntoIterator<Item = Uuid>) -> StreamAppend {
    let events = ids.into_iter().map(with_id).collect();
    StreamAppend::new(stream.clone(), ExpectedVersion::Any, events, metadata())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_from_outside_is_never_one_that_the_product_gave_or_will_give() {
    let database = Database::create().await;
    let (store, other_process) = (database.store().await, database.store().await);
    let (tenant, neighbour) = (open_tenant(&store, "acme").await, open_tenant(&store, "other").await);
    let open = format!(r#"{{"$open":{{"subject":"{}","value":{{"name":"Ada"}}}}}}"#, ids::new_id());
    let stream = stream();
    tenant.append(append(&stream, ExpectedVersion::Any, "{}")).await.expect("appends");
    tenant.append(append(&stream, ExpectedVersion::Any, &open)).await.expect("appends sealed");
    let page = tenant.read_log_page(0, None, 10, &store::LogFilter::default()).await.expect("reads");
    assert_eq!(page.events.len(), 2);
    for event in &page.events {
        assert_eq!(event.event_id.get_version_num(), 7);
        for handle in [tenant.clone(), other_process.tenant(tenant.id())] {
            let taken = handle.append(with_ids(&super::append::stream(), [event.event_id])).await;
            assert!(matches!(taken, Err(AppendError::EventIdTaken(id)) if id == event.event_id), "{taken:?}");
        }
        // Ids are unique within a tenant.
        neighbour.append(with_ids(&super::append::stream(), [event.event_id])).await.expect("appends");
    }
    for id in [ids::new_id(), ids::random_id()] {
        tenant.append(with_ids(&super::append::stream(), [id])).await.expect("an id of one's own");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_events_with_ids_of_their_own_are_recorded_and_each_id_is_taken() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let id = open_tenant(&here, "acme").await.id();
    let processes = [here.tenant(id), there.tenant(id)];
    let given: Vec<Uuid> = (0..100).map(|_| ids::random_id()).collect();
    let stream = stream();
    let receipt = processes[0].append(with_ids(&stream, given.clone())).await.expect("appends");
    assert_eq!((receipt.count, receipt.version), (100, 100));
    for target in [&stream, &super::append::stream()] {
        let taken = processes[1].append(with_ids(target, [ids::random_id(), given[99]])).await;
        assert!(matches!(taken, Err(AppendError::EventIdTaken(id)) if id == given[99]), "{taken:?}");
    }
    let twice = processes[0].append(with_ids(&stream, [ids::random_id(); 2])).await;
    assert!(matches!(twice, Err(AppendError::EventIdTaken(_))));

    // At once, from two processes, to one stream and to others: one append has the id.
    for round in 0..10 {
        let wanted = ids::random_id();
        let streams: Vec<StreamName> =
            (0..8).map(|n| if n < 4 { stream.clone() } else { super::append::stream() }).collect();
        let sent =
            streams.iter().enumerate().map(|(n, target)| processes[n % 2].append(with_ids(target, [wanted])));
        let answers = join_all(sent).await;
        let won = answers.iter().filter(|answer| answer.is_ok()).count();
        assert_eq!(won, 1, "round {round}: {answers:?}");
        for lost in answers.iter().filter_map(|answer| answer.as_ref().err()) {
            assert!(matches!(lost, AppendError::EventIdTaken(id) if *id == wanted), "{lost:?}");
        }
    }
}

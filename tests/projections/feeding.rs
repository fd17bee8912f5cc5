//! Sources that lose, repeat and disorder, and several keepers of one read model at once.

use std::time::Duration;

use commands::Executor;
use futures::StreamExt;
use projections::{Batch, CustomerRow, UserRow};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use schemas::engine::{RecordedEvent, ids};
use store::feed::FeedSettings;
use store::{DeadLetterStatus, Store, TenantStore};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::poison::{append_raw, decide, letter_with};
use crate::support::eventually;
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    PATIENCE, caught_up, customers, folded, frequent_comparison, keep, log, no_notifications, random_history,
    register, rename, users,
};

fn batch(tenant: &TenantStore, events: Vec<RecordedEvent>) -> Batch {
    Batch { tenant: tenant.id(), log_id: events[0].log_id, events }
}

/// A source in the test's hand.
fn source() -> (mpsc::UnboundedSender<Batch>, impl futures::Stream<Item = Batch> + Send + 'static) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = futures::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|batch| (batch, receiver))
    });
    (sender, stream.boxed())
}

/// Never compares after the start: what is not followed is not noticed.
fn only_followed() -> FeedSettings {
    FeedSettings { compare_interval: Duration::from_hours(1), ..FeedSettings::default() }
}

/// A keeper that has made its one comparison, and the way to feed it.
async fn followed_keeper(
    store: &Store,
    tenant: &TenantStore,
) -> (mpsc::UnboundedSender<Batch>, impl Sized + use<>) {
    let executor = Executor::new(store.clone(), 1024 * 1024);
    register(&executor, tenant, "Found by comparing").await;
    let (sender, stream) = source();
    let keeper = keep::<CustomerRow>(store, stream, only_followed());
    caught_up::<CustomerRow>(tenant).await;
    (sender, keeper)
}

#[tokio::test]
async fn followed_events_are_applied_without_a_look_at_the_heads() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (sender, _keeper) = followed_keeper(&store, &tenant).await;
    random_history(&Executor::new(store.clone(), 1024 * 1024), &tenant, 100, 3).await;
    for event in log(&tenant).await {
        sender.send(batch(&tenant, vec![event])).expect("the keeper listens");
    }
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await);
}

#[tokio::test]
async fn gaps_repeats_and_disorder_change_nothing() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (sender, _keeper) = followed_keeper(&store, &tenant).await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let mut random = StdRng::seed_from_u64(11);
    for seed in 0..4 {
        random_history(&executor, &tenant, 60, seed).await;
        let events = log(&tenant).await;
        // A third is lost, some come twice, in chunks, in any order; the last one comes last, so that nobody has to
        // compare heads to learn of it.
        let mut sent: Vec<RecordedEvent> = Vec::new();
        for event in &events {
            for _ in 0..random.random_range(0..3) {
                sent.push(event.clone());
            }
        }
        sent.shuffle(&mut random);
        for event in sent {
            sender.send(batch(&tenant, vec![event])).expect("the keeper listens");
        }
        let last = events.last().expect("there are events").clone();
        sender.send(batch(&tenant, vec![last])).expect("the keeper listens");
        caught_up::<CustomerRow>(&tenant).await;
        assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await);
    }
    assert!(store.dead_letters(None, None, 10).await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_lost_last_event_is_found_by_comparing_heads() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (sender, stream) = source();
    let _keeper = keep::<CustomerRow>(&store, stream, frequent_comparison());
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let id = register(&executor, &tenant, "Ada").await;
    sender.send(batch(&tenant, log(&tenant).await)).expect("the keeper listens");
    caught_up::<CustomerRow>(&tenant).await;
    rename(&executor, &tenant, id, "Bo").await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(customers(&tenant).await[&id].name, "Bo");
}

#[tokio::test]
async fn several_keepers_at_once_have_the_effect_of_one() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenants = [open_tenant(&store, "acme").await, open_tenant(&store, "bolt").await];
    // Two processes, three keepers, each with a source of its own and batches of another size.
    let mut sources = Vec::new();
    let mut keepers = Vec::new();
    let elsewhere = database.store().await;
    for (store, batch) in [(&store, 1), (&store, 13), (&elsewhere, 500)] {
        let (sender, stream) = source();
        sources.push(sender);
        keepers.push(keep::<CustomerRow>(store, stream, FeedSettings { batch, ..frequent_comparison() }));
    }
    let executor = Executor::new(store.clone(), 1024 * 1024);
    for round in 0..5 {
        for tenant in &tenants {
            random_history(&executor, tenant, 40, round).await;
            for event in log(tenant).await {
                for source in &sources {
                    source.send(batch(tenant, vec![event.clone()])).expect("the keeper listens");
                }
            }
        }
    }
    for tenant in &tenants {
        caught_up::<CustomerRow>(tenant).await;
        assert_eq!(customers(tenant).await, folded::<CustomerRow>(tenant).await);
    }
    // An event applied twice would have been out of place and lie here.
    assert!(store.dead_letters(None, None, 10).await.expect("reads").is_empty());
}

#[tokio::test]
async fn a_tenant_with_a_long_way_to_go_does_not_delay_another() {
    let store = Database::create().await.store().await;
    let (big, small) = (open_tenant(&store, "big").await, open_tenant(&store, "small").await);
    let executor = Executor::new(store.clone(), 1024 * 1024);
    random_history(&executor, &big, 400, 1).await;
    register(&executor, &small, "Ada").await;
    let head = big.head().await.expect("reads").position;
    // One event a batch and one tenant at a time: the small one is through long before the big one.
    let settings = FeedSettings { batch: 1, max_concurrent_tenants: 1, ..frequent_comparison() };
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), settings);
    caught_up::<CustomerRow>(&small).await;
    let reached = store.checkpoints(Some(projections::CUSTOMERS)).await.expect("reads");
    let of_big = reached.iter().find(|(tenant, ..)| *tenant == big.id()).map_or(0, |(.., at)| at.position);
    assert!(of_big < head, "the small tenant had to wait for all {head} events of the big one");
    caught_up::<CustomerRow>(&big).await;
}

#[tokio::test]
async fn a_checkpoint_that_only_advanced_and_was_set_back_is_looked_up() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let _keeper = keep::<UserRow>(&store, no_notifications(), frequent_comparison());
    for text in ["Ada", "Bo", "Cy"] {
        register(&executor, &tenant, text).await;
    }
    caught_up::<UserRow>(&tenant).await;
    // Behind the product, as by an older copy of this table.
    let owner = database.connect("postgres").await;
    let sql = "update checkpoints set position = 1 where tenant_id = $1 and consumer = $2";
    assert_eq!(owner.execute(sql, &[&tenant.id().0, &projections::USERS]).await.expect("alters"), 1);
    // Two rounds: the first may be what the keeper finds wrong.
    for seed in 0..2 {
        random_history(&executor, &tenant, 60, seed).await;
        register(&executor, &tenant, "Di").await;
        caught_up::<UserRow>(&tenant).await;
    }
    assert_eq!(users(&tenant).await, folded::<UserRow>(&tenant).await);
    assert!(store.dead_letters(None, None, 10).await.expect("reads").is_empty());
}

#[tokio::test]
async fn read_models_with_work_at_the_same_time_share_a_transaction() {
    let database = Database::create().await;
    database.log_statements().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    random_history(&executor, &tenant, 40, 1).await;
    let (customers_sender, customers_source) = source();
    let (users_sender, users_source) = source();
    let sources = std::sync::Mutex::new(vec![users_source, customers_source]);
    let followed = move || sources.lock().expect("no panic").pop().expect("a source for each read model");
    let keeping = projections::run_all(store.clone(), followed, only_followed(), CancellationToken::new());
    let _keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
    caught_up::<CustomerRow>(&tenant).await;
    caught_up::<UserRow>(&tenant).await;
    // Both get the same events, of both kinds. Now and then one of them is too late.
    let mut rounds = 0;
    loop {
        let from = tenant.head().await.expect("reads").position as usize;
        random_history(&executor, &tenant, 40, 2 + rounds).await;
        let events = log(&tenant).await.split_off(from);
        for sender in [&customers_sender, &users_sender] {
            sender.send(batch(&tenant, events.clone())).expect("the keeper listens");
        }
        caught_up::<CustomerRow>(&tenant).await;
        caught_up::<UserRow>(&tenant).await;
        let shared =
            database.statements().iter().filter(|(_, text)| text.starts_with("with steps as")).count();
        if shared >= 3 {
            break;
        }
        rounds += 1;
        assert!(rounds < 50, "{shared} common transactions in {rounds} rounds");
    }
    assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await);
    assert_eq!(users(&tenant).await, folded::<UserRow>(&tenant).await);

    // An event that one of them cannot apply stops only that one.
    let from = tenant.head().await.expect("reads").position as usize;
    random_history(&executor, &tenant, 40, 100).await;
    append_raw(&tenant, ids::new_id(), "crm.customer.renamed.v1", "7").await;
    random_history(&executor, &tenant, 40, 101).await;
    let events = log(&tenant).await.split_off(from);
    for sender in [&customers_sender, &users_sender] {
        sender.send(batch(&tenant, events.clone())).expect("the keeper listens");
    }
    caught_up::<UserRow>(&tenant).await;
    assert_eq!(users(&tenant).await, folded::<UserRow>(&tenant).await);
    let letter = letter_with(&store, |letter| letter.tenant == tenant.id()).await;
    assert_eq!(
        (letter.consumer.as_str(), letter.error_code.as_str()),
        (projections::CUSTOMERS, "PAYLOAD_INVALID")
    );
    decide(&tenant, &letter, DeadLetterStatus::Discarded).await;
    caught_up::<CustomerRow>(&tenant).await;
    assert_eq!(store.dead_letters(None, None, 10).await.expect("reads").len(), 1);
}

#[tokio::test]
async fn an_outage_is_waited_out() {
    let database = Database::create().await;
    let store = database.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let executor = Executor::new(store.clone(), 1024 * 1024);
    let id = register(&executor, &tenant, "Ada").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    caught_up::<CustomerRow>(&tenant).await;

    // Every connection of the keeper breaks, and again while it recovers.
    let superuser = database.connect("postgres").await;
    let kill = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                where datname = current_database() and usename in ('annals_projector', 'annals_tenant', 'annals_worker')";
    for text in ["Bo", "Cy", "Di"] {
        eventually("the keeper has connections to lose", || async {
            let killed: i64 = superuser.query_one(kill, &[]).await.expect("kills").get(0);
            (killed > 0).then_some(())
        })
        .await;
        let renamed = || async {
            let command = schemas::crm::customer::CustomerCommand::RenameCustomer {
                name: crate::support::read_models::name(text),
            };
            let context = crate::support::read_models::system(&tenant);
            executor
                .execute::<commands::Customer>(&context, id, command, commands::CommandSideEffects::default())
                .await
                .ok()
        };
        eventually("the executor gets through again", renamed).await;
    }
    eventually("the keeper gets through again", || async {
        let head = tenant.head().await.ok()?;
        let reached =
            tenant.wait_for_checkpoint(projections::CUSTOMERS, head.log_id, head.position, PATIENCE).await;
        reached.ok()?.then_some(())
    })
    .await;
    assert_eq!(customers(&tenant).await[&id].name, "Di");
}

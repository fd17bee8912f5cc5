//! A batch of a read model that is interrupted at each of its messages to PostgreSQL: its events take effect once.

mod rebuild;

use commands::Executor;
use projections::CustomerRow;
use store::Store;

use crate::support::long;
use crate::support::postgres::{Database, open_tenant};
use crate::support::read_models::{
    caught_up, customers, folded, frequent_comparison, keep, no_notifications, register, rename,
};
use crate::support::wire::{Moment, Wire};

/// More than a batch ever sends, a new connection with everything that is prepared on it included.
const MESSAGES: u32 = 90;

async fn every_message(moment: Moment) {
    let database = Database::create().await;
    let wire = Wire::start(database.port).await;
    let (direct, mut config) = (database.store().await, database.store_config());
    config.port = wire.port();
    // One connection, so that each batch follows on the connection that was cut.
    config.pool_size = 1;
    let store = Store::connect(config).await.expect("the store connects");
    let executor = Executor::new(direct.clone(), 1024 * 1024);
    let tenant = open_tenant(&direct, "acme").await;
    let _keeper = keep::<CustomerRow>(&store, no_notifications(), frequent_comparison());
    for message in long::points(3).take_while(|message| *message <= MESSAGES) {
        wire.arm("annals_projector", message, moment);
        let id = register(&executor, &tenant, &format!("Ada {message}")).await;
        rename(&executor, &tenant, id, &format!("Bo {message}")).await;
        caught_up::<CustomerRow>(&tenant).await;
        let was_cut = wire.disarm();
        assert_eq!(customers(&tenant).await, folded::<CustomerRow>(&tenant).await, "message {message}");
        if !was_cut {
            let letters = direct.dead_letters(None, None, 10).await.expect("reads");
            assert!(letters.is_empty(), "an interruption is no poison: {letters:?}");
            assert!(message > 10, "a batch sends more than {message} messages");
            return;
        }
    }
    panic!("a batch sends more than {MESSAGES} messages");
}

#[tokio::test]
async fn a_batch_is_interrupted_before_each_of_its_messages() {
    every_message(Moment::Before).await;
}

#[tokio::test]
async fn a_batch_is_interrupted_after_each_of_its_messages() {
    every_message(Moment::After).await;
}

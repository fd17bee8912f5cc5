//! An append that is interrupted at each of its messages to PostgreSQL: it happens once, or not at all and then once when
//! it is repeated.

use futures::TryStreamExt;
use schemas::engine::{StreamName, ids};
use store::{ExpectedVersion, IdempotencyClaim, Store, StreamAppend};

use crate::support::postgres::{Database, event, metadata, open_tenant};
use crate::support::wire::{Moment, Wire};
use crate::support::{eventually, long};

/// More than an append ever sends, a new connection with everything that is prepared on it included.
const MESSAGES: u32 = 60;

/// With `anew` the append starts with making its connection. One without events keeps the receipt of a command without
/// effect.
async fn every_message_of(role: &str, moment: Moment, anew: bool, events: usize) {
    let database = Database::create().await;
    let wire = Wire::start(database.port).await;
    let (direct, mut config) = (database.store().await, database.store_config());
    config.port = wire.port();
    let store = Store::connect(config).await.expect("the store connects");
    let id = open_tenant(&direct, "acme").await.id();
    let (tenant, observed) = (store.tenant(id), direct.tenant(id));
    let superuser = database.connect("postgres").await;
    let (mut total, mut uncut) = (0, 0);
    for message in long::points(2).take_while(|message| *message <= MESSAGES) {
        let (stream, command_id) = (StreamName::new("crm.customer", ids::new_id()), ids::new_id());
        let append = || StreamAppend {
            claim: Some(IdempotencyClaim::new(command_id, [7; 32])),
            ..StreamAppend::new(
                stream.clone(),
                ExpectedVersion::NoStream,
                vec![event("crm.customer.renamed.v1", "{}"); events],
                metadata(),
            )
        };
        if anew {
            let end = "select pg_terminate_backend(pid) from pg_stat_activity
                       where datname = current_database() and usename = $1";
            superuser.query(end, &[&role]).await.expect("ends connections");
        }
        wire.arm(role, message, moment);
        let first = tenant.append(append()).await;
        let was_cut = wire.disarm();
        let receipt =
            eventually("a repeat is answered", || async { tenant.append(append()).await.ok() }).await;
        assert!(
            receipt.duplicate || first.is_err(),
            "message {message}: acknowledged and then written again"
        );
        assert_eq!((receipt.version, receipt.count), (events as u64, events as u32), "message {message}");
        if let Ok(first) = first {
            assert_eq!(first.position, receipt.position, "message {message}: a repeat got another answer");
        }
        let recorded: Vec<_> = observed.read_stream(&stream, 1).try_collect().await.expect("reads");
        assert_eq!(recorded.len(), events, "message {message}");
        total += events as u64;
        assert_eq!(
            observed.head().await.expect("reads").position,
            total,
            "message {message}: the log is dense"
        );
        // One that is refused because the server had ended its connection sends little; several in a row had nothing left.
        uncut = if was_cut { 0 } else { uncut + 1 };
        if uncut == 3 {
            return;
        }
    }
    panic!("an append sends more than {MESSAGES} messages");
}

#[tokio::test]
async fn an_append_is_interrupted_before_each_of_its_messages() {
    tokio::join!(
        every_message_of("annals_appender", Moment::Before, false, 2),
        every_message_of("annals_lookup", Moment::Before, false, 2),
        every_message_of("annals_appender", Moment::Before, true, 2),
        every_message_of("annals_lookup", Moment::Before, true, 2),
    );
}

#[tokio::test]
async fn an_append_is_interrupted_after_each_of_its_messages() {
    tokio::join!(
        every_message_of("annals_appender", Moment::After, false, 2),
        every_message_of("annals_lookup", Moment::After, false, 2),
        every_message_of("annals_appender", Moment::After, true, 2),
        every_message_of("annals_lookup", Moment::After, true, 2),
    );
}

#[tokio::test]
async fn the_receipt_of_a_command_without_effect_is_interrupted_around_each_of_its_messages() {
    tokio::join!(
        every_message_of("annals_appender", Moment::Before, false, 0),
        every_message_of("annals_appender", Moment::After, false, 0),
    );
}

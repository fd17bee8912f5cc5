//! The database's administrator changes history: what a verifier says to each attempt, and that the signer does not help.

use proofs::leaf_hash;
use proofs::verify::{Known, VerifyError};

use crate::support::sealed_site::Sealed;

/// Events of the log under attack: two whole tiles and the beginning of a third.
const EVENTS: usize = 600;

/// What a verifier can say.
#[derive(Debug, PartialEq)]
enum Said {
    Position(u64),
    Range(u64, u64),
    Root,
}

fn said(error: &VerifyError) -> Said {
    match error {
        VerifyError::Position { position, .. } => Said::Position(*position),
        VerifyError::Range { from, to } => Said::Range(*from, *to),
        VerifyError::Root { .. } => Said::Root,
        other => panic!("{other}"),
    }
}

struct Attack {
    name: &'static str,
    script: String,
    /// Said with nothing but the file and the key, with the signer's tiles, and with an earlier export.
    expected: [Said; 3],
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_administrator_changes_is_found_as_exactly_as_promised() {
    let sealed = Sealed::with(EVENTS).await;
    sealed.seal().await;
    let tenant = sealed.tenant.id();
    let honest = sealed.export(audit::export::Export::default()).await;
    sealed.check(&honest, &Known::default()).await.expect("the honest log verifies");
    let tiles = Known { tiles: sealed.tiles().await, ..Known::default() };
    let earlier = Known { leaves: Sealed::leaves(&honest), ..Known::default() };
    let administrator = sealed.database.connect("postgres").await;
    administrator
        .batch_execute(
            "create table honest_events as table events; create table honest_subtrees as table subtrees",
        )
        .await
        .expect("copies");

    let of = format!("where tenant_id = '{tenant}' and");
    let everywhere =
        |position: u64| [Said::Position(position), Said::Position(position), Said::Position(position)];
    let forged = forged(&sealed, 300).await;
    let attacks = [
        Attack {
            name: "a byte of a payload",
            script: format!("update events set payload = set_byte(payload, 3, 88) {of} position = 300"),
            expected: everywhere(300),
        },
        Attack {
            name: "a byte of the metadata",
            script: format!("update events set metadata = set_byte(metadata, 3, 88) {of} position = 17"),
            expected: everywhere(17),
        },
        Attack {
            name: "a time",
            script: format!("update events set recorded_at = recorded_at - interval '1 day' {of} position = 1"),
            expected: everywhere(1),
        },
        Attack {
            name: "a type",
            script: format!("update events set type = 'crm.customer.closed.v1' {of} position = 600"),
            expected: everywhere(600),
        },
        Attack {
            name: "a leaf",
            script: format!("update events set leaf_hash = sha256('x') {of} position = 2"),
            expected: everywhere(2),
        },
        Attack {
            name: "a dropped row",
            script: format!("delete from events {of} position = 400"),
            expected: everywhere(400),
        },
        Attack {
            name: "a truncated log",
            script: format!("delete from events {of} position > 550"),
            expected: everywhere(551),
        },
        Attack {
            name: "a dropped row, the others moved up",
            script: format!(
                "delete from events {of} position = 400;
                 update events set position = -position {of} position > 400;
                 update events set position = -position - 1 {of} position < 0"
            ),
            // The places of the others are no part of their leaves: the tile is wrong, and then the end is missing.
            expected: [Said::Position(600), Said::Range(257, 512), Said::Position(400)],
        },
        Attack {
            name: "an inserted row, the others moved down",
            script: format!(
                "update events set position = -position {of} position >= 300;
                 update events set position = 1 - position {of} position < 0;
                 insert into events select tenant_id, 300, 1, recorded_at, event_id, schema_version, payload_encoding,
                     'crm.customer/forged', type, payload, metadata, salts, subject_keys, leaf_hash
                     from events {of} position = 301"
            ),
            expected: everywhere(300),
        },
        Attack {
            name: "two swapped rows",
            script: format!(
                "update events set position = -1 {of} position = 300;
                 update events set position = 300 {of} position = 301;
                 update events set position = 301 {of} position = -1"
            ),
            expected: [Said::Root, Said::Range(257, 512), Said::Position(300)],
        },
        Attack {
            name: "an event, its leaf and its tile rewritten consistently",
            script: forged,
            expected: [Said::Root, Said::Range(257, 512), Said::Position(300)],
        },
    ];
    for Attack { name, script, expected } in attacks {
        administrator.batch_execute(&script).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        for (known, expected) in [&Known::default(), &tiles, &earlier].into_iter().zip(expected) {
            let error = sealed.verified(known).await.expect_err(name);
            assert_eq!(said(&error), expected, "{name}: {error}");
        }
        administrator
            .batch_execute(
                "truncate events, subtrees;
                 insert into events table honest_events; insert into subtrees table honest_subtrees",
            )
            .await
            .expect("restores");
        sealed.verified(&tiles).await.expect("restored");
    }
}

/// A script that rewrites one event with its leaf, and the stored subtree above it.
async fn forged(sealed: &Sealed, position: u64) -> String {
    let rows = sealed.tenant.export_rows(256, 512, None, 256).await.expect("reads");
    let log_id = sealed.tenant.head().await.expect("a head").log_id;
    let mut leaves: Vec<[u8; 32]> =
        rows.iter().map(|row| row.leaf_hash.as_ref().try_into().expect("32 bytes")).collect();
    let mut row = rows[position as usize - 257].clone();
    row.payload = br#"{"name":"forged"}"#.to_vec().into();
    let entry = audit::proof::entry(&row, log_id).expect("frames");
    let leaf = leaf_hash(&entry);
    leaves[position as usize - 257] = leaf;
    let tile = proofs::tree::fold(leaves);
    let tenant = sealed.tenant.id();
    format!(
        "update events set payload = '\\x{}', leaf_hash = '\\x{}' where tenant_id = '{tenant}' and position = {position};
         update subtrees set hash = '\\x{}' where tenant_id = '{tenant}' and level = 1 and index = 1",
        hex::encode(&row.payload),
        hex::encode(leaf),
        hex::encode(tile)
    )
}

/// What has gone back and has not grown again is replaced: see `replaced`.
#[tokio::test(flavor = "multi_thread")]
async fn the_signer_refuses_a_log_that_went_back_and_has_grown_again() {
    let sealed = Sealed::with(300).await;
    sealed.seal().await;
    let tenant = sealed.tenant.id();
    let note = ::audit::merkle::sealed_log(&sealed.tenant).await.expect("reads").expect("sealed").note;
    let administrator = sealed.database.connect("postgres").await;
    let rollback = format!(
        "delete from events where tenant_id = '{tenant}' and position > 280;
         update heads set position = 280 where tenant_id = '{tenant}';
         delete from sealed_logs where tenant_id = '{tenant}';
         delete from subtrees where tenant_id = '{tenant}'"
    );
    administrator.batch_execute(&rollback).await.expect("goes back");
    // Another process appends on the database that went back: its caches know nothing of what was there.
    let store = sealed.database.store().await;
    let grown = Sealed { tenant: store.tenant(tenant), store, ..sealed };
    grown.append(40).await;
    let why = grown.refusal().await;
    assert!(why.contains("the first 300 events are not those that were signed"), "{why}");
    // Nothing was signed meanwhile, and nothing was replaced.
    let log = grown.tenant.head().await.expect("a head").log_id;
    assert_eq!(grown.signer.last_signed(log).expect("reads"), Some(note));
    assert_eq!(grown.store.replaced_logs().await.expect("reads"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_signer_refuses_what_was_rewritten_below_its_checkpoint() {
    let sealed = Sealed::with(290).await;
    sealed.seal().await;
    let tenant = sealed.tenant.id();
    let administrator = sealed.database.connect("postgres").await;
    let rewrite =
        format!("update events set leaf_hash = sha256('x') where tenant_id = '{tenant}' and position = 280");
    administrator.batch_execute(&rewrite).await.expect("rewrites");
    sealed.append(5).await;
    let why = sealed.refusal().await;
    assert!(why.contains("the first 290 events are not those that were signed"), "{why}");
}

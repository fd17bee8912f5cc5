//! Logs whose database went back below what was signed: the sealer lets them go on under another id, cites what it has
//! signed, and signs nothing more of the old one.

use std::path::Path;

use audit::export::Export;
use audit::{Signer, SignerConfig};
use futures::TryStreamExt;
use proofs::Checkpoint;
use proofs::verify::{Known, Replaced, VerifyError};
use schemas::engine::{LogId, RecordedEvent};
use schemas::platform::log::LogEvent;
use serde_json::Value;
use store::LogFilter;

use crate::support::sealed_site::Sealed;
use crate::support::{eventually, folder, process};

/// The database goes back to its first events, with everything that it knows of seals.
async fn go_back(sealed: &Sealed, to: u64) {
    let tenant = sealed.tenant.id();
    let script = format!(
        "delete from events where tenant_id = '{tenant}' and position > {to};
         update heads set position = {to} where tenant_id = '{tenant}';
         delete from sealed_logs where tenant_id = '{tenant}';
         delete from subtrees where tenant_id = '{tenant}'"
    );
    sealed.database.connect("postgres").await.batch_execute(&script).await.expect("goes back");
}

/// Adds events, seals them, and returns the signed note.
async fn grow(sealed: &Sealed, events: usize) -> String {
    sealed.append(events).await;
    sealed.seal().await;
    ::audit::merkle::sealed_log(&sealed.tenant).await.expect("reads").expect("sealed").note
}

async fn log_id(sealed: &Sealed) -> LogId {
    sealed.tenant.head().await.expect("a head").log_id
}

/// The event at a position, and what it says of a replacement.
async fn replacement(sealed: &Sealed, position: u64) -> (RecordedEvent, LogEvent) {
    let events: Vec<RecordedEvent> =
        sealed.tenant.read_log(position - 1, LogFilter::default()).try_collect().await.expect("reads");
    let event = events.into_iter().next().expect("an event");
    let replaced = event.decode().expect("decodes").expect("is of the log");
    (event, replaced)
}

fn known(notes: &[&String]) -> Known {
    Known { checkpoints: notes.iter().map(ToString::to_string).collect(), ..Known::default() }
}

/// Exports everything, with proofs for these earlier sizes, and verifies it with these notes.
async fn verified(sealed: &Sealed, earlier: &[u64], notes: &[&String]) -> Result<Vec<Replaced>, VerifyError> {
    let file = sealed.export(Export { earlier: earlier.to_vec(), ..Export::default() }).await;
    sealed.check(&file, &known(notes)).await.map(|report| report.replaced)
}

/// Whether it is a restore or an attack: the loss is public and signed, and the old checkpoint tells it from the file.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_signed_events_is_replaced_and_no_more_of_the_old_one_is_signed() {
    let sealed = Sealed::with(0).await;
    let early = grow(&sealed, 200).await;
    let last = grow(&sealed, 100).await;
    let old = log_id(&sealed).await;
    go_back(&sealed, 280).await;
    sealed.seal().await;

    let head = sealed.tenant.head().await.expect("a head");
    assert_ne!(head.log_id, old);
    assert_eq!(head.position, 281, "with the event that cites the old log");
    let (event, told) = replacement(&sealed, 281).await;
    assert_eq!(event.metadata.actor.to_string(), "system:sealer");
    let LogEvent::Replaced { old_log_id, new_log_id, kept_to, published_to, checkpoint, .. } = told;
    assert_eq!((old_log_id, new_log_id, kept_to), (old, head.log_id, 280));
    assert_eq!((published_to, checkpoint.as_ref()), (Some(300), Some(&last)));
    let kept = sealed.tenant.replaced_log(old).await.expect("reads").expect("is known");
    assert_eq!(kept.signed_to, Some(300));
    assert_eq!(
        sealed.signer.last_signed(old).expect("reads"),
        Some(last.clone()),
        "nothing was signed since"
    );

    let told = Replaced { position: 281, old_log_id: old.0, kept_to: 280, signed_to: Some(300) };
    assert_eq!(verified(&sealed, &[200], &[&early]).await.expect("continues"), [told]);
    let error = verified(&sealed, &[], &[&last]).await.expect_err("events that were signed are gone");
    assert!(matches!(error, VerifyError::Replaced { from: 300, kept_to: 280, position: 281, .. }), "{error}");
    on_the_command_line(&sealed, &early, &last).await;
}

/// What an auditor sees who has kept checkpoints of the old log.
async fn on_the_command_line(sealed: &Sealed, early: &str, last: &str) {
    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let file = sealed.export(Export { earlier: vec![200], ..Export::default() }).await;
    std::fs::write(path("export"), file).expect("written");
    let key = sealed.signer.verifier_key(log_id(sealed).await).expect("a key").to_string();
    for (note, code) in [(early, 0), (last, 9)] {
        std::fs::write(path("checkpoint"), note).expect("written");
        let [file, since] = [path("export"), path("checkpoint")];
        let arguments = ["audit", "verify", &file, "--key", &key, "--since", &since, "--output", "json"];
        let output = process::run(&arguments);
        let (verdict, said): (Value, String) = (
            serde_json::from_slice(&output.stdout).expect("JSON"),
            String::from_utf8(output.stderr).expect("text"),
        );
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert!(said.contains("was replaced at position 281"), "{said}");
        assert!(said.contains("positions 281 to 300") && said.contains("void"), "{said}");
        if code == 0 {
            assert_eq!(verdict["replaced"][0]["signed_to"], 300, "{verdict}");
        } else {
            assert_eq!(verdict["first_bad_position"], 281, "{verdict}");
        }
    }
}

/// A copy of a moment at which everything was signed: nothing is left to sign, and the log is looked at all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_went_back_to_where_all_of_it_was_signed_is_replaced_when_a_sealer_starts() {
    let sealed = Sealed::with(0).await;
    let early = grow(&sealed, 200).await;
    let last = grow(&sealed, 100).await;
    let old = log_id(&sealed).await;
    let tenant = sealed.tenant.id();
    let script = format!(
        "delete from events where tenant_id = '{tenant}' and position > 200;
         update heads set position = 200 where tenant_id = '{tenant}';
         update sealed_logs set size = 200, note = '{early}' where tenant_id = '{tenant}';
         delete from subtrees where tenant_id = '{tenant}'"
    );
    sealed.database.connect("postgres").await.batch_execute(&script).await.expect("goes back");
    let _sealer = sealed.sealer();
    eventually("the log is replaced", || async { (log_id(&sealed).await != old).then_some(()) }).await;
    sealed.sealed().await;
    let LogEvent::Replaced { checkpoint, .. } = replacement(&sealed, 201).await.1;
    assert_eq!(checkpoint, Some(last));
    assert_eq!(verified(&sealed, &[200], &[&early]).await.expect("continues").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sealers_that_live_through_it_replace_a_log_once_and_seal_the_new_one() {
    let sealed = Sealed::with(300).await;
    let sealers: Vec<_> = (0..3).map(|_| sealed.sealer()).collect();
    sealed.sealed().await;
    let old = log_id(&sealed).await;
    go_back(&sealed, 280).await;
    eventually("the log is replaced", || async { (log_id(&sealed).await != old).then_some(()) }).await;
    sealed.append(40).await;
    sealed.sealed().await;
    drop(sealers);
    assert_eq!(sealed.store.replaced_logs().await.expect("reads").len(), 1);
    assert_eq!(verified(&sealed, &[], &[]).await.expect("verifies").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_replaced_twice_tells_of_both_and_verifies() {
    let sealed = Sealed::with(0).await;
    let first = [grow(&sealed, 200).await, grow(&sealed, 100).await];
    go_back(&sealed, 280).await;
    sealed.seal().await;
    let second = [grow(&sealed, 19).await, grow(&sealed, 20).await];
    let sizes = |notes: &[String]| -> Vec<u64> {
        notes.iter().map(|note| Checkpoint::unverified(note).expect("a checkpoint").size).collect()
    };
    assert_eq!((sizes(&first), sizes(&second)), (vec![200, 300], vec![300, 320]));
    go_back(&sealed, 310).await;
    sealed.seal().await;
    grow(&sealed, 300).await;

    let told = verified(&sealed, &[200, 300], &[&first[0], &second[0]]).await.expect("continues both");
    assert_eq!(told.iter().map(|told| told.position).collect::<Vec<_>>(), [281, 311]);
    assert_eq!(told.iter().map(|told| told.signed_to).collect::<Vec<_>>(), [Some(300), Some(320)]);
    for (lost, from, at) in [(&first[1], 300, 280), (&second[1], 320, 310)] {
        let error = verified(&sealed, &[from], &[lost]).await.expect_err("is void");
        assert!(
            matches!(error, VerifyError::Replaced { from: size, kept_to, .. } if (size, kept_to) == (from, at)),
            "{error}"
        );
    }
    let part = Export { from: Some(275), to: Some(315), ..Export::default() };
    let report = sealed.check(&sealed.export(part).await, &Known::default()).await.expect("verifies");
    assert_eq!(report.replaced.len(), 2);
}

/// A rewritten history is no database that went back, though its end be missing as well.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_has_to_be_what_was_signed_or_the_log_is_refused() {
    let sealed = Sealed::with(600).await;
    sealed.seal().await;
    let old = log_id(&sealed).await;
    let rewrite = format!(
        "update events set leaf_hash = sha256('x') where tenant_id = '{}' and position = 300",
        sealed.tenant.id()
    );
    sealed.database.connect("postgres").await.batch_execute(&rewrite).await.expect("rewrites");
    go_back(&sealed, 550).await;
    let why = sealed.refusal().await;
    assert!(why.contains("of the events 257 to 512 not all are those that were signed"), "{why}");
    assert_eq!(log_id(&sealed).await, old);
}

/// Two deployments over copies of one database have logs of the same ids: what another one has signed is no evidence.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_in_which_another_deployment_has_signed_replaces_nothing() {
    let sealed = Sealed::with(300).await;
    sealed.seal().await;
    let log = log_id(&sealed).await;
    let tiles = sealed.signer.tiles(log);
    let other = Signer::open(&SignerConfig {
        deployment: "elsewhere.test".to_owned(),
        key: sealed.key.clone(),
        previous_signing_key: None,
        folder: tiles.parent().map(Path::to_owned).expect("a folder"),
    });
    let other = other.expect("the signer opens");
    let checkpoint = Checkpoint { origin: other.origin(log), size: 400, root: [7; 32] };
    other.sign(log, &checkpoint, &[]).expect("signs");
    sealed.append(1).await;
    let why = sealed.refusal().await;
    assert!(why.contains("400 events were signed, the log has 301"), "{why}");
    assert_eq!(log_id(&sealed).await, log);
}

//! The sealer: what it signs is what the log holds, whoever seals and however often it is interrupted.

use audit::export::Export;
use proofs::verify::Known;
use proofs::{Checkpoint, tree};
use schemas::engine::{Actor, TypePattern};
use store::Replacement;

use crate::support::eventually;
use crate::support::sealed_site::{Sealed, signer};

fn hashes(encoded: &[String]) -> Vec<[u8; 32]> {
    use base64::Engine;
    let decode = |text: &String| base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
    encoded.iter().map(|text| decode(text).try_into().expect("32 bytes")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_position_is_proved_and_every_size_continues_the_one_before() {
    let sealed = Sealed::with(0).await;
    let _sealer = sealed.sealer();
    let mut before: Option<Checkpoint> = None;
    for more in [1, 2, 60, 200, 300] {
        sealed.append(more).await;
        sealed.sealed().await;
        let newest = audit::proof::newest(&sealed.tenant).await.expect("a checkpoint");
        let checkpoint = sealed.signer.verify_own(newest.log_id, &newest.note).expect("the signer's own");
        assert_eq!(checkpoint.size, newest.size);
        for position in (1..=checkpoint.size).step_by(7) {
            let proof = audit::proof::inclusion(&sealed.tenant, position, None).await.expect("a proof");
            let leaf = hashes(&[proof.leaf_hash])[0];
            let path = hashes(&proof.path);
            assert!(tree::verify_inclusion(position - 1, proof.size, &leaf, &path, &checkpoint.root));
        }
        if let Some(before) = before {
            let proof = audit::proof::consistency(&sealed.tenant, before.size, None).await.expect("a proof");
            let path = hashes(&proof.path);
            let (from, to) = (before.size, checkpoint.size);
            assert!(tree::verify_consistency(from, &before.root, to, &checkpoint.root, &path));
        }
        before = Some(checkpoint);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealer_that_starts_anew_goes_on_where_another_stopped() {
    let sealed = Sealed::with(300).await;
    for _ in 0..3 {
        sealed.seal().await;
        sealed.append(150).await;
    }
    // A signer on another machine has the key, and no memory of its own.
    let elsewhere = tempfile::tempdir().expect("a folder");
    let other = Sealed { signer: signer(elsewhere.path(), &sealed.key), ..sealed };
    other.seal().await;
    let report = other.verified(&Known::default()).await.expect("verifies");
    assert_eq!(report.events, 750);
}

/// What was signed of a log that went back is signed no further; the log that replaces it is another one, whose kept events
/// verify under the id that they were written under.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_replaced_is_sealed_and_verified_under_its_new_id() {
    let sealed = Sealed::with(300).await;
    sealed.seal().await;
    let admin = sealed.database.connect("postgres").await;
    let back = format!(
        "delete from events where tenant_id = '{0}' and position > 280;
         update heads set position = 280 where tenant_id = '{0}'",
        sealed.tenant.id()
    );
    admin.batch_execute(&back).await.expect("goes back");
    let old = sealed.tenant.head().await.expect("a head").log_id;
    let wanted = [Replacement { published_to: Some(300), ..Replacement::of(sealed.tenant.id(), old) }];
    let replaced =
        sealed.store.replace_logs(&wanted, "a test", &Actor::system("test")).await.expect("replaces");
    assert_eq!(replaced[0].last_position, 280);
    sealed.append(20).await;
    sealed.seal().await;
    let report = sealed.verified(&Known::default()).await.expect("verifies");
    assert_eq!(report.events, 301, "with the event that cites the old log");
    let part = Export { from: Some(270), to: Some(290), ..Export::default() };
    sealed.check(&sealed.export(part).await, &Known::default()).await.expect("verifies");
    for position in [1, 280, 281, 301] {
        let proof = audit::proof::inclusion(&sealed.tenant, position, None).await.expect("a proof");
        let newest = audit::proof::newest(&sealed.tenant).await.expect("a checkpoint");
        let root = sealed.signer.verify_own(newest.log_id, &newest.note).expect("the signer's own").root;
        let leaf = hashes(&[proof.leaf_hash])[0];
        assert!(tree::verify_inclusion(position - 1, proof.size, &leaf, &hashes(&proof.path), &root));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_sealers_at_once_sign_one_history() {
    let sealed = Sealed::with(1).await;
    let sealers: Vec<_> = (0..3).map(|_| sealed.sealer()).collect();
    for _ in 0..10 {
        sealed.append(40).await;
    }
    sealed.sealed().await;
    drop(sealers);
    assert_eq!(sealed.verified(&Known::default()).await.expect("verifies").events, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_streams_and_withheld_types_verify() {
    let sealed = Sealed::with(700).await;
    sealed.seal().await;
    for (from, to) in [(1, 1), (1, 256), (257, 512), (100, 600), (700, 700)] {
        let file = sealed.export(Export { from: Some(from), to: Some(to), ..Export::default() }).await;
        let report = sealed.check(&file, &Known::default()).await.expect("verifies");
        assert_eq!(report.events, to + 1 - from);
    }
    let row = sealed.tenant.export_rows(41, 42, None, 1).await.expect("reads").remove(0);
    let stream = Some(row.stream.parse().expect("a stream"));
    let file = sealed.export(Export { stream, ..Export::default() }).await;
    assert_eq!(sealed.check(&file, &Known::default()).await.expect("verifies").events, 1);
    let withhold: Vec<TypePattern> = vec!["crm.>".parse().expect("a pattern")];
    let file = sealed.export(Export { withhold, ..Export::default() }).await;
    assert!(!String::from_utf8_lossy(&file).contains("\"salt\""));
    assert_eq!(sealed.check(&file, &Known::default()).await.expect("verifies").withheld, 700);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_proves_that_it_continues_the_checkpoints_an_auditor_kept() {
    let sealed = Sealed::with(10).await;
    let mut kept = Vec::new();
    for _ in 0..3 {
        sealed.append(111).await;
        sealed.seal().await;
        kept.push(audit::proof::newest(&sealed.tenant).await.expect("a checkpoint"));
    }
    let earlier = kept.iter().map(|sealed| sealed.size).collect();
    let file = sealed.export(Export { earlier, ..Export::default() }).await;
    let known = Known { checkpoints: kept.into_iter().map(|kept| kept.note).collect(), ..Known::default() };
    sealed.check(&file, &known).await.expect("continues all of them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_that_no_checkpoint_covers_is_told_apart() {
    let sealed = Sealed::with(3).await;
    sealed.seal().await;
    sealed.append(1).await;
    let error = audit::proof::inclusion(&sealed.tenant, 4, None).await.expect_err("not sealed");
    assert!(matches!(error, audit::AuditError::NotSealed(3)));
    let error = audit::proof::consistency(&sealed.tenant, 1, Some(4)).await.expect_err("not sealed");
    assert!(matches!(error, audit::AuditError::NotSealed(3)));
    let _sealer = sealed.sealer();
    eventually("the proof is there", || async {
        audit::proof::inclusion(&sealed.tenant, 4, None).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_comes_with_the_checkpoint_of_its_size() {
    let sealed = Sealed::with(3).await;
    let mut signed = Vec::new();
    for _ in 0..3 {
        sealed.append(4).await;
        sealed.seal().await;
        signed.push(audit::proof::newest(&sealed.tenant).await.expect("a checkpoint"));
    }
    let of_size = async |size: u64| {
        let proof = audit::proof::inclusion(&sealed.tenant, 2, Some(size)).await.expect("a proof");
        (hashes(&[proof.leaf_hash])[0], hashes(&proof.path), proof.checkpoint)
    };
    for newest in &signed {
        let (leaf, path, checkpoint) = of_size(newest.size).await;
        assert_eq!(checkpoint.as_ref(), Some(&newest.note), "size {}", newest.size);
        let root = sealed.signer.verify_own(newest.log_id, &newest.note).expect("the signer's own").root;
        assert!(tree::verify_inclusion(1, newest.size, &leaf, &path, &root));
    }
    assert_eq!(of_size(8).await.2, None, "no checkpoint of this size was signed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_log_does_not_have_is_told_apart_from_what_is_not_sealed_yet() {
    let sealed = Sealed::with(3).await;
    for is_sealed in [false, true] {
        if is_sealed {
            sealed.seal().await;
        }
        let tenant = &sealed.tenant;
        let beyond = |error: audit::AuditError| {
            assert!(matches!(error, audit::AuditError::BeyondHead { head: 3 }), "{error}");
        };
        for size in [4, u64::MAX] {
            beyond(audit::proof::inclusion(tenant, 1, Some(size)).await.expect_err("beyond"));
            beyond(audit::proof::inclusion(tenant, size, None).await.expect_err("beyond"));
            beyond(audit::proof::consistency(tenant, 1, Some(size)).await.expect_err("beyond"));
            beyond(audit::proof::consistency(tenant, size, None).await.expect_err("beyond"));
            for export in [
                Export { to: Some(size), ..Export::default() },
                Export { from: Some(size), ..Export::default() },
            ] {
                let slug = schemas::engine::TenantSlug::parse("acme").expect("a slug");
                let prepared = audit::export::prepare(tenant.clone(), &slug, export).await;
                beyond(prepared.err().expect("beyond"));
            }
        }
    }
}

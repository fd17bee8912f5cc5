//! What the sealer owes after all faults: each log is sealed to its head, the checkpoint verifies, and so do proofs.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proofs::{Checkpoint, Hash, VerifierKey, leaf_hash, tree};
use serde_json::Value;
use uuid::Uuid;

use super::check::PATIENCE;
use super::load::World;
use crate::support::dice::Dice;

/// Positions proved of each tenant, besides those that are named.
const PROVED: u64 = 5;

/// Checks a tenant whose log has come to rest, with proofs of these positions and of some by chance.
pub async fn check(world: &World, tenant: usize, events: &[Value], positions: &[u64], dice: &mut Dice) {
    let wanted = events.len() as u64;
    let Some((key, note)) = sealed_to(world, tenant, wanted).await else {
        world.tally.violation(format!("tenant {tenant}: the log of {wanted} events is not sealed"));
        return;
    };
    let violation = |what: String| world.tally.violation(format!("tenant {tenant}: {what}: {note}"));
    let key = key.trim().parse::<VerifierKey>().ok();
    let checkpoint = key.and_then(|key| Checkpoint::parse(key.verify(&note).ok()?).ok());
    let Some(checkpoint) = checkpoint else { return violation("the checkpoint does not verify".to_owned()) };
    let by_chance = (0..PROVED).map(|_| 1 + dice.below(wanted));
    for position in by_chance.chain(positions.iter().copied()) {
        let path = format!("/v1/audit/proofs/{position}?size={}", checkpoint.size);
        let proof = text(world, tenant, &path).await;
        let proof: Value = proof.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        if !holds(&proof, &checkpoint, position, &events[position as usize - 1]) {
            violation(format!("position {position} is not proved by {proof}"));
        }
    }
}

/// Whether the event stands at the position of the log that the checkpoint is of.
fn holds(proof: &Value, checkpoint: &Checkpoint, position: u64, event: &Value) -> bool {
    let decoded = |value: &Value| STANDARD.decode(value.as_str()?).ok();
    let hash = |value: &Value| -> Option<Hash> { decoded(value)?.try_into().ok() };
    let path = proof["path"].as_array().into_iter().flatten().map(hash).collect::<Option<Vec<Hash>>>();
    let (Some(entry), Some(path)) = (decoded(&proof["entry"]), path) else { return false };
    let id = event["id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    let names = id.is_some_and(|id| entry.windows(16).any(|bytes| bytes == id.as_bytes()));
    let leaf = leaf_hash(&entry);
    names && tree::verify_inclusion(position - 1, checkpoint.size, &leaf, &path, &checkpoint.root)
}

/// The log's key and its checkpoint, once that covers the position.
async fn sealed_to(world: &World, tenant: usize, position: u64) -> Option<(String, String)> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut looks = tokio::time::interval(Duration::from_millis(200));
    while tokio::time::Instant::now() < deadline {
        looks.tick().await;
        let Some(note) = text(world, tenant, "/v1/audit/checkpoint").await else { continue };
        let size = note.lines().nth(1).and_then(|size| size.parse::<u64>().ok());
        if size.is_some_and(|size| size >= position) {
            return Some((text(world, tenant, "/v1/audit/key").await?, note));
        }
    }
    None
}

/// What a path of the first gateway answers to the tenant's administrator, where it succeeds.
async fn text(world: &World, tenant: usize, path: &str) -> Option<String> {
    let request = world.client.get(format!("{}{path}", world.gateways[0]));
    let answer = request.bearer_auth(&world.tenants[tenant].token).send().await.ok()?;
    if answer.status().is_success() { answer.text().await.ok() } else { None }
}

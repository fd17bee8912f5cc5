//! A worker process: many writers over one store, each with a schedule drawn from the seed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemas::engine::{StreamName, TenantId, TenantSlug};
use store::append::NewTenant;
use store::{
    AppendError, ExpectedVersion, IdempotencyClaim, Receipt, Reservation, Secret, Store, StreamAppend,
    TenantStore,
};
use uuid::Uuid;

use super::history::{Call, Expected, Line, Orders, Outcome, monotonic};
use crate::support::dice::Dice;
use crate::support::postgres::{event, metadata};

pub const STREAMS: u64 = 6;
pub const VALUES: u64 = 6;

/// What the writers of a process remember of the streams, so that many of them expect the same version.
type Memory = Arc<Mutex<HashMap<(usize, String), u64>>>;

/// Opens the store and lets all writers work off their schedules.
pub async fn work(orders: Orders) {
    let store = Store::connect(orders.store_config()).await.expect("the store connects");
    let memory = Memory::default();
    let mut dice = Dice::new(orders.seed);
    let writers: Vec<_> = (0..orders.writers)
        .map(|writer| {
            let (store, memory, dice, orders) = (store.clone(), memory.clone(), dice.split(), orders.clone());
            tokio::spawn(write(store, memory, dice, orders, writer))
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer ends in good order");
    }
    store.shutdown().await;
}

async fn write(store: Store, memory: Memory, mut dice: Dice, orders: Orders, writer: u64) {
    for number in 0..orders.appends {
        let name = format!("{}-{writer}-{number}", orders.worker);
        let mut call = draw(&mut dice, &memory, &orders, name, number);
        let tenant = store.tenant(TenantId(orders.tenants[call.tenant]));
        let append = compose(&call);
        call.at = monotonic();
        Line::Call(call.clone()).tell();
        let Some(answer) = ask(&mut dice, &tenant, append).await else { continue };
        let at = monotonic();
        let outcome = outcome(answer);
        let seen = match outcome {
            Outcome::Done { version, .. } => Some(version),
            Outcome::Conflict { actual } => Some(actual),
            _ => None,
        };
        if let Some(version) = seen {
            remember(&memory).insert((call.tenant, call.stream), version);
        }
        Line::Return { name: call.name, at, outcome }.tell();
    }
}

fn remember(memory: &Memory) -> std::sync::MutexGuard<'_, HashMap<(usize, String), u64>> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Asks and waits, or goes away at some moment before the answer.
async fn ask(
    dice: &mut Dice,
    tenant: &TenantStore,
    append: StreamAppend,
) -> Option<Result<Receipt, AppendError>> {
    let answer = tenant.append(append);
    match dice.below(20) {
        0 => {
            let turns = dice.below(60);
            tokio::select! {
                biased;
                answer = answer => Some(answer),
                () = async { for _ in 0..turns { tokio::task::yield_now().await } } => None,
            }
        }
        1 => tokio::time::timeout(Duration::from_millis(dice.below(25)), answer).await.ok(),
        _ => Some(answer.await),
    }
}

/// The next append of a schedule. Everything is drawn from few values, so that the writers of all processes meet.
fn draw(dice: &mut Dice, memory: &Memory, orders: &Orders, name: String, number: u64) -> Call {
    // Half of the work goes to one tenant, where processes meet most.
    let tenant = if dice.below(2) == 0 { 0 } else { dice.below(orders.tenants.len() as u64) as usize };
    let stream =
        StreamName::new("crm.customer", Uuid::from_u128(u128::from(dice.below(STREAMS)))).to_string();
    let known = remember(memory).get(&(tenant, stream.clone())).copied().unwrap_or(0);
    let expected = match dice.below(10) {
        0..4 => Expected::Any,
        4..8 => Expected::Exact(known),
        8 => Expected::Exact((known + dice.below(5)).saturating_sub(2)),
        _ => Expected::NoStream,
    };
    // The ids in use move on with the schedule, and those of a while ago come back.
    let claim = (dice.below(10) < 4).then(|| {
        let id = (number / 4 + dice.below(6)).saturating_sub(dice.below(4));
        (Uuid::from_u128(u128::from(tenant as u64 * 1_000 + id)), if dice.below(6) == 0 { 2 } else { 1 })
    });
    let value = |dice: &mut Dice| format!("value-{}", dice.below(VALUES));
    let reserves = if dice.below(4) == 0 { vec![value(dice)] } else { Vec::new() };
    let releases = if dice.below(6) == 0 { vec![value(dice)] } else { Vec::new() };
    let secret = (dice.below(8) == 0).then(|| name.clone());
    let poison = dice.below(25) == 0;
    let new_tenant = (poison || dice.below(20) == 0).then(|| Uuid::from_u128(dice.wide()));
    let events = if dice.below(12) == 0 { 40 } else { 1 + dice.below(3) as usize };
    Call {
        name,
        at: 0,
        tenant,
        stream,
        expected,
        events,
        claim,
        reserves,
        releases,
        secret,
        new_tenant,
        poison,
    }
}

fn compose(call: &Call) -> StreamAppend {
    let expected = match call.expected {
        Expected::Any => ExpectedVersion::Any,
        Expected::NoStream => ExpectedVersion::NoStream,
        Expected::Exact(version) => ExpectedVersion::Exact(version),
    };
    let events = (0..call.events)
        .map(|n| event("crm.customer.renamed.v1", &format!(r#"{{"of":"{}","n":{n}}}"#, call.name)))
        .collect();
    let stream = StreamName::parse(&call.stream).expect("a stream");
    let values = |values: &[String]| -> Vec<Reservation> {
        values.iter().map(|value| Reservation { kind: "email", value: value.clone() }).collect()
    };
    let mut append = StreamAppend::new(stream, expected, events, metadata());
    append.claim = call.claim.map(|(command_id, digest)| IdempotencyClaim::new(command_id, [digest; 32]));
    append.reservations = values(&call.reserves);
    append.releases = values(&call.releases);
    append.secrets = call
        .secret
        .iter()
        .map(|value| Secret { kind: "password", value: value.clone().into_bytes().into() })
        .collect();
    append.new_tenant = call.new_tenant.map(|id| NewTenant {
        id: TenantId(id),
        slug: slug_of(id),
        // Text with a zero byte is what PostgreSQL refuses.
        name: if call.poison { "a\0b".to_owned() } else { call.name.clone() },
        tier: schemas::identity::tenant::Tier::default(),
        registration: schemas::identity::tenant::Registration::default(),
    });
    append
}

fn slug_of(id: Uuid) -> TenantSlug {
    format!("t{}", &id.simple().to_string()[..24]).parse().expect("a slug")
}

fn outcome(answer: Result<Receipt, AppendError>) -> Outcome {
    match answer {
        Ok(receipt) => Outcome::Done {
            version: receipt.version,
            log_id: receipt.log_id.0,
            first_position: receipt.first_position,
            position: receipt.position,
            count: receipt.count,
            duplicate: receipt.duplicate,
        },
        Err(AppendError::VersionConflict { actual }) => Outcome::Conflict { actual },
        Err(AppendError::CommandIdReused) => Outcome::Reused,
        Err(AppendError::Reserved { holder, .. }) => Outcome::Reserved { holder: holder.to_string() },
        Err(AppendError::Overloaded) => Outcome::Overloaded,
        Err(AppendError::Unavailable(error)) => Outcome::Unavailable(error.to_string()),
        Err(other) => Outcome::Invalid(other.to_string()),
    }
}

//! The write of a flush: one array statement, gated on the compare-and-swap of the heads, in one transaction.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::plan::{Decision, Plan};
use super::queue::Pending;

/// The payload encoding of the log: JSON in UTF-8.
pub(crate) const PAYLOAD_JSON: u8 = 1;

/// The swap of the heads and the rows gated on it. Heads are taken in tenant order; one that another process has locked
/// is skipped and goes with the next flush, so that no two flushes ever wait for each other in a circle.
const SWAP: &str = "
with wanted as (
    select * from unnest($1::uuid[], $2::uuid[], $3::int8[], $4::int8[], $5::timestamptz[])
        as w(tenant_id, log_id, old_position, new_position, recorded_at)
), locked as materialized (
    select h.tenant_id
    from heads h join wanted w on h.tenant_id = w.tenant_id and h.log_id = w.log_id and h.position = w.old_position
    order by h.tenant_id
    for update of h skip locked
), swapped as (
    update heads h set position = w.new_position, recorded_at = w.recorded_at
    from wanted w
    where h.tenant_id = w.tenant_id and h.tenant_id in (select tenant_id from locked)
    returning h.tenant_id, h.recorded_at
)";

/// Events without sealed parts. Each array that `unnest` spreads costs PostgreSQL a fifth of a microsecond a row. So what a
/// row does not need does not travel (the events of a flush share their tenant's time, and few have subject keys), and
/// arrays of fixed-width elements are read by subscript, which costs a third (measured: 10 % more appends a second).
const EVENTS: &str = ", written as (
    insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding, stream,
                        type, payload, metadata, salts, subject_keys, leaf_hash)
    select s.tenant_id, ($7::int8[])[e.n], ($8::int8[])[e.n], s.recorded_at, ($9::uuid[])[e.n], ($10::int4[])[e.n], 1,
           e.stream, e.type, e.payload, e.metadata, e.salts, '', e.leaf_hash
    from unnest($11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[])
        with ordinality as e(stream, type, payload, metadata, salts, leaf_hash, n)
    join swapped s on s.tenant_id = ($6::uuid[])[e.n]
)";

/// Events of any sort.
const EVENTS_WITH_KEYS: &str = ", written as (
    insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding, stream,
                        type, payload, metadata, salts, subject_keys, leaf_hash)
    select s.tenant_id, ($7::int8[])[e.n], ($8::int8[])[e.n], s.recorded_at, ($9::uuid[])[e.n], ($10::int4[])[e.n], 1,
           e.stream, e.type, e.payload, e.metadata, e.salts, e.subject_keys, e.leaf_hash
    from unnest($11::text[], $12::text[], $13::bytea[], $14::bytea[], $15::bytea[], $16::bytea[], $17::bytea[])
        with ordinality as e(stream, type, payload, metadata, salts, leaf_hash, subject_keys, n)
    join swapped s on s.tenant_id = ($6::uuid[])[e.n]
)";

/// What goes beside the events, where any append of the flush carries it. Secrets are changed and added in two steps,
/// because an upsert would need the right to read them.
const SIDE_WRITES: &str = ", receipted as (
    insert into receipts (tenant_id, command_id, digest, stream, version, first_position, count, recorded_at)
    select r.* from unnest($18::uuid[], $19::uuid[], $20::bytea[], $21::text[], $22::int8[], $23::int8[], $24::int4[],
                           $25::timestamptz[])
        as r(tenant_id, command_id, digest, stream, version, first_position, count, recorded_at)
    where r.tenant_id in (select tenant_id from swapped)
), released as (
    delete from reservations d using unnest($26::uuid[], $27::text[], $28::bytea[], $29::text[])
        as r(tenant_id, kind, value_hash, stream)
    where d.tenant_id = r.tenant_id and d.kind = r.kind and d.value_hash = r.value_hash and d.stream = r.stream
      and d.tenant_id in (select tenant_id from swapped)
), reserved as (
    insert into reservations (tenant_id, kind, value_hash, stream)
    select r.* from unnest($30::uuid[], $31::text[], $32::bytea[], $33::text[])
        as r(tenant_id, kind, value_hash, stream)
    where r.tenant_id in (select tenant_id from swapped)
), changed as (
    update secrets o set value = s.value
    from unnest($34::uuid[], $35::text[], $36::text[], $37::bytea[]) as s(tenant_id, stream, kind, value)
    where o.tenant_id = s.tenant_id and o.stream = s.stream and o.kind = s.kind
      and s.tenant_id in (select tenant_id from swapped)
), hidden as (
    insert into secrets (tenant_id, stream, kind, value)
    select s.* from unnest($34::uuid[], $35::text[], $36::text[], $37::bytea[]) as s(tenant_id, stream, kind, value)
    where s.tenant_id in (select tenant_id from swapped)
      and not exists (select from secrets o
                      where o.tenant_id = s.tenant_id and o.stream = s.stream and o.kind = s.kind)
), opened as (
    insert into tenants (tenant_id, slug, name, tier, registration, opened_at)
    select t.tenant_id, t.slug, t.name, t.tier, t.registration, t.opened_at
    from unnest($38::uuid[], $39::text[], $40::text[], $41::text[], $42::text[], $43::uuid[], $44::timestamptz[])
        as t(tenant_id, slug, name, tier, registration, log_id, opened_at)
    where exists (select from swapped)
), headed as (
    insert into heads (tenant_id, log_id, position, recorded_at)
    select t.tenant_id, t.log_id, 0, t.opened_at
    from unnest($38::uuid[], $43::uuid[], $44::timestamptz[]) as t(tenant_id, log_id, opened_at)
    where exists (select from swapped)
)";

const WINNERS: &str = " select tenant_id from swapped";

/// Events of one tenant and nothing beside them, which is what most flushes of a busy tenant are: no sets to join, and the
/// positions count themselves.
const ONE_TENANT: &str = "
with swapped as (
    update heads set position = $4::int8, recorded_at = $5
    where tenant_id = $1 and log_id = $2 and position = $3::int8
    returning tenant_id
)
insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding, stream, type,
                    payload, metadata, salts, subject_keys, leaf_hash)
select s.tenant_id, $3::int8 + e.n, ($6::int8[])[e.n], $5::timestamptz, ($7::uuid[])[e.n], ($8::int4[])[e.n], 1,
       e.stream, e.type, e.payload, e.metadata, e.salts, '', e.leaf_hash
from swapped s, unnest($9::text[], $10::text[], $11::bytea[], $12::bytea[], $13::bytea[], $14::bytea[])
    with ordinality as e(stream, type, payload, metadata, salts, leaf_hash, n)";

/// The same for one event of one tenant and nothing beside it, which is what a lone writer sends: without arrays it costs
/// PostgreSQL half as much.
const ONE_EVENT: &str = "
with swapped as (
    update heads set position = $3::int8, recorded_at = $5
    where tenant_id = $1 and log_id = $2 and position = $3::int8 - 1
    returning tenant_id
)
insert into events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding, stream, type,
                    payload, metadata, salts, subject_keys, leaf_hash)
select $1::uuid, $3::int8, $4::int8, $5::timestamptz, $6::uuid, $7::int4, 1, $8::text, $9::text, $10::bytea,
       $11::bytea, $12::bytea, $13::bytea, $14::bytea
from swapped";

/// A connection of the appender role with the write statements prepared.
pub(super) struct Writer {
    client: Client,
    one_event: Statement,
    one_tenant: Statement,
    events_only: Statement,
    everything: Statement,
    set_tenants: Statement,
    /// The tenants that the connection may write to now: those of the last flush, in the form of the setting. The
    /// connection is this lane's alone, so a session setting cannot reach anybody else's statements.
    tenants: Mutex<String>,
}

/// How a write ended.
pub(super) enum Written {
    /// Committed for these tenants; the others lost their swap and nothing of them was written.
    Committed(HashSet<TenantId>),
    /// PostgreSQL refused the data; everything was rolled back.
    Refused(tokio_postgres::Error),
    /// The connection broke: the transaction may have committed.
    Unknown(tokio_postgres::Error),
}

impl Writer {
    pub(super) async fn prepare(client: Client) -> Result<Self, tokio_postgres::Error> {
        let one_event = client.prepare(ONE_EVENT).await?;
        let one_tenant = client.prepare(ONE_TENANT).await?;
        let events_only = client.prepare(&format!("{SWAP}{EVENTS}{WINNERS}")).await?;
        let everything = client.prepare(&format!("{SWAP}{EVENTS_WITH_KEYS}{SIDE_WRITES}{WINNERS}")).await?;
        let set_tenants = client.prepare("select set_config('annals.tenants', $1, false)").await?;
        Ok(Self {
            client,
            one_event,
            one_tenant,
            events_only,
            everything,
            set_tenants,
            tenants: Mutex::default(),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Writes the plan's rows: one statement, so one transaction and one answer. When the flush is for other tenants than
    /// the one before, their setting goes ahead of it in the same volley.
    pub(super) async fn write(&self, batch: &[Pending], plan: &Plan) -> Written {
        let heads = Heads::of(plan);
        let events = Events::of(batch, plan);
        let sides = Sides::of(batch, plan);
        let mut tenants: Vec<&Uuid> = heads.tenants.iter().chain(&sides.opened.tenants).collect();
        tenants.sort_unstable();
        let tenants = tenants.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let changed = std::mem::replace(&mut *lock(&self.tenants), tenants.clone()) != tenants;
        let set = async {
            if changed {
                self.client.query_one(&self.set_tenants, &[&tenants]).await?;
            }
            Ok(())
        };
        // Polled in this order, so sent in this order.
        match futures::join!(set, self.write_rows(&heads, &events, &sides)) {
            (Ok(()), Ok(winners)) => Written::Committed(winners),
            (_, Err(error)) if error.code().is_some() => Written::Refused(error),
            (Err(error), _) | (_, Err(error)) => Written::Unknown(error),
        }
    }

    async fn write_rows(
        &self,
        heads: &Heads,
        events: &Events<'_>,
        sides: &Sides<'_>,
    ) -> Result<HashSet<TenantId>, tokio_postgres::Error> {
        if events.ids.len() == 1 && sides.is_empty() {
            let parameters: [&(dyn ToSql + Sync); 14] = [
                &heads.tenants[0],
                &heads.logs[0],
                &events.positions[0],
                &events.versions[0],
                &heads.recorded_at[0],
                &events.ids[0],
                &events.schema_versions[0],
                &events.streams[0],
                &events.types[0],
                &events.payloads[0],
                &events.metadata[0],
                &events.salts[0],
                &events.subject_keys[0],
                &events.leaf_hashes[0],
            ];
            let written = self.client.execute(&self.one_event, &parameters).await?;
            return Ok(heads.winners(written));
        }
        let keyless = events.subject_keys.iter().all(|keys| keys.is_empty());
        if heads.tenants.len() == 1 && sides.is_empty() && keyless {
            let parameters: [&(dyn ToSql + Sync); 14] = [
                &heads.tenants[0],
                &heads.logs[0],
                &heads.old[0],
                &heads.new[0],
                &heads.recorded_at[0],
                &events.versions,
                &events.ids,
                &events.schema_versions,
                &events.streams,
                &events.types,
                &events.payloads,
                &events.metadata,
                &events.salts,
                &events.leaf_hashes,
            ];
            let written = self.client.execute(&self.one_tenant, &parameters).await?;
            return Ok(heads.winners(written));
        }
        let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![
            &heads.tenants,
            &heads.logs,
            &heads.old,
            &heads.new,
            &heads.recorded_at,
            &events.tenants,
            &events.positions,
            &events.versions,
            &events.ids,
            &events.schema_versions,
            &events.streams,
            &events.types,
            &events.payloads,
            &events.metadata,
            &events.salts,
            &events.leaf_hashes,
        ];
        let statement = if sides.is_empty() && keyless {
            &self.events_only
        } else {
            parameters.push(&events.subject_keys);
            parameters.extend(sides.parameters());
            &self.everything
        };
        let rows = self.client.query(statement, &parameters).await?;
        Ok(rows.iter().map(|row| TenantId(row.get(0))).collect())
    }

    /// Waits until no transaction of a lost connection holds the tenant's head any more: what it wrote is visible then,
    /// or never will be.
    pub(super) async fn settle(&self, tenant: TenantId) -> Result<(), tokio_postgres::Error> {
        *lock(&self.tenants) = tenant.to_string();
        self.client
            .batch_execute(&format!(
                "select set_config('annals.tenants', '{tenant}', false);
                 select from heads where tenant_id = '{tenant}' for update"
            ))
            .await
    }
}

fn lock(tenants: &Mutex<String>) -> MutexGuard<'_, String> {
    // Nothing panics while holding it.
    tenants.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Heads {
    tenants: Vec<Uuid>,
    logs: Vec<Uuid>,
    old: Vec<i64>,
    new: Vec<i64>,
    recorded_at: Vec<DateTime<Utc>>,
}

impl Heads {
    /// The tenant of a flush for one, where its rows were written.
    fn winners(&self, written: u64) -> HashSet<TenantId> {
        (written > 0).then(|| TenantId(self.tenants[0])).into_iter().collect()
    }

    fn of(plan: &Plan) -> Self {
        let mut heads = Self::default();
        for (tenant, (before, after)) in &plan.moves {
            heads.tenants.push(tenant.0);
            heads.logs.push(before.log_id.0);
            heads.old.push(before.position as i64);
            heads.new.push(after.position as i64);
            heads.recorded_at.push(after.recorded_at);
        }
        heads
    }
}

#[derive(Default)]
struct Events<'a> {
    tenants: Vec<Uuid>,
    positions: Vec<i64>,
    versions: Vec<i64>,
    ids: Vec<Uuid>,
    schema_versions: Vec<i32>,
    streams: Vec<&'a str>,
    types: Vec<&'a str>,
    payloads: Vec<&'a [u8]>,
    metadata: Vec<&'a [u8]>,
    salts: Vec<&'a [u8]>,
    subject_keys: Vec<&'a [u8]>,
    leaf_hashes: Vec<&'a [u8]>,
}

impl<'a> Events<'a> {
    fn of(batch: &'a [Pending], plan: &'a Plan) -> Self {
        let mut events = Self::default();
        for row in &plan.rows {
            let pending = &batch[row.pending];
            let event = &pending.append.events[row.event];
            events.tenants.push(row.tenant.0);
            events.positions.push(row.position as i64);
            events.versions.push(row.version as i64);
            events.ids.push(row.event_id);
            events.schema_versions.push(row.schema_version as i32);
            events.streams.push(pending.append.stream.as_str());
            events.types.push(event.event_type.as_str());
            events.payloads.push(&event.payload);
            events.metadata.push(&pending.metadata);
            events.salts.push(&row.salts);
            events.subject_keys.push(&row.subject_keys);
            events.leaf_hashes.push(&row.leaf_hash);
        }
        events
    }
}

#[derive(Default)]
struct Sides<'a> {
    receipts: Receipts<'a>,
    released: Reserved<'a>,
    reserved: Reserved<'a>,
    secrets: Secrets<'a>,
    opened: Opened<'a>,
}

#[derive(Default)]
struct Receipts<'a> {
    tenants: Vec<Uuid>,
    commands: Vec<Uuid>,
    digests: Vec<&'a [u8]>,
    streams: Vec<&'a str>,
    versions: Vec<i64>,
    first_positions: Vec<i64>,
    counts: Vec<i32>,
    recorded_at: Vec<DateTime<Utc>>,
}

#[derive(Default)]
struct Reserved<'a> {
    tenants: Vec<Uuid>,
    kinds: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
    streams: Vec<&'a str>,
}

#[derive(Default)]
struct Secrets<'a> {
    tenants: Vec<Uuid>,
    streams: Vec<&'a str>,
    kinds: Vec<&'a str>,
    values: Vec<&'a [u8]>,
}

#[derive(Default)]
struct Opened<'a> {
    tenants: Vec<Uuid>,
    slugs: Vec<&'a str>,
    names: Vec<&'a str>,
    tiers: Vec<&'a str>,
    registrations: Vec<&'a str>,
    logs: Vec<Uuid>,
    times: Vec<DateTime<Utc>>,
}

impl<'a> Sides<'a> {
    fn of(batch: &'a [Pending], plan: &'a Plan) -> Self {
        let mut sides = Self::default();
        for (index, (pending, decision)) in batch.iter().zip(&plan.decisions).enumerate() {
            let Decision::Write(receipt) = decision else { continue };
            let append = &pending.append;
            let (tenant, stream) = (pending.tenant.0, append.stream.as_str());
            let recorded_at = plan.moves[&pending.tenant].1.recorded_at;
            if let Some(claim) = &append.claim {
                sides.receipts.tenants.push(tenant);
                sides.receipts.commands.push(claim.command_id);
                sides.receipts.digests.push(&claim.digest);
                sides.receipts.streams.push(stream);
                sides.receipts.versions.push(receipt.version as i64);
                sides.receipts.first_positions.push(receipt.first_position as i64);
                sides.receipts.counts.push(receipt.count as i32);
                sides.receipts.recorded_at.push(recorded_at);
            }
            for (keys, target) in [
                (&plan.releases[index], &mut sides.released),
                (&plan.reservations[index], &mut sides.reserved),
            ] {
                for (kind, hash) in keys {
                    target.tenants.push(tenant);
                    target.kinds.push(kind);
                    target.hashes.push(hash);
                    target.streams.push(stream);
                }
            }
            for secret in &append.secrets {
                sides.secrets.tenants.push(tenant);
                sides.secrets.streams.push(stream);
                sides.secrets.kinds.push(secret.kind);
                sides.secrets.values.push(&secret.value);
            }
            if let Some(opens) = &append.opens {
                sides.opened.tenants.push(opens.id.0);
                sides.opened.slugs.push(opens.slug.as_str());
                sides.opened.names.push(&opens.name);
                sides.opened.tiers.push(opens.tier.as_str());
                sides.opened.registrations.push(opens.registration.as_str());
                sides.opened.logs.push(schemas::engine::ids::random_id());
                sides.opened.times.push(recorded_at);
            }
        }
        sides
    }

    fn is_empty(&self) -> bool {
        self.receipts.tenants.is_empty()
            && self.released.tenants.is_empty()
            && self.reserved.tenants.is_empty()
            && self.secrets.tenants.is_empty()
            && self.opened.tenants.is_empty()
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 27] {
        let Self { receipts, released, reserved, secrets, opened } = self;
        [
            &receipts.tenants,
            &receipts.commands,
            &receipts.digests,
            &receipts.streams,
            &receipts.versions,
            &receipts.first_positions,
            &receipts.counts,
            &receipts.recorded_at,
            &released.tenants,
            &released.kinds,
            &released.hashes,
            &released.streams,
            &reserved.tenants,
            &reserved.kinds,
            &reserved.hashes,
            &reserved.streams,
            &secrets.tenants,
            &secrets.streams,
            &secrets.kinds,
            &secrets.values,
            &opened.tenants,
            &opened.slugs,
            &opened.names,
            &opened.tiers,
            &opened.registrations,
            &opened.logs,
            &opened.times,
        ]
    }
}

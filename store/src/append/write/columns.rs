//! A flush as columns, one array for each column of each table that it writes.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

use super::super::NewStanding;
use super::super::plan::{Decision, Plan};
use super::super::queue::Pending;

#[derive(Default)]
pub(super) struct Heads {
    pub(super) tenants: Vec<Uuid>,
    pub(super) logs: Vec<Uuid>,
    pub(super) old: Vec<i64>,
    pub(super) new: Vec<i64>,
    pub(super) recorded_at: Vec<DateTime<Utc>>,
    pub(super) old_fences: Vec<Uuid>,
    pub(super) new_fences: Vec<Uuid>,
}

impl Heads {
    /// The tenant of a flush for one, where its rows were written.
    pub(super) fn winners(&self, written: u64) -> HashSet<TenantId> {
        (written > 0).then(|| TenantId(self.tenants[0])).into_iter().collect()
    }

    pub(super) fn of(plan: &Plan) -> Self {
        let mut heads = Self::default();
        for (tenant, (before, after)) in &plan.moves {
            heads.tenants.push(tenant.0);
            heads.logs.push(before.log_id.0);
            heads.old.push(before.position as i64);
            heads.new.push(after.position as i64);
            heads.recorded_at.push(after.recorded_at);
            heads.old_fences.push(before.fence);
            heads.new_fences.push(after.fence);
        }
        heads
    }
}

#[derive(Default)]
pub(super) struct Events<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) positions: Vec<i64>,
    pub(super) versions: Vec<i64>,
    pub(super) ids: Vec<Uuid>,
    pub(super) schema_versions: Vec<i32>,
    pub(super) streams: Vec<&'a str>,
    pub(super) types: Vec<&'a str>,
    pub(super) payloads: Vec<&'a [u8]>,
    pub(super) metadata: Vec<&'a [u8]>,
    pub(super) salts: Vec<&'a [u8]>,
    pub(super) subject_keys: Vec<&'a [u8]>,
    pub(super) leaf_hashes: Vec<&'a [u8]>,
}

impl<'a> Events<'a> {
    pub(super) fn of(batch: &'a [Pending], plan: &'a Plan) -> Self {
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
pub(super) struct Sides<'a> {
    pub(super) receipts: Receipts<'a>,
    pub(super) released: Reserved<'a>,
    pub(super) reserved: Reserved<'a>,
    pub(super) secrets: Secrets<'a>,
    pub(super) opened: Opened<'a>,
    pub(super) standings: Standings,
}

#[derive(Default)]
pub(super) struct Receipts<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) keys: Vec<Uuid>,
    pub(super) digests: Vec<&'a [u8]>,
    pub(super) streams: Vec<&'a str>,
    pub(super) versions: Vec<i64>,
    pub(super) first_positions: Vec<i64>,
    pub(super) counts: Vec<i32>,
    pub(super) recorded_at: Vec<DateTime<Utc>>,
}

#[derive(Default)]
pub(super) struct Reserved<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) kinds: Vec<&'a str>,
    pub(super) hashes: Vec<&'a [u8]>,
    pub(super) streams: Vec<&'a str>,
}

#[derive(Default)]
pub(super) struct Secrets<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) streams: Vec<&'a str>,
    pub(super) kinds: Vec<&'a str>,
    pub(super) values: Vec<&'a [u8]>,
}

#[derive(Default)]
pub(super) struct Opened<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) slugs: Vec<&'a str>,
    pub(super) names: Vec<&'a str>,
    pub(super) tiers: Vec<&'a str>,
    pub(super) registrations: Vec<&'a str>,
    pub(super) logs: Vec<Uuid>,
    pub(super) times: Vec<DateTime<Utc>>,
    /// The tenants whose log says so.
    pub(super) openers: Vec<Uuid>,
}

#[derive(Default)]
pub(super) struct Standings {
    pub(super) tenants: Vec<Uuid>,
    pub(super) suspended: Vec<bool>,
    /// The tenants whose log says so.
    pub(super) sayers: Vec<Uuid>,
}

impl Standings {
    /// The last one of a flush is what remains.
    fn push(&mut self, standing: NewStanding, sayer: Uuid) {
        if let Some(known) = self.tenants.iter().position(|tenant| *tenant == standing.tenant.0) {
            self.suspended[known] = standing.suspended;
            return;
        }
        self.tenants.push(standing.tenant.0);
        self.suspended.push(standing.suspended);
        self.sayers.push(sayer);
    }
}

impl<'a> Sides<'a> {
    pub(super) fn of(batch: &'a [Pending], plan: &'a Plan) -> Self {
        let mut sides = Self::default();
        let mut secrets: HashMap<(Uuid, &str, &str), usize> = HashMap::new();
        for (index, (pending, decision)) in batch.iter().zip(&plan.decisions).enumerate() {
            let Decision::Write(receipt) = decision else { continue };
            let append = &pending.append;
            let (tenant, stream) = (pending.tenant.0, append.stream.as_str());
            // A command without effect leaves the log as it was, and so the time of its last event.
            let recorded_at =
                if receipt.count == 0 { plan.planned_at } else { plan.moves[&pending.tenant].1.recorded_at };
            if let Some(claim) = &append.claim {
                sides.receipts.tenants.push(tenant);
                sides.receipts.keys.push(claim.key);
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
                // The last one of a flush is what remains.
                let known = secrets.insert((tenant, stream, secret.kind), sides.secrets.tenants.len());
                if let Some(known) = known {
                    secrets.insert((tenant, stream, secret.kind), known);
                    sides.secrets.values[known] = &secret.value;
                    continue;
                }
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
                sides.opened.openers.push(tenant);
            }
            if let Some(standing) = append.standing {
                sides.standings.push(standing, tenant);
            }
        }
        sides
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receipts.tenants.is_empty()
            && self.released.tenants.is_empty()
            && self.reserved.tenants.is_empty()
            && self.secrets.tenants.is_empty()
            && self.opened.tenants.is_empty()
            && self.standings.tenants.is_empty()
    }

    pub(super) fn parameters(&self) -> [&(dyn ToSql + Sync); 31] {
        let Self { receipts, released, reserved, secrets, opened, standings } = self;
        [
            &receipts.tenants,
            &receipts.keys,
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
            &opened.openers,
            &standings.tenants,
            &standings.suspended,
            &standings.sayers,
        ]
    }
}

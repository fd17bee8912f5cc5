//! A flush as columns: one array for each column of each table that it writes, and the parameters by their names.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use schemas::engine::TenantId;
use uuid::Uuid;

use super::super::pending::PendingAppend;
use super::super::plan::{Decision, Plan};
use super::super::request::TenantStatusChange;

/// The rows of a flush.
pub(super) struct Flush<'a> {
    pub(super) heads: Heads,
    pub(super) events: Events<'a>,
    pub(super) side_writes: SideWrites<'a>,
}

impl<'a> Flush<'a> {
    pub(super) fn of(batch: &'a [PendingAppend], plan: &'a Plan) -> Self {
        Self {
            heads: Heads::of(plan),
            events: Events::of(batch, plan),
            side_writes: SideWrites::of(batch, plan),
        }
    }

    /// The tenants that the flush writes to.
    pub(super) fn tenants(&self) -> Vec<Uuid> {
        let SideWrites { provisioned, tenant_statuses, .. } = &self.side_writes;
        let all = [&self.heads.tenants, &provisioned.tenants, &tenant_statuses.tenants];
        all.into_iter().flatten().copied().collect()
    }

    /// Whether no event has personal data.
    pub(super) fn is_keyless(&self) -> bool {
        self.events.subject_keys.iter().all(|keys| keys.is_empty())
    }
}

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
    /// For a flush of one tenant: that tenant, if its rows were written.
    pub(super) fn swapped(&self, written: u64) -> HashSet<TenantId> {
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
    pub(super) fn of(batch: &'a [PendingAppend], plan: &'a Plan) -> Self {
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
pub(super) struct SideWrites<'a> {
    pub(super) receipts: Receipts<'a>,
    pub(super) released: Reserved<'a>,
    pub(super) reserved: Reserved<'a>,
    pub(super) secrets: Secrets<'a>,
    pub(super) provisioned: ProvisionedTenants<'a>,
    pub(super) tenant_statuses: TenantStatuses,
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
pub(super) struct ProvisionedTenants<'a> {
    pub(super) tenants: Vec<Uuid>,
    pub(super) slugs: Vec<&'a str>,
    pub(super) names: Vec<&'a str>,
    pub(super) tiers: Vec<&'a str>,
    pub(super) registrations: Vec<&'a str>,
    pub(super) logs: Vec<Uuid>,
    pub(super) times: Vec<DateTime<Utc>>,
    /// The tenants in whose log the registration is recorded.
    pub(super) source_tenants: Vec<Uuid>,
}

#[derive(Default)]
pub(super) struct TenantStatuses {
    pub(super) tenants: Vec<Uuid>,
    pub(super) suspended: Vec<bool>,
    /// The tenants in whose log the status change is recorded.
    pub(super) source_tenants: Vec<Uuid>,
}

impl TenantStatuses {
    /// Adds a status change. A later one of the same flush overwrites it.
    fn push(&mut self, tenant_status: TenantStatusChange, source_tenant: Uuid) {
        if let Some(known) = self.tenants.iter().position(|tenant| *tenant == tenant_status.tenant.0) {
            self.suspended[known] = tenant_status.suspended;
            return;
        }
        self.tenants.push(tenant_status.tenant.0);
        self.suspended.push(tenant_status.suspended);
        self.source_tenants.push(source_tenant);
    }
}

impl<'a> SideWrites<'a> {
    pub(super) fn of(batch: &'a [PendingAppend], plan: &'a Plan) -> Self {
        let mut side_writes = Self::default();
        let mut secrets: HashMap<(Uuid, &str, &str), usize> = HashMap::new();
        for (index, (pending, decision)) in batch.iter().zip(&plan.decisions).enumerate() {
            let Decision::Write(receipt) = decision else { continue };
            let append = &pending.append;
            let (tenant, stream) = (pending.tenant.0, append.stream.as_str());
            // A command without effect does not change the time of the head.
            let recorded_at =
                if receipt.count == 0 { plan.planned_at } else { plan.moves[&pending.tenant].1.recorded_at };
            if let Some(claim) = &append.claim {
                side_writes.receipts.tenants.push(tenant);
                side_writes.receipts.keys.push(claim.key);
                side_writes.receipts.digests.push(&claim.digest);
                side_writes.receipts.streams.push(stream);
                side_writes.receipts.versions.push(receipt.version as i64);
                side_writes.receipts.first_positions.push(receipt.first_position as i64);
                side_writes.receipts.counts.push(receipt.count as i32);
                side_writes.receipts.recorded_at.push(recorded_at);
            }
            for (keys, target) in [
                (&plan.releases[index], &mut side_writes.released),
                (&plan.reservations[index], &mut side_writes.reserved),
            ] {
                for (kind, hash) in keys {
                    target.tenants.push(tenant);
                    target.kinds.push(kind);
                    target.hashes.push(hash);
                    target.streams.push(stream);
                }
            }
            for secret in &append.secrets {
                // A later secret of the same flush overwrites an earlier one.
                let known = secrets.insert((tenant, stream, secret.kind), side_writes.secrets.tenants.len());
                if let Some(known) = known {
                    secrets.insert((tenant, stream, secret.kind), known);
                    side_writes.secrets.values[known] = &secret.value;
                    continue;
                }
                side_writes.secrets.tenants.push(tenant);
                side_writes.secrets.streams.push(stream);
                side_writes.secrets.kinds.push(secret.kind);
                side_writes.secrets.values.push(&secret.value);
            }
            if let Some(new_tenant) = &append.new_tenant {
                side_writes.provisioned.tenants.push(new_tenant.id.0);
                side_writes.provisioned.slugs.push(new_tenant.slug.as_str());
                side_writes.provisioned.names.push(&new_tenant.name);
                side_writes.provisioned.tiers.push(new_tenant.tier.as_str());
                side_writes.provisioned.registrations.push(new_tenant.registration.as_str());
                side_writes.provisioned.logs.push(schemas::engine::ids::random_id());
                side_writes.provisioned.times.push(recorded_at);
                side_writes.provisioned.source_tenants.push(tenant);
            }
            if let Some(tenant_status) = append.tenant_status {
                side_writes.tenant_statuses.push(tenant_status, tenant);
            }
        }
        side_writes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.receipts.tenants.is_empty()
            && self.released.tenants.is_empty()
            && self.reserved.tenants.is_empty()
            && self.secrets.tenants.is_empty()
            && self.provisioned.tenants.is_empty()
            && self.tenant_statuses.tenants.is_empty()
    }
}

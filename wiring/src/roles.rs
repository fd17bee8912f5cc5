//! The table of roles: what each one needs, and what starts it.

use clap::ValueEnum;
use clap::builder::PossibleValue;
use futures::FutureExt;
use futures::future::BoxFuture;
use settings::{RequiredSettings, Settings};
use store::Workload;

use super::starting::Starting;
use super::workers;

/// A role that a process can play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessRole {
    /// Serves the API.
    Gateway,
    /// Publishes committed events on JetStream.
    Relay,
    /// Keeps the read models.
    Projections,
    /// Turns events into commands.
    Sagas,
    /// Extends the Merkle logs and signs checkpoints.
    Sealer,
    /// Delivers events to endpoints of tenants.
    Webhooks,
}

/// What a role needs, and what starts it.
pub(crate) struct RoleEntry {
    pub role: ProcessRole,
    /// Its name on the command line.
    name: &'static str,
    /// Its description on the command line.
    about: &'static str,
    /// The roles of PostgreSQL that it logs in as. Every process needs `annals_relay`, because it compares the logs
    /// with JetStream at its start.
    logins: &'static [&'static str],
    requires: RequiredSettings,
    /// Whether its process needs a connection to NATS.
    needs_nats: bool,
    /// Its work that processes share by tenant.
    pub workload: Option<Workload>,
    pub start: Start,
}

/// What starts a role.
pub(crate) enum Start {
    /// Spawns its workers.
    Workers(fn(&mut Starting)),
    /// Does what clients must not see undone, then serves its listeners.
    Listeners(for<'a> fn(&'a mut Starting) -> BoxFuture<'a, anyhow::Result<()>>),
}

/// The logins of a role that reads and appends.
const ALL_BUT_SEALER: &[&str] = &[
    "annals_worker",
    "annals_relay",
    "annals_tenant",
    "annals_projector",
    "annals_appender",
    "annals_lookup",
];
/// The logins of a role that reads events and keeps its own tables.
const READER: &[&str] = &["annals_worker", "annals_relay", "annals_tenant", "annals_projector"];

const NOTHING: RequiredSettings =
    RequiredSettings { tokens: false, checkpoints: false, personal_data: false };
const PERSONAL_DATA: RequiredSettings = RequiredSettings { personal_data: true, ..NOTHING };

/// Every role. They start from the last to the first: the gateway serves when the others work.
pub(crate) static ROLES: [RoleEntry; 6] = [
    RoleEntry {
        role: ProcessRole::Gateway,
        name: "gateway",
        about: "The public and the admin listener",
        logins: ALL_BUT_SEALER,
        requires: RequiredSettings { tokens: true, ..PERSONAL_DATA },
        needs_nats: false,
        workload: None,
        start: Start::Listeners(|process| workers::start_gateway(process).boxed()),
    },
    RoleEntry {
        role: ProcessRole::Relay,
        name: "relay",
        about: "Publishes committed events on JetStream",
        logins: &["annals_worker", "annals_relay"],
        requires: NOTHING,
        needs_nats: true,
        workload: Some(Workload::Relay),
        start: Start::Workers(workers::start_relay),
    },
    RoleEntry {
        role: ProcessRole::Projections,
        name: "projections",
        about: "Keeps the read models",
        logins: READER,
        requires: PERSONAL_DATA,
        needs_nats: true,
        workload: Some(Workload::Projections),
        start: Start::Workers(workers::start_projections),
    },
    RoleEntry {
        role: ProcessRole::Sagas,
        name: "sagas",
        about: "Turns events into commands",
        logins: ALL_BUT_SEALER,
        requires: PERSONAL_DATA,
        needs_nats: true,
        workload: Some(Workload::Sagas),
        start: Start::Workers(workers::start_sagas),
    },
    RoleEntry {
        role: ProcessRole::Sealer,
        name: "sealer",
        about: "Extends the Merkle logs and signs checkpoints",
        logins: &["annals_worker", "annals_relay", "annals_sealer"],
        requires: RequiredSettings { checkpoints: true, ..NOTHING },
        needs_nats: true,
        workload: Some(Workload::Sealer),
        start: Start::Workers(workers::start_sealer),
    },
    RoleEntry {
        role: ProcessRole::Webhooks,
        name: "webhooks",
        about: "Delivers events to tenants' endpoints",
        logins: READER,
        requires: PERSONAL_DATA,
        needs_nats: false,
        workload: Some(Workload::Webhooks),
        start: Start::Workers(workers::start_webhooks),
    },
];

impl ProcessRole {
    /// Every role.
    pub const ALL: [Self; 6] =
        [Self::Gateway, Self::Relay, Self::Projections, Self::Sagas, Self::Sealer, Self::Webhooks];

    /// The settings that a process with these roles needs.
    pub fn required_settings(roles: &[Self]) -> RequiredSettings {
        entries(roles).fold(NOTHING, |required, entry| required.union(entry.requires))
    }

    /// The roles of PostgreSQL that a process with these roles logs in as.
    pub(crate) fn logins(roles: &[Self]) -> impl Iterator<Item = &'static str> {
        entries(roles).flat_map(|entry| entry.logins).copied()
    }

    /// Whether a process with these roles needs a connection to NATS.
    pub(crate) fn need_nats(roles: &[Self]) -> bool {
        entries(roles).any(|entry| entry.needs_nats)
    }

    /// The names of the roles, for a log line.
    pub fn list(roles: &[Self]) -> String {
        roles.iter().map(|role| role.entry().name).collect::<Vec<_>>().join(",")
    }

    fn entry(self) -> &'static RoleEntry {
        ROLES.iter().find(|entry| entry.role == self).expect("the table has every role")
    }
}

/// The entries of these roles, in the order of the table.
pub(crate) fn entries(roles: &[ProcessRole]) -> impl DoubleEndedIterator<Item = &'static RoleEntry> {
    ROLES.iter().filter(|entry| roles.contains(&entry.role))
}

impl ValueEnum for ProcessRole {
    fn value_variants<'a>() -> &'a [Self] {
        &Self::ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let entry = self.entry();
        Some(PossibleValue::new(entry.name).help(entry.about))
    }
}

/// Maximum connections to PostgreSQL of a process with these roles.
pub fn connections_max(settings: &Settings, roles: &[ProcessRole]) -> usize {
    let (pool, lanes) = (settings.database.pool_size, settings.database.append_workers);
    let limits = store::connection_limits(pool, lanes).into_iter();
    let used = limits.filter(|(login, _)| ProcessRole::logins(roles).any(|used| used == *login));
    used.map(|(_, limit)| limit).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_every_role_in_order() {
        assert_eq!(ROLES.each_ref().map(|entry| entry.role), ProcessRole::ALL);
        assert_eq!(ProcessRole::required_settings(&ProcessRole::ALL), RequiredSettings::ALL);
        assert_eq!(ProcessRole::required_settings(&[ProcessRole::Relay]), RequiredSettings::default());
        assert_eq!(ProcessRole::list(&[ProcessRole::Sagas, ProcessRole::Relay]), "sagas,relay");
    }
}

//! The deployment under test: two processes for each role, PostgreSQL, nats-server, and the faults done to them.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use nix::sys::signal::Signal;
use schemas::engine::{StreamName, TenantId, TenantSlug, ids};
use store::{DeadLetterStatus, ExpectedVersion, Store, StreamAppend};

use crate::support::deployment::{Deployment, Process};
use crate::support::dice::Dice;
use crate::support::eventually;
use crate::support::key_stores::KeyStoreKind;
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{event, metadata};
use crate::support::postgres_server::{DATABASE, PostgresServer};

/// The role sagas carries out erasures.
pub const ROLES: [&str; 5] = ["gateway", "relay", "projections", "sagas", "sealer"];
const COPIES: usize = 2;

/// A fault, with everything that chance decides about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of a process, which is started again.
    Kill { process: usize },
    /// SIGSTOP of a process for a while.
    Freeze { process: usize, time: Duration },
    /// An immediate stop of PostgreSQL and, a while later, a start with recovery.
    PostgresRestart { down: Duration },
    /// SIGKILL of nats-server and, a while later, a start on the same data.
    NatsRestart { down: Duration },
    /// The same, but the data are gone.
    NatsWipe { down: Duration },
    /// All messages of the stream are removed.
    StreamPurge,
    /// One message of the stream is removed: at this place, counted round.
    MessageDelete { place: u64 },
    /// Everything that the stream holds of one tenant's users is removed.
    SubjectPurge { tenant: usize },
    /// Every connection to PostgreSQL is cut.
    Cut,
    /// The same, and for a while there are no others to be had.
    OutOfConnections { time: Duration },
    /// An event that no read model can take, until an operator discards it.
    Poison { tenant: usize },
}

impl Fault {
    /// One fault of each kind, in the order of chance. Where there is time, some processes stand still for longer than
    /// PostgreSQL suffers an idle transaction.
    pub fn round(dice: &mut Dice, long: bool) -> Vec<Self> {
        let mut round = Vec::new();
        let while_ =
            |dice: &mut Dice, least: u64, most: u64| Duration::from_millis(least + dice.below(most - least));
        for role in 0..ROLES.len() {
            let process = role * COPIES + dice.below(COPIES as u64) as usize;
            round.push(Self::Kill { process });
            let process = role * COPIES + dice.below(COPIES as u64) as usize;
            let most = if long && dice.below(8) == 0 { 14_000 } else { 2_000 };
            round.push(Self::Freeze { process, time: while_(dice, 300, most) });
        }
        round.push(Self::PostgresRestart { down: while_(dice, 0, 500) });
        round.push(Self::NatsRestart { down: while_(dice, 0, 500) });
        round.push(Self::NatsWipe { down: while_(dice, 0, 500) });
        round.push(Self::StreamPurge);
        round.push(Self::MessageDelete { place: dice.next() });
        round.push(Self::SubjectPurge { tenant: dice.below(super::TENANTS as u64) as usize });
        round.push(Self::Cut);
        round.push(Self::OutOfConnections { time: while_(dice, 300, 1_500) });
        round.push(Self::Poison { tenant: dice.below(super::TENANTS as u64) as usize });
        for index in (1..round.len()).rev() {
            round.swap(index, dice.below(index as u64 + 1) as usize);
        }
        round
    }

    /// The kind, for figures.
    pub fn kind(&self) -> String {
        match self {
            Self::Kill { process } => format!("SIGKILL of {}", ROLES[process / COPIES]),
            Self::Freeze { process, .. } => format!("SIGSTOP of {}", ROLES[process / COPIES]),
            Self::PostgresRestart { .. } => "PostgreSQL restart".to_owned(),
            Self::NatsRestart { .. } => "nats-server restart".to_owned(),
            Self::NatsWipe { .. } => "nats-server wiped".to_owned(),
            Self::StreamPurge => "stream purged".to_owned(),
            Self::MessageDelete { .. } => "message deleted".to_owned(),
            Self::SubjectPurge { .. } => "subject purged".to_owned(),
            Self::Cut => "connections cut".to_owned(),
            Self::OutOfConnections { .. } => "out of connections".to_owned(),
            Self::Poison { .. } => "poison event".to_owned(),
        }
    }
}

pub struct Site {
    pub postgres: PostgresServer,
    pub nats: NatsServer,
    pub deployment: Deployment,
    pub processes: Vec<Process>,
    /// Stands for an operator.
    store: Store,
    /// The streams of the poison events.
    pub poisons: Vec<StreamName>,
}

impl Site {
    pub async fn start(keys: KeyStoreKind) -> Self {
        let (postgres, nats) = (PostgresServer::start(&[]).await, NatsServer::start().await);
        let deployment = Deployment::with_keys(postgres.port(), &nats.url(), keys).await;
        let processes: Vec<Process> =
            ROLES.iter().flat_map(|role| (0..COPIES).map(|_| deployment.serve(role))).collect();
        for process in &processes {
            process.started().await;
        }
        let store = deployment.store().await;
        Self { postgres, nats, deployment, processes, store, poisons: Vec::new() }
    }

    /// Does it, and undoes it.
    pub async fn suffer(&mut self, fault: &Fault, tenants: &[String]) {
        match fault {
            Fault::Kill { process } => {
                self.processes[*process].kill();
                self.processes[*process].spawn();
            }
            Fault::Freeze { process, time } => {
                self.processes[*process].signal(Signal::SIGSTOP);
                pass(*time).await;
                self.processes[*process].signal(Signal::SIGCONT);
            }
            Fault::PostgresRestart { down } => {
                self.postgres.stop(Signal::SIGQUIT);
                pass(*down).await;
                self.postgres.restart().await;
            }
            Fault::NatsRestart { down } | Fault::NatsWipe { down } => {
                self.nats.kill();
                pass(*down).await;
                if matches!(fault, Fault::NatsWipe { .. }) {
                    self.nats.wipe();
                }
                self.nats.restart().await;
            }
            Fault::StreamPurge => drop(self.stream().await.purge().await.expect("purges")),
            Fault::MessageDelete { place } => {
                let stream = self.stream().await;
                let last = stream.cached_info().state.last_sequence.max(1);
                // It may be gone already.
                drop(stream.delete_message(1 + place % last).await);
            }
            Fault::SubjectPurge { tenant } => {
                let users = format!("events.{}.identity.user.>", tenants[*tenant]);
                self.stream().await.purge().filter(users).await.expect("purges");
            }
            Fault::Cut => self.cut("").await,
            Fault::OutOfConnections { time } => {
                self.cut(&format!("alter database {DATABASE} connection limit 1")).await;
                pass(*time).await;
                let unlimited = format!("alter database {DATABASE} connection limit -1");
                self.postgres.connect().await.batch_execute(&unlimited).await.expect("alters");
            }
            Fault::Poison { tenant } => self.poison(&tenants[*tenant]).await,
        }
        for process in &self.processes {
            process.started().await;
        }
    }

    /// The stream, as soon as it is there.
    async fn stream(&self) -> Stream {
        let client = async_nats::connect(self.nats.url()).await.expect("NATS answers");
        let context = async_nats::jetstream::new(client);
        eventually("the stream is there", || async { context.get_stream("EVENTS").await.ok() }).await
    }

    /// Cuts every connection of the product, after this statement.
    async fn cut(&self, first: &str) {
        let others = "select pg_terminate_backend(pid) from pg_stat_activity
                      where application_name like 'annals_%'";
        let superuser = self.postgres.connect().await;
        superuser.batch_execute(first).await.expect("runs");
        superuser.batch_execute(others).await.expect("ends connections");
        self.deployment.keys().cut().await;
    }

    /// Appends an event that does not read, and discards it when it stands in the dead letters.
    async fn poison(&mut self, slug: &str) {
        let slug = TenantSlug::parse(slug).expect("a slug");
        let tenant =
            eventually("the directory", || async { self.store.tenant_by_slug(&slug).await.ok()? }).await.id;
        let stream = StreamName::new("crm.customer", ids::new_id());
        eventually("the poison is recorded", || self.append_poison(tenant, &stream)).await;
        self.poisons.push(stream.clone());
        eventually("the poison is discarded", || self.discard(tenant)).await;
    }

    async fn append_poison(&self, tenant: TenantId, stream: &StreamName) -> Option<()> {
        let events = vec![event("crm.customer.registered.v1", r#"{"name":7}"#)];
        let append = StreamAppend::new(stream.clone(), ExpectedVersion::NoStream, events, metadata());
        match self.store.tenant(tenant).append(append).await {
            Ok(_) | Err(store::AppendError::VersionConflict { actual: 1 }) => Some(()),
            Err(_) => None,
        }
    }

    async fn discard(&self, tenant: TenantId) -> Option<()> {
        let letters = self.store.dead_letters(Some(tenant), None, 1_000).await.ok()?;
        let letter = letters.iter().find(|letter| letter.status == DeadLetterStatus::Open)?;
        let transaction = self.store.tenant(tenant).begin_worker_transaction().await.ok()?;
        transaction.set_dead_letter_status(letter.id, DeadLetterStatus::Discarded).await.ok()?;
        transaction.commit().await.ok()
    }

    /// Processes that have ended without having been killed.
    pub fn ended(&self) -> Vec<String> {
        self.processes
            .iter()
            .filter(|process| !process.is_running())
            .map(|process| format!("a process with the role {} has ended by itself", process.roles()))
            .collect()
    }
}

/// The length of a fault: nothing is waited for here.
async fn pass(time: Duration) {
    tokio::time::interval_at(tokio::time::Instant::now() + time, Duration::from_secs(1)).tick().await;
}

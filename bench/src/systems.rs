//! The systems under test. All write the same 400-byte event with about 75 bytes of metadata, check the expected version,
//! and answer when it is on disk.

mod annals;
pub mod bare_insert;
mod postgres_es;

use std::sync::Arc;

use crate::server::Server;

/// Most connections of a peer's pool. More than this makes the peers slower on two cores; their default is 10.
pub const PEER_POOL: usize = 16;

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SystemName {
    Annals,
    AnnalsWithCommandIds,
    PostgresEsPersist,
    PostgresEsExecute,
    BareInsert,
}

impl SystemName {
    pub const ALL: [Self; 5] = [
        Self::Annals,
        Self::AnnalsWithCommandIds,
        Self::PostgresEsPersist,
        Self::PostgresEsExecute,
        Self::BareInsert,
    ];

    pub fn label(self) -> &'static str {
        match self {
            Self::Annals => "annals append",
            Self::AnnalsWithCommandIds => "annals append with command id",
            Self::PostgresEsPersist => "postgres-es persist",
            Self::PostgresEsExecute => "postgres-es execute",
            Self::BareInsert => "bare insert",
        }
    }
}

/// A system opened for one case.
pub enum System {
    Annals(annals::Annals),
    Persist(postgres_es::Persist),
    Execute(postgres_es::Execute),
    BareInsert(bare_insert::BareInsert),
}

impl System {
    /// Appends one event to a stream that is at `version`.
    pub async fn append(&self, stream: usize, version: u64) -> anyhow::Result<()> {
        match self {
            Self::Annals(system) => system.append(stream, version).await,
            Self::Persist(system) => system.append(stream, version).await,
            Self::Execute(system) => system.append(stream).await,
            Self::BareInsert(system) => system.append(stream, version).await,
        }
    }

    /// What a run must leave behind: for Annals, a dense log.
    pub async fn check(&self) -> anyhow::Result<()> {
        match self {
            Self::Annals(system) => system.check().await,
            _ => Ok(()),
        }
    }
}

/// Everything that is set up once.
pub struct Systems {
    annals: annals::Deployment,
    peer_url: String,
    admin: tokio_postgres::Client,
    peer_admin: tokio_postgres::Client,
}

impl Systems {
    pub async fn set_up(server: &Server) -> anyhow::Result<Self> {
        server.connect("postgres").await?.batch_execute("create database peers").await?;
        let peer_admin = server.connect("peers").await?;
        peer_admin.batch_execute(include_str!("systems/peers.sql")).await?;
        Ok(Self {
            annals: annals::Deployment::set_up(server).await?,
            peer_url: server.url("peers"),
            admin: server.connect("annals").await?,
            peer_admin,
        })
    }

    /// Empties the system's tables and takes a checkpoint, so that each case starts alike.
    pub async fn empty(&self, name: SystemName) -> anyhow::Result<()> {
        match name {
            SystemName::Annals | SystemName::AnnalsWithCommandIds => {
                self.admin
                    .batch_execute("truncate events, receipts, reservations, secrets, heads, tenants")
                    .await?;
            }
            _ => self.peer_admin.batch_execute("truncate events, bare").await?,
        }
        Ok(self.admin.batch_execute("checkpoint").await?)
    }

    pub async fn open(&self, name: SystemName, concurrency: usize) -> anyhow::Result<Arc<System>> {
        let pool = concurrency.min(PEER_POOL) as u32;
        Ok(Arc::new(match name {
            SystemName::Annals => System::Annals(self.annals.open(&self.admin, false).await?),
            SystemName::AnnalsWithCommandIds => System::Annals(self.annals.open(&self.admin, true).await?),
            SystemName::PostgresEsPersist => {
                System::Persist(postgres_es::Persist::open(&self.peer_url, pool).await?)
            }
            SystemName::PostgresEsExecute => {
                System::Execute(postgres_es::Execute::open(&self.peer_url, pool).await?)
            }
            SystemName::BareInsert => {
                System::BareInsert(bare_insert::BareInsert::open(&self.peer_url, concurrency).await?)
            }
        }))
    }
}

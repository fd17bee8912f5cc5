//! postgres-es: its repository's `persist` alone, and the whole `CqrsFramework::execute`.

use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{PersistedEventRepository, PersistedEventStore, SerializedEvent};
use cqrs_es::{Aggregate, CqrsFramework, DomainEvent};
use postgres_es::PostgresEventRepository;
use serde::{Deserialize, Serialize};
use sqlx::postgres::PgPoolOptions;

use crate::payload::payload;

type Pool = sqlx::Pool<sqlx::Postgres>;

/// The least aggregate there can be: it counts what it is told.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Customer {
    told: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Told(serde_json::Value);

impl DomainEvent for Told {
    fn event_type(&self) -> String {
        "Told".to_owned()
    }

    fn event_version(&self) -> String {
        "1".to_owned()
    }
}

impl Aggregate for Customer {
    const TYPE: &'static str = "customer";
    type Command = serde_json::Value;
    type Event = Told;
    type Error = std::convert::Infallible;
    type Services = ();

    async fn handle(
        &mut self,
        command: Self::Command,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), Self::Error> {
        sink.write(Told(command), self).await;
        Ok(())
    }

    fn apply(&mut self, _: Self::Event) {
        self.told += 1;
    }
}

async fn pool(url: &str, connections: u32) -> anyhow::Result<Pool> {
    Ok(PgPoolOptions::new().min_connections(connections).max_connections(connections).connect(url).await?)
}

fn metadata() -> serde_json::Value {
    serde_json::json!({"actor": "system:bench", "command_id": uuid::Uuid::new_v4().to_string()})
}

pub struct Persist {
    repository: PostgresEventRepository,
    payload: serde_json::Value,
}

impl Persist {
    pub async fn open(url: &str, connections: u32) -> anyhow::Result<Self> {
        let repository = PostgresEventRepository::new(pool(url, connections).await?);
        Ok(Self { repository, payload: serde_json::from_str(&payload())? })
    }

    pub async fn append(&self, stream: usize, version: u64) -> anyhow::Result<()> {
        let event = SerializedEvent::new(
            stream.to_string(),
            version as usize + 1,
            Customer::TYPE.to_owned(),
            "Told".to_owned(),
            "1".to_owned(),
            self.payload.clone(),
            metadata(),
        );
        self.repository.persist::<Customer>(&[event], None).await?;
        Ok(())
    }
}

pub struct Execute {
    framework: CqrsFramework<Customer, PersistedEventStore<PostgresEventRepository, Customer>>,
    payload: serde_json::Value,
}

impl Execute {
    pub async fn open(url: &str, connections: u32) -> anyhow::Result<Self> {
        let repository = PostgresEventRepository::new(pool(url, connections).await?);
        let store = PersistedEventStore::new_event_store(repository);
        let framework = CqrsFramework::new(store, Vec::new(), ());
        Ok(Self { framework, payload: serde_json::from_str(&payload())? })
    }

    pub async fn append(&self, stream: usize) -> anyhow::Result<()> {
        let metadata = std::collections::HashMap::from([
            ("actor".to_owned(), "system:bench".to_owned()),
            ("command_id".to_owned(), uuid::Uuid::new_v4().to_string()),
        ]);
        self.framework.execute_with_metadata(&stream.to_string(), self.payload.clone(), metadata).await?;
        Ok(())
    }
}

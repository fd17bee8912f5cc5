//! What PostgreSQL itself does for one event a commit: a prepared INSERT on its own connection for each writer (at most
//! 128), without any event store around it.

use tokio_postgres::{Client, NoTls, Statement};

use crate::payload::payload;

pub struct BareInsert {
    connections: Vec<(Client, Statement)>,
    payload: Vec<u8>,
    next: std::sync::atomic::AtomicUsize,
    free: tokio::sync::Mutex<Vec<usize>>,
    places: tokio::sync::Semaphore,
}

impl BareInsert {
    pub async fn open(url: &str, writers: usize) -> anyhow::Result<Self> {
        let mut connections = Vec::new();
        for _ in 0..writers.min(128) {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
            tokio::spawn(connection);
            let statement = client
                .prepare(
                    "insert into bare (stream, version, type, payload, metadata) values ($1, $2, $3, $4, $5)",
                )
                .await?;
            connections.push((client, statement));
        }
        Ok(Self {
            free: tokio::sync::Mutex::new((0..connections.len()).collect()),
            places: tokio::sync::Semaphore::new(connections.len()),
            connections,
            payload: payload().into_bytes(),
            next: 0.into(),
        })
    }

    pub async fn append(&self, stream: usize, version: u64) -> anyhow::Result<()> {
        let _place = self.places.acquire().await?;
        let index = self.free.lock().await.pop().expect("a place is a free connection");
        let (client, statement) = &self.connections[index];
        let number = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let metadata = format!("{{\"actor\":\"system:bench\",\"command_id\":\"{number:036}\"}}");
        let result = client
            .execute(
                statement,
                &[&stream.to_string(), &(version as i64 + 1), &"told", &self.payload, &metadata.as_bytes()],
            )
            .await;
        self.free.lock().await.push(index);
        result?;
        Ok(())
    }
}

//! A log of ten million events, made by COPY: every row with the leaf that the store would have computed. Nothing but the
//! uniqueness of versions, which is not looked at here, is left out.

use anyhow::Context;
use bytes::{BufMut, Bytes, BytesMut};
use futures::SinkExt;
use proofs::{CommitmentKind, Frame, Salt, commitment, leaf_hash};
use schemas::engine::{LogId, TenantId, ids};
use store::{Store, StoreConfig};
use uuid::Uuid;

use crate::payload::payload;
use crate::server::Server;

const DATABASE: &str = "proofs";
const EVENT_TYPE: &str = "crm.customer.registered.v1";
const METADATA: &str = r#"{"actor":"system:bench","correlation_id":"4b6f9a52-7f1e-4d0c-9a63-0c2f6f0a1b2c"}"#;
const STREAMS: u64 = 1_000;
/// 2000-01-01, where PostgreSQL's time begins, in microseconds since 1970.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;
const RECORDED_AT: i64 = 1_790_000_000_000_000;
/// Bytes of one piece of a COPY.
const PIECE: usize = 1 << 20;

/// The tenant whose log it is.
pub struct BigLog {
    pub store: Store,
    pub tenant: TenantId,
    pub log_id: LogId,
    pub admin: tokio_postgres::Client,
}

impl BigLog {
    /// Loads `events` rows: the last `full` of them with 400-byte payloads, those before with small ones, which makes no
    /// difference to leaves. The head stays at 0.
    pub async fn load(
        server: &Server,
        events: u64,
        full: u64,
        progress: &indicatif::ProgressBar,
    ) -> anyhow::Result<Self> {
        let config = StoreConfig { append_workers: 1, ..server.product_database(DATABASE).await? };
        let admin = server.connect(DATABASE).await?;
        let (tenant, log_id) = (TenantId(ids::new_id()), LogId(ids::random_id()));
        admin
            .batch_execute(&format!(
                "alter table events drop constraint events_tenant_id_stream_version_key;
                 insert into tenants values ('{tenant}', 'bench', 'Bench', 'free', 'closed');
                 insert into heads values ('{tenant}', '{log_id}', 0, now())"
            ))
            .await?;
        let copy = "copy events (tenant_id, position, version, recorded_at, event_id, schema_version, payload_encoding, stream,
                                 type, payload, metadata, salts, subject_keys, leaf_hash) from stdin (format binary)";
        let sink = admin.copy_in::<_, Bytes>(copy).await?;
        let mut sink = std::pin::pin!(sink);
        let mut piece = BytesMut::from(&b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..]);
        let (large, small) = (payload(), r#"{"n":1}"#.to_owned());
        let streams: Vec<String> =
            (0..STREAMS).map(|n| format!("crm.customer/{}", Uuid::from_u128(u128::from(n)))).collect();
        for position in 1..=events {
            let payload = if position > events - full { &large } else { &small };
            row(&mut piece, tenant, log_id, position, &streams[(position % STREAMS) as usize], payload)?;
            if piece.len() > PIECE {
                sink.send(piece.split().freeze()).await?;
                progress.set_position(position);
            }
        }
        piece.put_i16(-1);
        sink.send(piece.freeze()).await?;
        let copied = sink.finish().await?;
        anyhow::ensure!(copied == events, "{copied} of {events} rows were copied");
        // Done here, so that it does not come in between.
        admin.batch_execute("vacuum analyze events").await?;
        admin.batch_execute("checkpoint").await?;
        let store = Store::connect(config).await.context("the store cannot be used")?;
        Ok(Self { store, tenant, log_id, admin })
    }

    /// Lets the log end here: what is loaded behind it counts as not yet appended.
    pub async fn move_head(&self, position: u64) -> anyhow::Result<()> {
        let statement = "update heads set position = $2 where tenant_id = $1";
        self.admin.execute(statement, &[&self.tenant.0, &(position as i64)]).await?;
        Ok(())
    }

    /// Brings what stands behind a position into PostgreSQL's memory, where events are that were just appended and relayed.
    pub async fn warm(&self, after: u64) -> anyhow::Result<()> {
        self.admin
            .batch_execute(&format!(
                "begin; set local enable_seqscan = off; set local enable_bitmapscan = off;
                 set local enable_indexonlyscan = off;
                 select sum(length(payload)) from events where tenant_id = '{}' and position > {after};
                 commit",
                self.tenant
            ))
            .await?;
        Ok(())
    }

    /// Up to where it is sealed.
    pub async fn sealed(&self) -> anyhow::Result<u64> {
        Ok(audit::merkle::sealed_log(&self.store.tenant(self.tenant)).await?.map_or(0, |sealed| sealed.size))
    }
}

fn row(
    to: &mut BytesMut,
    tenant: TenantId,
    log_id: LogId,
    position: u64,
    stream: &str,
    payload: &str,
) -> anyhow::Result<()> {
    let version = 1 + position / STREAMS;
    let event_id = Uuid::from_u128(u128::from(position) << 64 | 7);
    let mut salts = [0; 32];
    salts[..8].copy_from_slice(&position.to_be_bytes());
    salts[16..24].copy_from_slice(&position.to_le_bytes());
    let (payload_salt, metadata_salt) = salts.split_at(16);
    let (payload_salt, metadata_salt): (Salt, Salt) = (payload_salt.try_into()?, metadata_salt.try_into()?);
    let frame = Frame {
        log_id: log_id.0,
        event_id,
        stream,
        version,
        event_type: EVENT_TYPE,
        schema_version: 1,
        recorded_at: RECORDED_AT,
        payload_encoding: 1,
        payload_commitment: commitment(CommitmentKind::Payload, &payload_salt, payload.as_bytes()),
        metadata_commitment: commitment(CommitmentKind::Metadata, &metadata_salt, METADATA.as_bytes()),
        subject_keys: &[],
    };
    let leaf = leaf_hash(&frame.encode()?);
    to.put_i16(14);
    let mut field = |bytes: &[u8]| {
        to.put_i32(bytes.len() as i32);
        to.put_slice(bytes);
    };
    field(tenant.0.as_bytes());
    field(&(position as i64).to_be_bytes());
    field(&(version as i64).to_be_bytes());
    field(&(RECORDED_AT - POSTGRES_EPOCH).to_be_bytes());
    field(event_id.as_bytes());
    field(&1_i32.to_be_bytes());
    field(&1_i16.to_be_bytes());
    field(stream.as_bytes());
    field(EVENT_TYPE.as_bytes());
    field(payload.as_bytes());
    field(METADATA.as_bytes());
    field(&salts);
    field(&[]);
    field(&leaf);
    Ok(())
}

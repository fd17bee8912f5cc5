//! `annals event tail`: prints new events of one tenant or of all, from the database or from the API's stream.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::anyhow;
use futures::{StreamExt, TryStreamExt, pin_mut};
use schemas::engine::{LogId, TenantId, TenantSlug, TypePattern};
use store::{LogFilter, Store};
use tokio::sync::broadcast::error::RecvError;

use super::printer::{PrintError, PrintableEvent, Printer};
use super::source;
use crate::remote::{Api, transport_failure};
use crate::{Exit, Failure, operator_audit, tenant};

/// Maximum streams in a row that end without an event. Then following fails.
const EMPTY_STREAMS_MAX: u32 = 5;
/// The pause before a stream is reopened.
const RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Maximum length of a line in bytes. An event has at most 256 KiB plus its attributes.
const LINE_BYTES_MAX: usize = 2 << 20;

/// Follows the log of one tenant or of all in the database.
pub async fn in_database(
    store: &Store,
    slug: Option<TenantSlug>,
    types: Vec<TypePattern>,
    after: Option<u64>,
    printer: &mut Printer,
) -> Result<(), PrintError> {
    let filter = LogFilter { types, stream: None };
    let Some(slug) = &slug else {
        if after.is_some() {
            return Err(Failure::usage(anyhow!(
                "--after is a position of one tenant: name it with --tenant"
            ))
            .into());
        }
        return follow_all(store, filter, printer).await;
    };
    let record = tenant::find(store, slug).await?;
    operator_audit::record_access(store, [record.id]).await?;
    let handle = store.tenant(record.id);
    let after = match after {
        Some(after) => after,
        None => handle.head().await?.position,
    };
    let events = handle.tail(None, after, filter);
    pin_mut!(events);
    while let Some(event) = events.try_next().await? {
        printer.print(&PrintableEvent::from_record(&event, &record)?)?;
        printer.flush()?;
    }
    Ok(())
}

/// Follows the logs of all tenants from their heads, and of new tenants from their first event.
async fn follow_all(store: &Store, filter: LogFilter, printer: &mut Printer) -> Result<(), PrintError> {
    const PAGE_SIZE: usize = 500;
    let mut head_updates = store.head_moves();
    let mut positions: HashMap<TenantId, u64> =
        store.heads().await?.into_iter().map(|head| (head.tenant, head.position)).collect();
    // Only tenants whose events are printed get an entry in their activity log.
    let mut audited: HashSet<TenantId> = HashSet::new();
    loop {
        for head in store.heads().await? {
            let position = positions.entry(head.tenant).or_insert(0);
            if *position >= head.position {
                continue;
            }
            let Some(record) = store.tenant_by_id(head.tenant).await? else { continue };
            if audited.insert(head.tenant) {
                operator_audit::record_access(store, [head.tenant]).await?;
            }
            while *position < head.position {
                let page =
                    store.tenant(head.tenant).read_log_page(*position, None, PAGE_SIZE, &filter).await?;
                for event in &page.events {
                    printer.print(&PrintableEvent::from_record(event, &record)?)?;
                }
                printer.flush()?;
                *position = page.scanned_to;
            }
        }
        // A notification may be missing when another process appends, so poll once a second.
        match tokio::time::timeout(Duration::from_secs(1), head_updates.recv()).await {
            Ok(Err(RecvError::Closed)) => return Ok(()),
            Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => {}
        }
    }
}

/// Follows the log of the token's tenant over server-sent events. A stream that ends is resumed at its last position.
pub async fn over_api(
    api: &Api,
    types: &[TypePattern],
    after: Option<u64>,
    printer: &mut Printer,
) -> Result<(), PrintError> {
    let beginning = source::fetch_page(api, &[("limit", "1".to_owned())]).await?;
    let mut stream = Stream { log: beginning.log, at: after.unwrap_or(beginning.head), id: None, data: None };
    let mut empty_streams = 0;
    loop {
        let from = stream.at;
        let mut parameters = vec![("after", from.to_string()), ("log", stream.log.to_string())];
        parameters.extend(types.iter().map(|pattern| ("type", pattern.to_string())));
        let answer = api.get("/v1/events/stream", &parameters).await?;
        let ended = stream.read(answer, printer).await;
        empty_streams = if stream.at > from { 0 } else { empty_streams + 1 };
        match ended {
            Err(PrintError::Failed(failure))
                if failure.exit == Exit::Unavailable && empty_streams < EMPTY_STREAMS_MAX =>
            {
                eprintln!("{failure}; going on behind position {}", stream.at);
                tokio::time::sleep(RECONNECT_DELAY).await;
            }
            Ok(()) if empty_streams < EMPTY_STREAMS_MAX => tokio::time::sleep(RECONNECT_DELAY).await,
            Ok(()) => return Err(Failure::new(Exit::Unavailable, anyhow!("the stream keeps ending")).into()),
            Err(error) => return Err(error),
        }
    }
}

/// A stream of server-sent events with its position.
struct Stream {
    log: LogId,
    at: u64,
    /// The id of the event that is being received. It is valid from the empty line that ends the event.
    id: Option<u64>,
    data: Option<String>,
}

impl Stream {
    async fn read(&mut self, answer: reqwest::Response, printer: &mut Printer) -> Result<(), PrintError> {
        (self.id, self.data) = (None, None);
        let mut bytes = answer.bytes_stream();
        let mut rest = Vec::new();
        while let Some(more) = bytes.next().await {
            let more = more.map_err(|error| {
                Failure::new(Exit::Unavailable, anyhow!(transport_failure(error).to_string()))
            })?;
            rest.extend_from_slice(&more);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                self.line(String::from_utf8_lossy(&line[..end]).trim_end_matches('\r'), printer)?;
            }
            if rest.len() > LINE_BYTES_MAX {
                return Err(
                    Failure::new(Exit::Failed, anyhow!("the stream holds a line without an end")).into()
                );
            }
            printer.flush()?;
        }
        Ok(())
    }

    fn line(&mut self, line: &str, printer: &mut Printer) -> Result<(), PrintError> {
        if let Some(data) = line.strip_prefix("data:") {
            self.data = Some(data.trim_start().to_owned());
        } else if let Some(id) = line.strip_prefix("id:") {
            self.id = id.trim().parse().ok();
        } else if line.is_empty() {
            if let Some(data) = self.data.take() {
                printer.print(&PrintableEvent::from_api(&data)?)?;
            }
            // An id without data is a position that the filter has skipped.
            self.at = self.id.take().unwrap_or(self.at);
        } else if line.starts_with(": closed log_replaced") {
            let detail =
                anyhow!("the log was replaced; what was shown up to position {} is of {}", self.at, self.log);
            return Err(Failure::new(Exit::NotFound, detail).into());
        }
        Ok(())
    }
}

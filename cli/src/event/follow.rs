//! `annals event tail`: prints new events of one tenant, from the database or from the API's stream, or of all tenants
//! in the database.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use client::EventFollower;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use schemas::engine::{RecordedEvent, TenantId, TenantSlug, TypePattern};
use store::{LogFilter, Store, StoreError};
use tokio::sync::broadcast::error::RecvError;

use super::printer::{PrintError, PrintableEvent, Printer};
use crate::failure::Failure;
use crate::operator_audit;
use crate::remote::Access;
use crate::source::{Source, TenantSource};

/// The new events of one tenant.
enum NewEvents<'a> {
    Api(Box<EventFollower<'a>>),
    Database(BoxStream<'static, Result<RecordedEvent, StoreError>>, &'a TenantSource),
}

impl NewEvents<'_> {
    /// Waits for the next event; `None` at the end.
    async fn next(&mut self) -> Result<Option<PrintableEvent>, Failure> {
        match self {
            Self::Api(events) => PrintableEvent::from_api(&events.next().await?).map(Some),
            Self::Database(events, source) => {
                let event = events.try_next().await?;
                event.map(|event| PrintableEvent::from_record(&event, &source.record)).transpose()
            }
        }
    }
}

/// `annals event tail ...`
#[derive(Debug, Args)]
pub struct Tail {
    /// Of this tenant [default: all tenants; over the API the token's]
    #[arg(long, value_parser = |text: &str| TenantSlug::parse(text))]
    pub(super) tenant: Option<TenantSlug>,
    /// Types to show, with NATS wildcards: `crm.>`, `*.user.*.v1`
    #[arg(long = "type", value_name = "PATTERN", value_parser = |text: &str| text.parse::<TypePattern>())]
    types: Vec<TypePattern>,
    /// Start after this position [default: at the end]
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    #[command(flatten)]
    pub(super) access: Access,
}

impl Tail {
    /// Prints the events of one tenant.
    pub async fn print(&self, source: &Source, printer: &mut Printer) -> Result<(), PrintError> {
        let mut events = match source {
            Source::Api(client) => {
                NewEvents::Api(Box::new(client.follow_events(&self.types, self.after).await?))
            }
            Source::Database(source) => {
                let after = match self.after {
                    Some(after) => after,
                    None => source.tenant.head().await?.position,
                };
                let events = source.tenant.tail(None, after, self.filter());
                NewEvents::Database(Box::pin(events), source)
            }
        };
        while let Some(event) = events.next().await? {
            printer.print(&event)?;
            printer.flush()?;
        }
        Ok(())
    }

    /// Prints the events of all tenants.
    pub async fn print_all(&self, store: &Store, printer: &mut Printer) -> Result<(), PrintError> {
        if self.after.is_some() {
            let detail = anyhow!("--after is a position of one tenant: name it with --tenant");
            return Err(Failure::usage(detail).into());
        }
        follow_all(store, self.filter(), printer).await
    }

    fn filter(&self) -> LogFilter {
        LogFilter { types: self.types.clone(), stream: None }
    }
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

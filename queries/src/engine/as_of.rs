//! One aggregate as its own events make it: right at once, without any read model.

use futures::{TryStreamExt, pin_mut};
use projections::Projection;
use schemas::engine::StreamName;
use store::TenantStore;

use super::error::QueryError;

/// The row that the stream's events make, up to and including `version` where given. `None` where there is none.
pub async fn at_version<P: Projection>(
    tenant: &TenantStore,
    stream: &StreamName,
    version: Option<u64>,
) -> Result<Option<P::Row>, QueryError> {
    let events = tenant.read_stream(stream, 1);
    pin_mut!(events);
    let mut row = None;
    while let Some(event) = events.try_next().await? {
        if version.is_some_and(|version| event.version > version) {
            break;
        }
        row = P::apply(row, &event).map_err(QueryError::Fold)?;
    }
    Ok(row)
}

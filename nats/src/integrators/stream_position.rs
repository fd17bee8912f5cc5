//! Converts between log positions and stream positions of a tenant.
//! Log positions never change; stream positions change whenever events are republished.

use std::collections::HashMap;

use chrono::SubsecRound;
use schemas::engine::{TenantId, TenantSlug};
use store::Store;

use super::registry::AckedPosition;
use crate::message::MessageKey;
use crate::relay::progress::{self, RelayProgress};
use crate::relay::stored_message::message_at;
use crate::relay::stream_check::has_retention_limits;
use crate::relay::stream_reader::removed_count;
use crate::{Nats, NatsError};

/// The state of the stream, compared with the logs.
pub(super) struct StreamState {
    tenants: HashMap<TenantId, RelayProgress>,
    removed: u64,
    last_sequence: u64,
    /// The stream has retention limits.
    limited: bool,
    /// The relay's stored progress is about this stream, not about one that was deleted.
    is_current: bool,
}

impl StreamState {
    /// Reads the stream before the progress, so that a later loss shows in the relay's progress.
    pub(super) async fn read(store: &Store, nats: &Nats) -> Result<Self, NatsError> {
        let stream = nats.event_stream().await?;
        let created = progress::stream_created(store).await?;
        let progress = progress::all(store).await?;
        Ok(Self {
            tenants: progress.into_iter().map(|progress| (progress.tenant, progress)).collect(),
            removed: removed_count(&stream),
            last_sequence: stream.state.last_sequence,
            limited: has_retention_limits(&stream.config),
            is_current: created == Some(stream.created.trunc_subsecs(6)),
        })
    }

    pub(super) fn tenants(&self) -> &HashMap<TenantId, RelayProgress> {
        &self.tenants
    }

    pub(super) fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Whether all lower positions precede the message at this stream position.
    /// False in the range where interrupted pages were sent again (`out_of_order_until`).
    /// False also above the acknowledged position, because such a page may be in flight.
    pub(super) fn is_in_order(progress: &RelayProgress, place: u64, position: u64) -> bool {
        place >= progress.out_of_order_until && position <= progress.acked
    }

    /// Whether the stream holds every event of the tenant that the relay's progress says it holds.
    pub(super) fn is_settled(&self, progress: &RelayProgress) -> bool {
        self.is_current && (self.limited || progress.acked == 0 || progress.removed == Some(self.removed))
    }
}

/// The log position of the message at a stream position, if the message belongs to this tenant's log.
/// If the stream holds a single stream epoch, messages of an earlier epoch are ignored: their order says nothing.
pub(super) async fn position_at(
    nats: &Nats,
    key: &MessageKey,
    slug: &TenantSlug,
    relay: &RelayProgress,
    sequence: u64,
) -> Result<Option<u64>, NatsError> {
    let found = message_at(nats, sequence).await?.and_then(|found| found.published(key));
    let found = found.filter(|found| found.tenant == *slug && found.log == relay.log_id);
    let of_it = found.filter(|found| !relay.is_single_epoch || found.is_of_epoch(key, relay.stream_epoch));
    Ok(of_it.map(|found| found.position))
}

/// The new acknowledged position; `None` if it did not change.
/// `settled` is the end of the stream if the stream is complete.
/// `floor` is the stream position up to which the consumer's messages are acknowledged; `position` is the log position
/// there.
///
/// If positions are in order ([`StreamState::is_in_order`]), `position` is the answer.
/// A republish into an existing stream puts lower positions after higher ones.
/// Then nothing counts as acknowledged until every message is acknowledged that was in the stream when the republish
/// ended.
pub(super) fn next_acked(
    before: AckedPosition,
    relay: &RelayProgress,
    settled: Option<u64>,
    floor: u64,
    position: Option<u64>,
) -> Option<AckedPosition> {
    let end = settled?;
    if before.log_id != relay.log_id {
        let stream_epoch = Some(relay.stream_epoch);
        return Some(AckedPosition {
            log_id: relay.log_id,
            position: 0,
            stream_epoch,
            out_of_order_below: end,
        });
    }
    match before.stream_epoch {
        Some(stream_epoch) if stream_epoch == relay.stream_epoch => {
            let position = position
                .filter(|position| floor >= before.out_of_order_below && *position > before.position)?;
            Some(AckedPosition { position, ..before })
        }
        _ => {
            Some(AckedPosition { stream_epoch: Some(relay.stream_epoch), out_of_order_below: end, ..before })
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::relay::progress::AckedMessage;
    use schemas::engine::LogId;

    use super::*;

    fn relay(stream_epoch: u32) -> RelayProgress {
        RelayProgress {
            tenant: TenantId(uuid::Uuid::from_u128(1)),
            slug: TenantSlug::parse("acme").expect("a slug"),
            log_id: LogId(uuid::Uuid::from_u128(2)),
            stream_epoch,
            is_single_epoch: false,
            head: 100,
            acked: 100,
            removed: Some(0),
            acked_message: AckedMessage::default(),
            out_of_order_until: 0,
        }
    }

    fn place(position: u64, stream_epoch: Option<u32>, out_of_order_below: u64) -> AckedPosition {
        AckedPosition { log_id: relay(0).log_id, position, stream_epoch, out_of_order_below }
    }

    #[test]
    fn a_position_follows_the_floor_while_the_stream_is_in_order() {
        let before = place(5, Some(0), 0);
        assert_eq!(next_acked(before, &relay(0), Some(100), 40, Some(9)), Some(place(9, Some(0), 0)));
        assert_eq!(next_acked(before, &relay(0), Some(100), 40, Some(4)), None, "never back");
        assert_eq!(next_acked(before, &relay(0), Some(100), 40, None), None, "another tenant's message");
        assert_eq!(next_acked(before, &relay(0), None, 40, Some(9)), None, "the stream is in doubt");
    }

    #[test]
    fn after_a_refill_nothing_counts_before_all_that_was_refilled_is_acknowledged() {
        let before = place(5, Some(0), 0);
        assert_eq!(next_acked(before, &relay(1), None, 40, Some(30)), None, "it is still under way");
        let held = next_acked(before, &relay(1), Some(120), 40, Some(30)).expect("it is through");
        assert_eq!(held, place(5, Some(1), 120));
        assert_eq!(next_acked(held, &relay(1), Some(130), 119, Some(29)), None);
        assert_eq!(next_acked(held, &relay(1), Some(130), 120, Some(30)), Some(place(30, Some(1), 120)));
    }

    #[test]
    fn in_the_place_of_an_interrupted_page_a_position_tells_nothing() {
        let repeated = RelayProgress { acked: 40, out_of_order_until: 70, ..relay(0) };
        assert!(!StreamState::is_in_order(&repeated, 69, 30), "lower ones may come behind it");
        assert!(StreamState::is_in_order(&repeated, 70, 30));
        assert!(StreamState::is_in_order(&repeated, 80, 40));
        assert!(!StreamState::is_in_order(&repeated, 80, 41), "what is before it need not be there yet");
    }

    #[test]
    fn another_log_begins_at_its_beginning() {
        let other = AckedPosition { log_id: LogId(uuid::Uuid::from_u128(9)), ..place(50, Some(0), 0) };
        assert_eq!(next_acked(other, &relay(0), Some(7), 3, None), Some(place(0, Some(0), 7)));
    }
}

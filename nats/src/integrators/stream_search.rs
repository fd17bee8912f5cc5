//! Finds the stream position at which a consumer starts, to continue after a log position.
//! A start too early repeats messages; a start too late loses them. In doubt the search starts earlier.

use std::ops::ControlFlow;
use std::time::Duration;

use async_nats::jetstream::consumer::DeliverPolicy;
use chrono::TimeDelta;
use store::Store;
use tokio::time::Instant;

use super::registry;
use crate::connection::SUBJECT_ROOT;
use crate::message::{EventHeaders, MessageKey};
use crate::relay::page::PAGE_SIZE_MAX;
use crate::relay::position_ranges::PositionRanges;
use crate::relay::progress::RelayProgress;
use crate::relay::stored_message::message_from;
use crate::relay::stream_reader::read;
use crate::{Nats, NatsError};

/// Maximum difference between the clocks of the product and of NATS.
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::hours(1);
/// Maximum time to search for the exact stream position.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(10);
/// Positions before the wanted one that are scanned one by one.
/// Within one stream epoch, positions are out of order by less than this: one page is in flight at a time, and a relay
/// that dies leaves few pages that it has not recorded.
const DISORDER_MAX: u64 = 10_000;

/// The first stream position whose message is after `position`.
/// Each message before it has a position up to `position`, or is published again later, so a consumer that starts there
/// misses nothing.
/// If the exact stream position is not found in time, an earlier one is returned.
/// The relay must have published `position`.
pub(super) async fn start_after(
    store: &Store,
    nats: &Nats,
    relay: &RelayProgress,
    position: u64,
) -> Result<u64, NatsError> {
    let key = &MessageKey::of(store.key());
    // The end is read before the messages, so that later messages are after it.
    let end = nats.event_stream().await?.state.last_sequence;
    let target = position.saturating_sub(DISORDER_MAX);
    if relay.is_single_epoch
        && target > 0
        && let Some(near) = bisect(nats, key, relay, end, target).await?
        && let Some(start) = scan_nearby(nats, key, relay, near, position, end).await?
    {
        return Ok(start);
    }
    scan_all(store, nats, key, relay, position, end).await
}

fn subject(relay: &RelayProgress) -> String {
    format!("{SUBJECT_ROOT}.{}.>", relay.slug)
}

/// A message of the current log and stream epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NearbyMessage {
    sequence: u64,
    position: u64,
}

/// The tenant's first message at or after a stream position.
enum Probe {
    Nothing,
    Found(NearbyMessage),
    /// The message belongs to an earlier log or stream epoch, or the relay did not publish it.
    ForeignMessage,
}

async fn probe(
    nats: &Nats,
    key: &MessageKey,
    relay: &RelayProgress,
    sequence: u64,
) -> Result<Probe, NatsError> {
    let Some(found) = message_from(nats, sequence, &subject(relay)).await? else { return Ok(Probe::Nothing) };
    let published = found.published(key).filter(|published| is_of_epoch(key, relay, published));
    Ok(published.map_or(Probe::ForeignMessage, |published| {
        Probe::Found(NearbyMessage { sequence: found.sequence, position: published.position })
    }))
}

fn is_of_epoch(key: &MessageKey, relay: &RelayProgress, published: &EventHeaders) -> bool {
    published.log == relay.log_id && published.is_of_epoch(key, relay.stream_epoch)
}

/// Binary search for a message at or shortly before a log position.
struct BinarySearch {
    target: u64,
    low: Option<NearbyMessage>,
    high: u64,
}

impl BinarySearch {
    /// Searches a stream whose last stream position is `end`.
    fn new(end: u64, target: u64) -> Self {
        Self { target, low: None, high: end + 1 }
    }

    /// The next stream position to probe; `None` at the end.
    fn next(&self) -> Option<u64> {
        let from = self.low.map_or(1, |low| low.sequence + 1);
        let found = self.low.is_some_and(|low| low.position + DISORDER_MAX >= self.target);
        (from < self.high && !found).then(|| from + (self.high - from) / 2)
    }

    /// Applies the message found at `place`.
    fn take(&mut self, place: u64, found: Option<NearbyMessage>) {
        match found.filter(|found| found.sequence < self.high && found.position <= self.target) {
            Some(found) => self.low = Some(found),
            None => self.high = place,
        }
    }
}

/// A message at or shortly before the position `target`. `None` if there is none, or if a foreign message interrupts
/// the search.
async fn bisect(
    nats: &Nats,
    key: &MessageKey,
    relay: &RelayProgress,
    end: u64,
    target: u64,
) -> Result<Option<NearbyMessage>, NatsError> {
    let mut bisection = BinarySearch::new(end, target);
    while let Some(place) = bisection.next() {
        let found = match probe(nats, key, relay, place).await? {
            Probe::ForeignMessage => return Ok(None),
            Probe::Found(found) => Some(found),
            Probe::Nothing => None,
        };
        bisection.take(place, found);
    }
    Ok(bisection.low)
}

/// The messages from a nearby stream position to the first one after the wanted log position.
struct NearbyScan {
    near: u64,
    position: u64,
    seen: PositionRanges,
    start: Option<u64>,
}

impl NearbyScan {
    fn new(near: NearbyMessage, position: u64) -> Self {
        Self { near: near.position, position, seen: PositionRanges::default(), start: None }
    }

    fn take(&mut self, sequence: u64, position: u64) -> ControlFlow<()> {
        if position > self.position {
            self.start = Some(sequence);
            return ControlFlow::Break(());
        }
        if position >= self.near {
            self.seen.insert(position);
        }
        ControlFlow::Continue(())
    }

    /// The stream position at which to start; `last` if no message is after the wanted position.
    /// `None` if more than one page is missing at each end of the scanned range: then the search began at a stray
    /// duplicate.
    fn start(&self, last: u64) -> Option<u64> {
        let wanted = self.position - self.near + 1;
        let in_a_row = self.seen.count() + 2 * PAGE_SIZE_MAX as u64 >= wanted;
        in_a_row.then(|| self.start.unwrap_or(last))
    }
}

async fn scan_nearby(
    nats: &Nats,
    key: &MessageKey,
    relay: &RelayProgress,
    near: NearbyMessage,
    position: u64,
    end: u64,
) -> Result<Option<u64>, NatsError> {
    let (mut scan, mut late) = (NearbyScan::new(near, position), false);
    let give_up = Instant::now() + SEARCH_TIMEOUT;
    let policy = DeliverPolicy::ByStartSequence { start_sequence: near.sequence };
    read(nats, key, policy, subject(relay), end, |sequence, published| {
        late = Instant::now() >= give_up;
        match published {
            _ if late => ControlFlow::Break(()),
            Some(published) if is_of_epoch(key, relay, &published) => scan.take(sequence, published.position),
            // It is published again within the stream epoch.
            _ => ControlFlow::Continue(()),
        }
    })
    .await?;
    Ok(scan.start(end + 1).filter(|_| !late))
}

/// Scans all messages that can be after the position.
async fn scan_all(
    store: &Store,
    nats: &Nats,
    key: &MessageKey,
    relay: &RelayProgress,
    position: u64,
    end: u64,
) -> Result<u64, NatsError> {
    // A message is stored in the stream after its event was recorded, even if it is published again.
    let policy = match registry::recorded_after(store, relay.tenant, position).await? {
        Some(recorded) => DeliverPolicy::ByStartTime { start_time: recorded - CLOCK_SKEW_MAX },
        None => DeliverPolicy::All,
    };
    let give_up = Instant::now() + SEARCH_TIMEOUT;
    let mut start = end + 1;
    read(nats, key, policy, subject(relay), end, |sequence, published| {
        // A message that the relay did not publish is no event, so a consumer that starts after it misses nothing.
        let behind = published.is_some_and(|found| found.log != relay.log_id || found.position > position);
        if behind || Instant::now() >= give_up {
            start = sequence;
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })
    .await?;
    Ok(start)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The log positions of one tenant by stream position, from 1; 0 is a message of another tenant.
    type Stream = Vec<u64>;

    fn next(stream: &Stream, sequence: u64) -> Option<NearbyMessage> {
        let rest = stream.iter().enumerate().skip(sequence as usize - 1);
        let mut ours = rest.filter(|(_, position)| **position > 0);
        ours.next().map(|(index, position)| NearbyMessage { sequence: index as u64 + 1, position: *position })
    }

    /// The result of the search in a model of the stream; `None` means that all messages must be scanned.
    fn searched(stream: &Stream, position: u64) -> Option<u64> {
        let end = stream.len() as u64;
        let mut bisection = BinarySearch::new(end, position.saturating_sub(DISORDER_MAX));
        while let Some(place) = bisection.next() {
            bisection.take(place, next(stream, place));
        }
        let near = bisection.low?;
        let mut scan = NearbyScan::new(near, position);
        for (index, at) in stream.iter().enumerate().skip(near.sequence as usize - 1) {
            if *at > 0 && scan.take(index as u64 + 1, *at).is_break() {
                break;
            }
        }
        scan.start(end + 1)
    }

    fn looked_through(stream: &Stream, position: u64) -> u64 {
        stream.iter().take_while(|at| **at <= position).count() as u64 + 1
    }

    /// The positions above `position` that have no copy at or after the stream position `start`.
    fn lost(stream: &Stream, position: u64, start: u64) -> Vec<u64> {
        let mut kept: Vec<u64> = stream.iter().skip(start as usize - 1).copied().collect();
        kept.sort_unstable();
        let last = stream.iter().max().copied().unwrap_or_default();
        (position + 1..=last).filter(|wanted| kept.binary_search(wanted).is_err()).collect()
    }

    fn page(from: u64) -> impl Iterator<Item = u64> {
        from..from + PAGE_SIZE_MAX as u64
    }

    #[test]
    fn in_an_undisturbed_filling_the_place_is_exact() {
        let stream: Stream = (1..=50_000).flat_map(|position| [0, position]).collect();
        for position in [10_002, 20_000, 49_999, 50_000] {
            // Each message follows one of another tenant.
            assert_eq!(searched(&stream, position), Some(((position + 1) * 2).min(100_001)));
        }
    }

    #[test]
    fn a_stray_repeat_is_not_taken_for_the_place() {
        // A late page of a stopped relay. If the binary search meets it, it would continue too far along the stream.
        let mut stream: Stream = (1..=40_000).collect();
        let at = 30_000;
        stream.splice(at..at, page(5_000));
        for position in (16_000..26_000).step_by(37) {
            if let Some(start) = searched(&stream, position) {
                assert_eq!(lost(&stream, position, start), [0; 0], "behind {position}");
            }
        }
        // Here the search begins at the stray page.
        let mut scan = NearbyScan::new(NearbyMessage { sequence: at as u64 + 1, position: 5_000 }, 16_000);
        let _ = page(5_000).try_for_each(|position| scan.take(position, position));
        let _ = scan.take(30_251, 30_001);
        assert_eq!(scan.start(stream.len() as u64 + 1), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Pages are interrupted: the end of a page is stored, then all of it or the missing part is sent again.
        #[test]
        fn nothing_is_lost_and_little_repeated_however_pages_are_interrupted(
            pages in proptest::collection::vec((0_u64..6, 0..PAGE_SIZE_MAX as u64, any::<bool>(), 0_usize..3), 45..90),
            place in 0.0..1.0_f64,
        ) {
            let mut stream = Stream::new();
            for (number, (kind, cut, whole, others)) in pages.iter().enumerate() {
                let first = number as u64 * PAGE_SIZE_MAX as u64 + 1;
                if *kind == 0 {
                    stream.extend(page(first).skip(*cut as usize));
                    stream.extend(page(first).take(if *whole { PAGE_SIZE_MAX } else { *cut as usize }));
                } else {
                    stream.extend(page(first));
                }
                stream.extend(std::iter::repeat_n(0, *others));
            }
            let last = pages.len() as u64 * PAGE_SIZE_MAX as u64;
            let position = DISORDER_MAX + 1 + ((last - DISORDER_MAX - 1) as f64 * place) as u64;
            let near = searched(&stream, position);
            // If the first page is interrupted, no message may be at or before the start of the search.
            prop_assert!(near.is_some() || position <= DISORDER_MAX + PAGE_SIZE_MAX as u64, "{} was not found", position);
            let start = near.unwrap_or_else(|| looked_through(&stream, position));
            prop_assert_eq!(lost(&stream, position, start), Vec::<u64>::new());
            let again = stream.iter().skip(start as usize - 1).filter(|at| **at > 0 && **at <= position).count();
            prop_assert!(again <= 2 * PAGE_SIZE_MAX, "{} again", again);
        }
    }
}

//! Reading: pages, filters, streams and tails.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use schemas::engine::{StreamName, TenantId, ids};
use store::{ExpectedVersion, LogFilter, PageLimit, StreamAppend, TenantStore};

use crate::support::postgres::{Database, event, metadata, open_tenant};

async fn append(tenant: &TenantStore, stream: &StreamName, event_type: &str, count: usize) {
    let events = vec![event(event_type, "{}"); count];
    let append = StreamAppend::new(stream.clone(), ExpectedVersion::Any, events, metadata());
    tenant.append(append).await.expect("appends");
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_without_gap_or_overlap() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let (customer, user) =
        (StreamName::new("crm.customer", ids::new_id()), StreamName::new("identity.user", ids::new_id()));
    for _ in 0..20 {
        append(&tenant, &customer, "crm.customer.renamed.v1", 3).await;
        append(&tenant, &user, "identity.user.name_changed.v1", 2).await;
    }
    let filters = [
        ("", "", 100),
        ("crm.>", "", 60),
        ("*.user.*.v1", "", 40),
        ("crm.customer.renamed.v2", "", 0),
        ("", customer.as_str(), 60),
        ("", "identity.user/*", 40),
        ("identity.>", customer.as_str(), 0),
    ];
    for (types, stream, expected) in filters {
        let filter = LogFilter {
            types: if types.is_empty() { Vec::new() } else { vec![types.parse().expect("a pattern")] },
            stream: if stream.is_empty() { None } else { Some(stream.parse().expect("a filter")) },
        };
        for limit in [1, 7, 100] {
            let mut positions = Vec::new();
            let mut after = 0;
            loop {
                let page = tenant.read_log_page(after, None, limit, &filter).await.expect("reads");
                assert!(page.events.len() <= limit);
                positions.extend(page.events.iter().map(|event| event.position));
                if page.scanned_to >= page.head {
                    break;
                }
                assert!(page.scanned_to > after, "a page moves on");
                after = page.scanned_to;
            }
            assert_eq!(positions.len(), expected, "{types} {stream} by {limit}");
            assert!(positions.is_sorted_by(|a, b| a < b));
        }
    }
}

#[tokio::test]
async fn the_streams_of_a_category_are_found_in_all_logs_by_pages() {
    let store = Database::create().await.store().await;
    let mut expected = Vec::new();
    for slug in ["acme", "bolt", "cold", "dome"] {
        let tenant = open_tenant(&store, slug).await;
        for n in 0..5 {
            let stream = StreamName::new("test.thing", ids::new_id());
            if slug != "cold" {
                append(&tenant, &stream, "test.thing.happened.v1", 1 + n % 3).await;
                expected.push((tenant.id(), stream));
            }
            // A category with the same beginning, and one right after it.
            for other in ["test.things", "test.thing_b"] {
                let stream = StreamName::new(other, ids::new_id());
                append(&tenant, &stream, "test.other.happened.v1", 1).await;
            }
        }
    }
    expected.sort_by(|one, other| (one.0.0, one.1.as_str()).cmp(&(other.0.0, other.1.as_str())));
    for limit in [1, 4, 5, 100] {
        let mut found: Vec<(TenantId, StreamName)> = Vec::new();
        loop {
            let page = store.streams_of_category("test.thing", found.last(), limit).await.expect("reads");
            let is_last = page.len() < limit as usize;
            found.extend(page);
            if is_last {
                break;
            }
        }
        assert_eq!(found, expected, "by pages of {limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_events_end_every_read_early_and_none_is_lost() {
    const EVENTS: usize = 40;
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = StreamName::new("crm.customer", ids::new_id());
    let large = event("crm.customer.renamed.v1", &format!("{{\"name\":\"{}\"}}", "n".repeat(200_000)));
    for _ in 0..EVENTS / 10 {
        let events = vec![large.clone(); 10];
        let append = StreamAppend::new(stream.clone(), ExpectedVersion::Any, events, metadata());
        tenant.append(append).await.expect("appends");
    }
    let sizes = [(1, 1), (200_000, 1), (500_000, 3), (usize::MAX >> 1, EVENTS)];
    for (bytes, expected) in sizes {
        let limit = PageLimit { events: 1_000, bytes };
        let page = tenant.read_log_page_within(0, None, limit, &LogFilter::default()).await.expect("reads");
        assert_eq!(page.events.len(), expected, "a piece of {bytes} bytes");
        let page = tenant.read_stream_page(&stream, 2, limit).await.expect("reads");
        assert_eq!(page.events.len(), expected.min(EVENTS - 1), "a piece of {bytes} bytes");
    }
    let page = tenant.read_log_page(0, None, 1_000, &LogFilter::default()).await.expect("reads");
    assert!(page.events.len() < EVENTS && page.scanned_to < page.head);
    assert!(tenant.export_rows(0, page.head, None, 1_000).await.expect("reads").len() < 10);

    let log: Vec<_> = tenant.read_log(0, LogFilter::default()).try_collect().await.expect("reads");
    let streamed: Vec<_> = tenant.read_stream(&stream, 1).try_collect().await.expect("reads");
    for events in [log, streamed] {
        let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
        assert_eq!(versions, (1..=EVENTS as u64).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_read_in_version_order_from_any_version() {
    let store = Database::create().await.store().await;
    let tenant = open_tenant(&store, "acme").await;
    let stream = StreamName::new("crm.customer", ids::new_id());
    for _ in 0..6 {
        append(&tenant, &stream, "crm.customer.renamed.v1", 200).await;
    }
    for from in [1, 2, 500, 501, 1_200, 1_201] {
        let events: Vec<_> = tenant.read_stream(&stream, from).try_collect().await.expect("reads");
        let versions: Vec<u64> = events.iter().map(|event| event.version).collect();
        assert_eq!(versions, (from..=1_200).collect::<Vec<_>>());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tail_wakes_for_this_process_and_for_another() {
    let database = Database::create().await;
    let (here, there) = (database.store().await, database.store().await);
    let tenant = open_tenant(&here, "acme").await;
    let stream = StreamName::new("crm.customer", ids::new_id());
    let mut tail = std::pin::pin!(tenant.tail(None, 0, LogFilter::default()));
    for round in 1..=10 {
        let writer = if round % 2 == 0 { tenant.clone() } else { there.tenant(tenant.id()) };
        append(&writer, &stream, "crm.customer.renamed.v1", 1).await;
        let next = tokio::time::timeout(Duration::from_secs(5), tail.next()).await.expect("the tail wakes");
        assert_eq!(next.expect("a tail never ends").expect("reads").position, round);
    }
}

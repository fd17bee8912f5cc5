//! Keyset pages, forward and backward, against a full sort.

use projections::{CustomerRow, StoredRow, UserRow};
use queries::{PageRequest, QueryError, Select};
use schemas::engine::Row;
use serde_json::json;
use uuid::Uuid;

use crate::support::lists::{as_of, get, list, select};
use crate::support::postgres::open_tenant;
use crate::support::rows::Setup;

const ORDERS: [&str; 4] = ["REGISTERED_AT_ASC", "REGISTERED_AT_DESC", "NAME_ASC", "NAME_DESC"];

/// Names that are equal, that differ in case, and that only bytes can sort.
const NAMES: [&str; 7] = ["Ada", "ada", "Bo", "Ägir", "Zoë", "\u{10348}", "\u{FFFD}"];

async fn with_customers(count: usize) -> Setup {
    let setup = Setup::new().await;
    for n in 0..count {
        let id = setup.register(NAMES[n % NAMES.len()], "ada@example.com", None).await;
        if n % 3 == 0 {
            setup.suspend(id).await;
        }
    }
    setup.settled().await;
    setup
}

fn sorted(mut rows: Vec<StoredRow<CustomerRow>>, order: &str) -> Vec<Uuid> {
    rows.sort_by(|a, b| match order {
        "REGISTERED_AT_ASC" => (a.registered_at, a.id).cmp(&(b.registered_at, b.id)),
        "REGISTERED_AT_DESC" => (b.registered_at, b.id).cmp(&(a.registered_at, a.id)),
        "NAME_ASC" => (&a.name, a.id).cmp(&(&b.name, b.id)),
        _ => (&b.name, b.id).cmp(&(&a.name, a.id)),
    });
    rows.iter().map(|row| row.id).collect()
}

fn ids(rows: &[StoredRow<CustomerRow>]) -> Vec<Uuid> {
    rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn pages_in_both_directions_add_up_to_the_whole_list() {
    let setup = with_customers(40).await;
    let tenant = &setup.tenant;
    for filter in [json!({}), json!({"status": "SUSPENDED"})] {
        for order in ORDERS {
            let list = async |request| {
                let select = select::<CustomerRow>(&filter, order);
                list::<CustomerRow>(tenant, &select, request).await.expect("reads")
            };
            let whole = list(PageRequest::first(100)).await;
            assert_eq!((whole.has_previous, whole.has_next), (false, false));
            assert_eq!(whole.total, Some(whole.rows.len() as u64));
            let all = sorted(whole.rows.clone(), order);
            assert_eq!(ids(&whole.rows), all);

            for size in [1, 3, 7, 13, 40] {
                let (mut seen, mut after) = (Vec::new(), None);
                loop {
                    let request = PageRequest::Forward { first: size, after: after.clone() };
                    let page = list(request).await;
                    assert_eq!(page.has_previous, !seen.is_empty());
                    seen.extend(ids(&page.rows));
                    assert_eq!(page.has_next, seen.len() < all.len());
                    after = page.ends().map(|(_, end)| end);
                    if !page.has_next {
                        break;
                    }
                }
                assert_eq!(seen, all, "forward, {size} at a time");

                let (mut seen, mut before) = (Vec::new(), None);
                loop {
                    let request = PageRequest::Backward { last: size, before: before.clone() };
                    let page = list(request).await;
                    assert_eq!(page.has_next, !seen.is_empty());
                    seen.splice(0..0, ids(&page.rows));
                    assert_eq!(page.has_previous, seen.len() < all.len());
                    before = page.ends().map(|(start, _)| start);
                    if !page.has_previous {
                        break;
                    }
                }
                assert_eq!(seen, all, "backward, {size} at a time");
            }
        }
    }
}

#[tokio::test]
async fn each_rows_cursor_marks_its_place() {
    let setup = with_customers(9).await;
    for order in ORDERS {
        let select = select::<CustomerRow>(&json!({}), order);
        let list = async |request| list::<CustomerRow>(&setup.tenant, &select, request).await.expect("reads");
        let whole = list(PageRequest::first(100)).await;
        let all = whole.ids();
        for (index, cursor) in whole.cursors.into_iter().enumerate() {
            let behind = PageRequest::Forward { first: 100, after: Some(cursor.clone()) };
            let behind = list(behind).await;
            assert_eq!((ids(&behind.rows), behind.has_previous), (all[index + 1..].to_vec(), true));
            let before = PageRequest::Backward { last: 100, before: Some(cursor) };
            let before = list(before).await;
            assert_eq!((ids(&before.rows), before.has_next), (all[..index].to_vec(), true));
        }
    }
}

#[tokio::test]
async fn a_page_of_nothing_still_knows_its_neighbours() {
    let setup = with_customers(3).await;
    let list = async |filter, size| {
        let select = select::<CustomerRow>(&filter, "NAME_ASC");
        list::<CustomerRow>(&setup.tenant, &select, PageRequest::first(size)).await.expect("reads")
    };
    let page = list(json!({}), 0).await;
    assert_eq!((page.rows.len(), page.has_previous, page.has_next), (0, false, true));
    assert!(page.ends().is_none());
    let page = list(json!({"status": "CLOSED"}), 10).await;
    assert_eq!((page.rows.len(), page.has_previous, page.has_next), (0, false, false));
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let setup = with_customers(3).await;
    let tenant = &setup.tenant;
    let by_name = select::<CustomerRow>(&json!({}), "NAME_ASC");
    let page = list::<CustomerRow>(tenant, &by_name, PageRequest::first(1)).await.expect("reads");
    let cursor = page.cursors[0].clone();
    let after = |cursor: &str| PageRequest::Forward { first: 1, after: Some(cursor.to_owned()) };

    let descending = select::<CustomerRow>(&json!({}), "NAME_DESC");
    let suspended = select::<CustomerRow>(&json!({"status": "SUSPENDED"}), "NAME_ASC");
    let users = select::<UserRow>(&json!({}), "NAME_ASC");
    let other = open_tenant(&setup.store, "other").await;
    let attempts = [
        list::<CustomerRow>(tenant, &descending, after(&cursor)).await.err(),
        list::<CustomerRow>(tenant, &suspended, after(&cursor)).await.err(),
        list::<CustomerRow>(&other, &by_name, after(&cursor)).await.err(),
        list::<CustomerRow>(tenant, &by_name, after("nonsense")).await.err(),
        list::<CustomerRow>(tenant, &by_name, after("")).await.err(),
        list::<UserRow>(tenant, &users, after(&cursor)).await.err(),
    ];
    for (index, attempt) in attempts.into_iter().enumerate() {
        assert!(matches!(attempt, Some(QueryError::CursorInvalid)), "attempt {index}");
    }
}

#[tokio::test]
async fn a_list_shows_nothing_of_another_tenant() {
    let setup = with_customers(3).await;
    let other = open_tenant(&setup.store, "other").await;
    let by_name = select::<CustomerRow>(&json!({}), "NAME_ASC");
    let page = list::<CustomerRow>(&other, &by_name, PageRequest::first(10)).await.expect("reads");
    assert_eq!((page.rows.len(), page.total), (0, Some(0)));
    let own = list::<CustomerRow>(&setup.tenant, &by_name, PageRequest::first(1)).await;
    let id = own.expect("reads").rows[0].id;
    assert!(get::<CustomerRow>(&other, id).await.is_none());
    assert!(as_of::<CustomerRow>(&other, id, None).await.expect("reads").is_none());
    assert!(get::<CustomerRow>(&setup.tenant, id).await.is_some());
}

#[tokio::test]
async fn pages_in_the_order_of_ids_add_up_and_end_exactly_where_the_list_does() {
    let setup = Setup::new().await;
    let mut expected = Vec::new();
    for n in 0..6 {
        expected.push(setup.register_user(&format!("User {n}"), &format!("user{n}@example.com")).await);
    }
    setup.settled().await;
    expected.sort_unstable();
    // Also limits at which the last page is full.
    for limit in [1, 2, 3, 4, 6, 7] {
        let (mut seen, mut after, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = Select::of(UserRow::MODEL).page_by_id(&setup.tenant, after, limit).await;
            let (rows, next) = page.expect("reads");
            let id = |row| queries::entry::<UserRow>(row).expect("a row").id;
            seen.extend(rows.into_iter().map(id));
            (after, pages) = (next, pages + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((&seen, pages), (&expected, 6_usize.div_ceil(limit)), "limit {limit}");
    }
    let other = open_tenant(&setup.store, "other").await;
    assert!(Select::of(UserRow::MODEL).page_by_id(&other, None, 10).await.expect("reads").0.is_empty());
}

//! Keyset pages, forward and backward, against a full sort.

use projections::{CustomerRow, Entry};
use queries::crm::customer::{self, CustomerFilter, CustomerOrder};
use queries::identity::user::{self, UserFilter, UserOrder};
use queries::{PageRequest, QueryError};
use schemas::crm::customer::CustomerStatus;
use uuid::Uuid;

use crate::support::postgres::open_tenant;
use crate::support::rows::Setup;

const ORDERS: [CustomerOrder; 4] = [
    CustomerOrder::RegisteredAtAsc,
    CustomerOrder::RegisteredAtDesc,
    CustomerOrder::NameAsc,
    CustomerOrder::NameDesc,
];

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

fn sorted(mut rows: Vec<Entry<CustomerRow>>, order: CustomerOrder) -> Vec<Uuid> {
    rows.sort_by(|a, b| match order {
        CustomerOrder::RegisteredAtAsc => (a.registered_at, a.id).cmp(&(b.registered_at, b.id)),
        CustomerOrder::RegisteredAtDesc => (b.registered_at, b.id).cmp(&(a.registered_at, a.id)),
        CustomerOrder::NameAsc => (&a.name, a.id).cmp(&(&b.name, b.id)),
        CustomerOrder::NameDesc => (&b.name, b.id).cmp(&(&a.name, a.id)),
    });
    rows.iter().map(|row| row.id).collect()
}

fn ids(rows: &[Entry<CustomerRow>]) -> Vec<Uuid> {
    rows.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn pages_in_both_directions_add_up_to_the_whole_list() {
    let setup = with_customers(40).await;
    let tenant = &setup.tenant;
    let filters = [
        CustomerFilter::default(),
        CustomerFilter { status: Some(CustomerStatus::Suspended), ..Default::default() },
    ];
    for filter in &filters {
        for order in ORDERS {
            let whole = customer::list(tenant, filter, order, PageRequest::first(100)).await.expect("reads");
            assert_eq!((whole.has_previous, whole.has_next), (false, false));
            assert_eq!(customer::count(tenant, filter).await.expect("counts"), whole.rows.len() as u64);
            let all = sorted(whole.rows.clone(), order);
            assert_eq!(ids(&whole.rows), all);

            for size in [1, 3, 7, 13, 40] {
                let (mut seen, mut after) = (Vec::new(), None);
                loop {
                    let request = PageRequest::Forward { first: size, after: after.clone() };
                    let page = customer::list(tenant, filter, order, request).await.expect("reads");
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
                    let page = customer::list(tenant, filter, order, request).await.expect("reads");
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
    let (tenant, filter) = (&setup.tenant, CustomerFilter::default());
    for order in ORDERS {
        let whole = customer::list(tenant, &filter, order, PageRequest::first(100)).await.expect("reads");
        let all = ids(&whole.rows);
        for (index, (cursor, row)) in whole.into_edges().enumerate() {
            assert_eq!(row.id, all[index]);
            let behind = PageRequest::Forward { first: 100, after: Some(cursor.clone()) };
            let behind = customer::list(tenant, &filter, order, behind).await.expect("reads");
            assert_eq!((ids(&behind.rows), behind.has_previous), (all[index + 1..].to_vec(), true));
            let before = PageRequest::Backward { last: 100, before: Some(cursor) };
            let before = customer::list(tenant, &filter, order, before).await.expect("reads");
            assert_eq!((ids(&before.rows), before.has_next), (all[..index].to_vec(), true));
        }
    }
}

#[tokio::test]
async fn a_page_of_nothing_still_knows_its_neighbours() {
    let setup = with_customers(3).await;
    let (tenant, filter, order) = (&setup.tenant, CustomerFilter::default(), CustomerOrder::NameAsc);
    let page = customer::list(tenant, &filter, order, PageRequest::first(0)).await.expect("reads");
    assert_eq!((page.rows.len(), page.has_previous, page.has_next), (0, false, true));
    assert!(page.ends().is_none());
    let none = CustomerFilter { status: Some(CustomerStatus::Closed), ..Default::default() };
    let page = customer::list(tenant, &none, order, PageRequest::first(10)).await.expect("reads");
    assert_eq!((page.rows.len(), page.has_previous, page.has_next), (0, false, false));
}

#[tokio::test]
async fn a_cursor_of_another_list_is_refused() {
    let setup = with_customers(3).await;
    let (tenant, filter) = (&setup.tenant, CustomerFilter::default());
    let order = CustomerOrder::NameAsc;
    let page = customer::list(tenant, &filter, order, PageRequest::first(1)).await.expect("reads");
    let cursor = page.cursor(0).expect("there is a row");
    let after = |cursor: &str| PageRequest::Forward { first: 1, after: Some(cursor.to_owned()) };

    let suspended = CustomerFilter { status: Some(CustomerStatus::Suspended), ..Default::default() };
    let other = open_tenant(&setup.store, "other").await;
    let attempts = [
        customer::list(tenant, &filter, CustomerOrder::NameDesc, after(&cursor)).await.err(),
        customer::list(tenant, &suspended, order, after(&cursor)).await.err(),
        customer::list(&other, &filter, order, after(&cursor)).await.err(),
        customer::list(tenant, &filter, order, after("nonsense")).await.err(),
        customer::list(tenant, &filter, order, after("")).await.err(),
        user::list(tenant, &UserFilter::default(), UserOrder::NameAsc, after(&cursor)).await.err(),
    ];
    for (index, attempt) in attempts.into_iter().enumerate() {
        assert!(matches!(attempt, Some(QueryError::CursorInvalid)), "attempt {index}");
    }
}

#[tokio::test]
async fn a_list_shows_nothing_of_another_tenant() {
    let setup = with_customers(3).await;
    let other = open_tenant(&setup.store, "other").await;
    let filter = CustomerFilter::default();
    let page =
        customer::list(&other, &filter, CustomerOrder::NameAsc, PageRequest::first(10)).await.expect("reads");
    assert!(page.rows.is_empty());
    assert_eq!(customer::count(&other, &filter).await.expect("counts"), 0);
    let own = customer::list(&setup.tenant, &filter, CustomerOrder::NameAsc, PageRequest::first(1)).await;
    let id = own.expect("reads").rows[0].id;
    assert!(customer::get(&other, id).await.expect("reads").is_none());
    assert!(customer::at_version(&other, id, None).await.expect("reads").is_none());
    assert!(customer::get(&setup.tenant, id).await.expect("reads").is_some());
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
            let (rows, next) = user::by_id(&setup.tenant, after, limit).await.expect("reads");
            seen.extend(rows.iter().map(|row| row.id));
            (after, pages) = (next, pages + 1);
            if after.is_none() {
                break;
            }
        }
        assert_eq!((&seen, pages), (&expected, 6_usize.div_ceil(limit)), "limit {limit}");
    }
    let other = open_tenant(&setup.store, "other").await;
    assert!(user::by_id(&other, None, 10).await.expect("reads").0.is_empty());
}

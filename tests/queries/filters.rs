//! What filters find, and single look-ups.

use projections::{CustomerRow, UserRow};
use queries::{AsOf, PageRequest, find};
use schemas::crm::customer::CustomerStatus;
use schemas::engine::ids;
use schemas::identity::user::UserStatus;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::lists::{as_of, get, list, select};
use crate::support::rows::Setup;

async fn names(setup: &Setup, filter: Value) -> Vec<String> {
    let select = select::<CustomerRow>(&filter, "NAME_ASC");
    let page = list::<CustomerRow>(&setup.tenant, &select, PageRequest::first(100)).await.expect("reads");
    assert_eq!(select.count(&setup.tenant).await.expect("counts"), page.rows.len() as u64);
    assert_eq!(page.total, Some(page.rows.len() as u64));
    page.rows.into_iter().map(|entry| entry.row.name).collect()
}

#[tokio::test]
async fn customers_are_found_by_status_address_name_and_user() {
    let setup = Setup::new().await;
    let user = ids::new_id();
    let ada = setup.register("Ada Lovelace", "Ada@Example.com", Some(user)).await;
    let adam = setup.register("Adam", "adam@example.com", None).await;
    setup.register("Ad\u{10FFFF}", "last@example.com", None).await;
    setup.register("Ae", "ae@example.com", None).await;
    setup.register("100% _\\'", "odd@example.com", None).await;
    setup.suspend(ada).await;
    setup.close(adam).await;
    setup.settled().await;

    assert_eq!(names(&setup, json!({"status": "SUSPENDED"})).await, ["Ada Lovelace"]);
    assert_eq!(names(&setup, json!({"status": "CLOSED"})).await, ["Adam"]);
    assert_eq!(names(&setup, json!({"status": "ACTIVE"})).await.len(), 3);

    for text in ["ada@example.com", "ADA@EXAMPLE.COM", " Ada@Example.com "] {
        assert_eq!(names(&setup, json!({"email": text})).await, ["Ada Lovelace"]);
    }
    assert!(names(&setup, json!({"email": "ada@example.co"})).await.is_empty());

    let prefix = |text: &str| json!({"name": text});
    assert_eq!(names(&setup, prefix("Ad")).await, ["Ada Lovelace", "Adam", "Ad\u{10FFFF}"]);
    assert_eq!(names(&setup, prefix("Ad\u{10FFFF}")).await, ["Ad\u{10FFFF}"]);
    assert_eq!(names(&setup, prefix("100% _\\'")).await, ["100% _\\'"]);
    assert!(names(&setup, prefix("ad")).await.is_empty());
    assert!(names(&setup, prefix("%")).await.is_empty());
    assert_eq!(names(&setup, prefix("")).await.len(), 5);

    assert_eq!(names(&setup, json!({"userId": user})).await, ["Ada Lovelace"]);
    assert!(names(&setup, json!({"userId": user, "status": "ACTIVE"})).await.is_empty());

    // PostgreSQL knows no zero character; a search for one finds nothing and is no fault.
    assert!(names(&setup, prefix("A\0")).await.is_empty());
    assert!(names(&setup, json!({"email": "\0"})).await.is_empty());
}

#[tokio::test]
async fn a_customer_is_looked_up_by_id_by_user_and_by_its_own_events() {
    let setup = Setup::new().await;
    let user = ids::new_id();
    let id = setup.register("Ada", "Ada@Example.com", Some(user)).await;
    setup.suspend(id).await;
    setup.settled().await;
    let tenant = &setup.tenant;

    let row = get::<CustomerRow>(tenant, id).await.expect("is there");
    assert_eq!((row.id, row.name.as_str(), row.email.as_str()), (id, "Ada", "Ada@Example.com"));
    assert_eq!((row.user_id, row.status, row.version), (Some(user), CustomerStatus::Suspended, 2));
    let of_user = find(tenant, CustomerRow::USER_ID, &user).await.expect("reads");
    assert_eq!(of_user.as_ref(), Some(&row));
    assert_eq!(as_of::<CustomerRow>(tenant, id, None).await.expect("folds"), Some(row.clone()));
    let first = as_of::<CustomerRow>(tenant, id, Some(AsOf::Version(1))).await.expect("folds");
    let first = first.expect("is there");
    assert_eq!(
        (first.status, first.version, first.updated_at),
        (CustomerStatus::Active, 1, row.registered_at)
    );

    for nobody in [ids::new_id(), Uuid::nil()] {
        assert!(get::<CustomerRow>(tenant, nobody).await.is_none());
        assert!(find(tenant, CustomerRow::USER_ID, &nobody).await.expect("reads").is_none());
        assert!(as_of::<CustomerRow>(tenant, nobody, None).await.expect("folds").is_none());
    }
}

#[tokio::test]
async fn users_are_listed_and_looked_up() {
    let setup = Setup::new().await;
    let ada = setup.register_user("Ada", "Ada@Example.com").await;
    setup.register_user("Bo", "bo@example.com").await;
    setup.settled().await;
    let tenant = &setup.tenant;

    let row = get::<UserRow>(tenant, ada).await.expect("is there");
    assert_eq!((row.name.as_str(), row.email.as_str(), row.version), ("Ada", "Ada@Example.com", 1));
    assert_eq!(
        (row.status, row.roles.as_slice()),
        (UserStatus::Unconfirmed, &["member", "tenant_admin"].map(str::to_owned)[..])
    );
    assert_eq!(as_of::<UserRow>(tenant, ada, None).await.expect("folds"), Some(row));

    let found = |filter: Value| async move {
        let select = select::<UserRow>(&filter, "NAME_DESC");
        let page = list::<UserRow>(tenant, &select, PageRequest::first(10)).await.expect("reads");
        assert_eq!(page.total, Some(page.rows.len() as u64));
        page.rows.into_iter().map(|entry| entry.row.name).collect::<Vec<_>>()
    };
    assert_eq!(found(json!({})).await, ["Bo", "Ada"]);
    assert_eq!(found(json!({"email": "ADA@example.com"})).await, ["Ada"]);
    assert_eq!(found(json!({"name": "B"})).await, ["Bo"]);
    assert!(found(json!({"status": "ACTIVE"})).await.is_empty());
}

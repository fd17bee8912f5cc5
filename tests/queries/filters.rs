//! What filters find, and single look-ups.

use queries::PageRequest;
use queries::crm::customer::{self, CustomerFilter, CustomerOrder};
use queries::identity::user::{self, UserFilter, UserOrder};
use schemas::crm::customer::CustomerStatus;
use schemas::engine::ids;
use schemas::identity::role::Role;
use schemas::identity::user::UserStatus;
use uuid::Uuid;

use crate::support::rows::Setup;

async fn names(setup: &Setup, filter: CustomerFilter) -> Vec<String> {
    let page = customer::list(&setup.tenant, &filter, CustomerOrder::NameAsc, PageRequest::first(100)).await;
    let rows = page.expect("reads").rows;
    assert_eq!(customer::count(&setup.tenant, &filter).await.expect("counts"), rows.len() as u64);
    rows.into_iter().map(|entry| entry.row.name).collect()
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

    let status = |status| CustomerFilter { status: Some(status), ..Default::default() };
    assert_eq!(names(&setup, status(CustomerStatus::Suspended)).await, ["Ada Lovelace"]);
    assert_eq!(names(&setup, status(CustomerStatus::Closed)).await, ["Adam"]);
    assert_eq!(names(&setup, status(CustomerStatus::Active)).await.len(), 3);

    let email = |text: &str| CustomerFilter { email: Some(text.to_owned()), ..Default::default() };
    for text in ["ada@example.com", "ADA@EXAMPLE.COM", " Ada@Example.com "] {
        assert_eq!(names(&setup, email(text)).await, ["Ada Lovelace"]);
    }
    assert!(names(&setup, email("ada@example.co")).await.is_empty());

    let prefix = |text: &str| CustomerFilter { name_prefix: Some(text.to_owned()), ..Default::default() };
    assert_eq!(names(&setup, prefix("Ad")).await, ["Ada Lovelace", "Adam", "Ad\u{10FFFF}"]);
    assert_eq!(names(&setup, prefix("Ad\u{10FFFF}")).await, ["Ad\u{10FFFF}"]);
    assert_eq!(names(&setup, prefix("100% _\\'")).await, ["100% _\\'"]);
    assert!(names(&setup, prefix("ad")).await.is_empty());
    assert!(names(&setup, prefix("%")).await.is_empty());
    assert_eq!(names(&setup, prefix("")).await.len(), 5);

    let of_user = CustomerFilter { user_id: Some(user), ..Default::default() };
    assert_eq!(names(&setup, of_user.clone()).await, ["Ada Lovelace"]);
    let both = CustomerFilter { status: Some(CustomerStatus::Active), ..of_user };
    assert!(names(&setup, both).await.is_empty());

    // PostgreSQL knows no zero character; a search for one finds nothing and is no fault.
    assert!(names(&setup, prefix("A\0")).await.is_empty());
    assert!(names(&setup, email("\0")).await.is_empty());
}

#[tokio::test]
async fn a_customer_is_looked_up_by_id_by_user_and_by_its_own_events() {
    let setup = Setup::new().await;
    let user = ids::new_id();
    let id = setup.register("Ada", "Ada@Example.com", Some(user)).await;
    setup.suspend(id).await;
    setup.settled().await;
    let tenant = &setup.tenant;

    let row = customer::get(tenant, id).await.expect("reads").expect("is there");
    assert_eq!((row.id, row.name.as_str(), row.email.as_str()), (id, "Ada", "Ada@Example.com"));
    assert_eq!((row.user_id, row.status, row.version), (Some(user), CustomerStatus::Suspended, 2));
    assert_eq!(customer::by_user(tenant, user).await.expect("reads").as_ref(), Some(&row));
    assert_eq!(customer::at_version(tenant, id, None).await.expect("folds"), Some(row.clone()));
    let first = customer::at_version(tenant, id, Some(1)).await.expect("folds").expect("is there");
    assert_eq!(
        (first.status, first.version, first.updated_at),
        (CustomerStatus::Active, 1, row.registered_at)
    );

    for nobody in [ids::new_id(), Uuid::nil()] {
        assert!(customer::get(tenant, nobody).await.expect("reads").is_none());
        assert!(customer::by_user(tenant, nobody).await.expect("reads").is_none());
        assert!(customer::at_version(tenant, nobody, None).await.expect("folds").is_none());
    }
}

#[tokio::test]
async fn users_are_listed_and_looked_up() {
    let setup = Setup::new().await;
    let ada = setup.register_user("Ada", "Ada@Example.com").await;
    setup.register_user("Bo", "bo@example.com").await;
    setup.settled().await;
    let tenant = &setup.tenant;

    let row = user::get(tenant, ada).await.expect("reads").expect("is there");
    assert_eq!((row.name.as_str(), row.email.as_str(), row.version), ("Ada", "Ada@Example.com", 1));
    assert_eq!(
        (row.status, row.roles.as_slice()),
        (UserStatus::Unconfirmed, &[Role::Member, Role::TenantAdmin][..])
    );
    assert_eq!(user::at_version(tenant, ada, None).await.expect("folds"), Some(row));

    let found = |filter: UserFilter| async move {
        let page =
            user::list(tenant, &filter, UserOrder::NameDesc, PageRequest::first(10)).await.expect("reads");
        assert_eq!(user::count(tenant, &filter).await.expect("counts"), page.rows.len() as u64);
        page.rows.into_iter().map(|entry| entry.row.name).collect::<Vec<_>>()
    };
    assert_eq!(found(UserFilter::default()).await, ["Bo", "Ada"]);
    let email = UserFilter { email: Some("ADA@example.com".to_owned()), ..Default::default() };
    assert_eq!(found(email).await, ["Ada"]);
    let prefix = UserFilter { name_prefix: Some("B".to_owned()), ..Default::default() };
    assert_eq!(found(prefix).await, ["Bo"]);
    let active = UserFilter { status: Some(UserStatus::Active), ..Default::default() };
    assert!(found(active).await.is_empty());
}

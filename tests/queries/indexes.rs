//! Every filter and order that is offered is served by an index, with row-level security on.

use schemas::engine::ids;
use store::TenantStore;

use crate::support::postgres::{Database, open_tenant};

const ID: &str = "00000000-0000-0000-0000-000000000000";

/// What PostgreSQL's own statistics make it choose for a page of 20.
async fn plan(tenant: &TenantStore, condition: &str, order: &str) -> String {
    let transaction = tenant.begin().await.expect("begins");
    let sql = format!(
        "explain select id from customers_v1 where tenant_id = '{}' and {condition} order by {order} limit 20",
        tenant.id()
    );
    let rows = transaction.query(&sql, &[]).await.expect("explains");
    transaction.commit().await.expect("ends");
    rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn filters_and_places_are_index_conditions() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let superuser = database.connect("postgres").await;
    // Two tenants, one of them with most of the rows; few suspended customers, all names and addresses different.
    for (tenant, rows) in [(tenant.id().0, 5_000), (ids::new_id(), 20_000)] {
        let insert = format!(
            "insert into customers_v1 (tenant_id, id, user_id, name, email, email_key, status, version,
                                       registered_at, updated_at)
             select '{tenant}', gen_random_uuid(), gen_random_uuid(), md5(n::text), n || '@example.com',
                    n || '@example.com', case when n % 500 = 0 then 'suspended' else 'active' end, 1,
                    now() - n * interval '1 minute', now()
             from generate_series(1, {rows}) n"
        );
        superuser.batch_execute(&insert).await.expect("inserts");
    }
    superuser.batch_execute("analyze customers_v1").await.expect("analyses");

    let by_time = format!("(registered_at, id) > (now() - interval '5 hours', '{ID}')");
    let by_name = format!("(name, id) < ('fff', '{ID}')");
    let by_user = format!("user_id = '{ID}'");
    for (condition, order, indexed) in [
        (by_time.as_str(), "registered_at, id", "(ROW(registered_at, id) >"),
        (&by_time, "registered_at desc, id desc", "(ROW(registered_at, id) >"),
        (&by_name, "name desc, id desc", "(ROW(name, id) <"),
        ("status = 'suspended'", "registered_at, id", "(status ="),
        ("status = 'suspended'", "name, id", "(status ="),
        ("name >= 'abc' and name < 'abd'", "name, id", "(name >="),
        ("email_key = '7@example.com'", "registered_at, id", "(email_key ="),
        (&by_user, "name, id", "(user_id ="),
    ] {
        let plan = plan(&tenant, condition, order).await;
        let index_condition = plan.lines().find(|line| line.contains("Index Cond")).unwrap_or_default();
        assert!(index_condition.contains(indexed), "{condition}, by {order}:\n{plan}");
    }
    for order in ["registered_at, id", "registered_at desc, id desc", "name, id", "name desc, id desc"] {
        let plan = plan(&tenant, "true", order).await;
        assert!(!plan.contains("Sort") && !plan.contains("Seq Scan"), "by {order}:\n{plan}");
    }
}

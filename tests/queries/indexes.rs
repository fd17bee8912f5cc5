//! Every filter and order that is offered is served by an index, with row-level security on.

use schemas::engine::ids;
use store::TenantStore;

use crate::support::postgres::{Database, open_tenant};

const ID: &str = "00000000-0000-0000-0000-000000000000";

/// What PostgreSQL's own statistics make it choose for a page of 20.
async fn plan(tenant: &TenantStore, condition: &str, order: &str) -> String {
    let transaction = tenant.begin().await.expect("begins");
    let sql = format!(
        "explain select id from customers_v2 where tenant_id = '{}' and {condition} order by {order} limit 20",
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
            "insert into customers_v2 (tenant_id, id, user_id, name, email, email_key, status, erased, version,
                                       registered_at, updated_at)
             select '{tenant}', gen_random_uuid(), gen_random_uuid(), md5(n::text), n || '@example.com',
                    n || '@example.com', case when n % 500 = 0 then 'suspended' else 'active' end, false, 1,
                    now() - n * interval '1 minute', now()
             from generate_series(1, {rows}) n"
        );
        superuser.batch_execute(&insert).await.expect("inserts");
    }
    superuser.batch_execute("analyze customers_v2").await.expect("analyses");

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

#[tokio::test]
async fn what_a_proof_is_folded_from_is_read_by_an_index_however_large_the_log_is() {
    let database = Database::create().await;
    let tenant = open_tenant(&database.store().await, "acme").await;
    let superuser = database.connect("postgres").await;
    let insert = format!(
        "insert into events select '{0}', n, n, now(), gen_random_uuid(), 1, 1, 'ext.load/1', 'ext.load.recorded.v1',
                                   '{{}}', '{{}}', '', '', '\\x00' from generate_series(1, 30000) n;
         insert into subtrees select '{0}', 1, n, '\\x00' from generate_series(0, 30000) n;
         analyze events; analyze subtrees",
        tenant.id()
    );
    superuser.batch_execute(&insert).await.expect("inserts");
    let leaves = audit::merkle::LEAVES_QUERY;
    let subtrees = audit::merkle::SUBTREES_QUERY.replace("$4", "1");
    for (sql, index) in [(leaves, "events_pkey"), (&subtrees, "subtrees_pkey")] {
        let sql = sql
            .replace("$1", &format!("'{}'", tenant.id()))
            .replace("$2", "'{0, 9000}'")
            .replace("$3", "'{128, 9001}'");
        let transaction = tenant.begin().await.expect("begins");
        let rows = transaction.query(&format!("explain {sql}"), &[]).await.expect("explains");
        transaction.commit().await.expect("ends");
        let plan: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let plan = plan.join("\n");
        assert!(plan.contains(&format!("Index Scan using {index}")) && !plan.contains("Seq Scan"), "{plan}");
    }
}

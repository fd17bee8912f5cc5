//! The catalogue against the matrix of `docs/roles.md`: who may do what, and that every table is fenced.

use std::collections::{BTreeMap, BTreeSet};

use super::isolation::TENANT_TABLES;
use crate::support::postgres::Database;

/// Tables without a tenant, each with its reason.
const NOT_OF_A_TENANT: [(&str, &str); 5] = [
    ("paused_projections", "a read model paused for all tenants"),
    ("workers", "the processes at work"),
    ("relay_stream", "one row about the JetStream stream"),
    ("refinery_schema_history", "the migrations done"),
    ("deployment", "one row about the whole deployment"),
];

const RUNTIME_ROLES: [&str; 8] = [
    "annals_appender",
    "annals_lookup",
    "annals_tenant",
    "annals_projector",
    "annals_scratch",
    "annals_worker",
    "annals_relay",
    "annals_sealer",
];

/// The matrix of `docs/roles.md`: a line `| table | role: rights; role: rights |`.
fn documented() -> BTreeMap<(String, String), BTreeSet<String>> {
    let text = include_str!("../../docs/roles.md");
    let mut matrix = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let table = cells[0].trim_matches('`');
        for grant in cells[1].split(';').map(str::trim).filter(|grant| !grant.is_empty()) {
            let (role, rights) = grant.split_once(':').expect("role: rights");
            let rights = rights.split(',').map(|right| right.trim().to_lowercase()).collect();
            matrix.insert((table.to_owned(), role.trim().to_owned()), rights);
        }
    }
    matrix
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_matches_the_documented_matrix() {
    let database = Database::create().await;
    let admin = database.connect("postgres").await;
    let rows = admin
        .query(
            "select table_name::text, grantee::text, lower(privilege_type::text) from information_schema.table_privileges
             where table_schema = 'public' and grantee like 'annals%' and grantee <> 'annals_owner'
             union all
             select c.table_name::text, c.grantee::text,
                    lower(c.privilege_type) || ' (' || string_agg(c.column_name, ' ' order by c.column_name) || ')'
             from information_schema.column_privileges c
             where c.table_schema = 'public' and c.grantee like 'annals%' and c.grantee <> 'annals_owner'
               and not exists (select from information_schema.table_privileges t
                               where t.table_name = c.table_name and t.grantee = c.grantee
                                 and t.privilege_type = c.privilege_type and t.table_schema = 'public')
             group by c.table_name, c.grantee, c.privilege_type",
            &[],
        )
        .await
        .expect("reads the catalogue");
    let mut catalogue: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for row in rows {
        let role: String = row.get(1);
        let role = role.trim_start_matches("annals_").to_owned();
        catalogue.entry((row.get(0), role)).or_default().insert(row.get(2));
    }
    let documented = documented();
    for (key, rights) in &catalogue {
        assert_eq!(documented.get(key), Some(rights), "the catalogue grants, docs/roles.md: {key:?}");
    }
    for key in documented.keys() {
        assert!(catalogue.contains_key(key), "docs/roles.md grants, the catalogue does not: {key:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_a_tenant_is_fenced_and_keyed_by_it() {
    let database = Database::create().await;
    let admin = database.connect("postgres").await;
    let tables = admin
        .query(
            "select c.relname::text, c.relrowsecurity, c.relforcerowsecurity,
                    exists (select from pg_attribute a
                            where a.attrelid = c.oid and a.attname = 'tenant_id' and not a.attisdropped)
             from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f')",
            &[],
        )
        .await
        .expect("reads");
    for row in &tables {
        let (table, enabled, forced, of_a_tenant): (String, bool, bool, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        if !of_a_tenant {
            assert!(
                NOT_OF_A_TENANT.iter().any(|(name, _)| *name == table),
                "{table} has no tenant and no reason"
            );
            continue;
        }
        assert!(TENANT_TABLES.contains(&table.as_str()), "{table} is new: name it in TENANT_TABLES");
        assert!(enabled && forced, "{table} is not fenced");
        let fences = admin
            .query(
                "select qual, with_check from pg_policies
                 where tablename = $1 and permissive = 'RESTRICTIVE' and roles = '{annals_tenants}' and cmd = 'ALL'",
                &[&table],
            )
            .await
            .expect("reads");
        assert_eq!(fences.len(), 1, "{table} has one fence");
        let (using, check): (String, String) = (fences[0].get(0), fences[0].get(1));
        assert_eq!(using, check);
        assert!(
            using.starts_with("(tenant_id = ( SELECT (NULLIF(current_setting('annals.tenant'::text, true)"),
            "{using}"
        );
    }
    let loose = admin
        .query(
            "select c.relname::text, i.indexrelid::regclass::text from pg_index i join pg_class c on c.oid = i.indrelid
             join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
             where c.relnamespace = 'public'::regnamespace and i.indisunique and a.attname <> 'tenant_id'",
            &[],
        )
        .await
        .expect("reads");
    let loose: Vec<(String, String)> = loose.iter().map(|row| (row.get(0), row.get(1))).collect();
    // A slug is unique over all tenants: that is what a slug is.
    let allowed = [
        "tenants_slug_key",
        "relay_stream_pkey",
        "workers_pkey",
        "refinery_schema_history_pkey",
        "paused_projections_pkey",
        "deployment_pkey",
    ];
    assert!(loose.iter().all(|(_, index)| allowed.contains(&index.as_str())), "{loose:?}");
    let foreign: i64 = admin
        .query_one("select count(*) from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace", &[])
        .await
        .expect("reads")
        .get(0);
    assert_eq!(foreign, 0, "foreign keys would have to start with tenant_id");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_runtime_role_has_power_over_roles_or_policies() {
    let database = Database::create().await;
    let admin = database.connect("postgres").await;
    for role in RUNTIME_ROLES {
        let row = admin
            .query_one(
                "select rolsuper or rolbypassrls or rolcreaterole or rolcreatedb or rolreplication,
                        pg_has_role(rolname, 'annals_owner', 'member'),
                        exists (select from pg_class c where c.relowner = r.oid),
                        has_schema_privilege(rolname, 'public', 'create')
                 from pg_roles r where rolname = $1",
                &[&role],
            )
            .await
            .expect("the role exists");
        let powers: [bool; 4] = [row.get(0), row.get(1), row.get(2), row.get(3)];
        assert_eq!(powers, [false; 4], "{role}");
    }
    let cross_tenant = admin
        .query(
            "select distinct policyname::text from pg_policies where roles <> '{annals_tenants}' order by 1",
            &[],
        )
        .await
        .expect("reads");
    let cross_tenant: Vec<String> = cross_tenant.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        cross_tenant,
        [
            "appender_set",
            "lookup_all",
            "owner_platform",
            "projector_keeps",
            "projector_removes",
            "relay_all",
            "sealer_all",
            "worker_all"
        ]
    );
}

/// The test of the test: a table without a fence is found.
#[tokio::test(flavor = "multi_thread")]
async fn an_unfenced_table_would_be_found() {
    let database = Database::create().await;
    let admin = database.connect("postgres").await;
    admin.batch_execute("create table stray (tenant_id uuid)").await.expect("creates");
    let fenced: bool = admin
        .query_one("select relrowsecurity from pg_class where relname = 'stray'", &[])
        .await
        .expect("reads")
        .get(0);
    assert!(!fenced);
}

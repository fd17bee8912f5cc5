//! Relations: rows of one level come with one statement, whatever the number of their parents, on both ways; nested lists
//! show what the root lists show with the parent's id as a filter.
//!
//! The product has no nested list yet. Here customers are described anew, as a list of their user.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use gateway::auth::{Audience, Caller, Claims};
use gateway::graphql::{ApiSchema, schema_of};
use projections::{OutOfSequence, Projection, ReadModel, UserRow};
use schemas::crm::customer::{CustomerEvent, CustomerStatus};
use schemas::engine::{EmailKey, Moment, ids, read_model};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::Tier;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::postgres::Database;
use crate::support::rows::Setup;

/// A customer. Several may be the same user.
#[read_model("customers.v2", visible_to = CrmRead, order = registered_at, owner = user_id)]
pub struct CustomerRow {
    /// The user who is this customer, if any.
    #[column(find, to = UserRow, back = "customers")]
    pub user_id: Option<Uuid>,
    /// Name.
    #[column(prefix, order)]
    pub name: String,
    /// E-mail address.
    pub email: String,
    #[column(find, hidden = "email")]
    pub email_key: EmailKey,
    /// Company.
    pub company: Option<String>,
    /// Notes.
    pub notes: Option<String>,
    /// Status.
    #[column(group)]
    pub status: CustomerStatus,
    /// Whether the personal data were erased.
    pub erased: bool,
    /// When the customer was registered.
    pub registered_at: DateTime<Utc>,
}

impl Projection for CustomerRow {
    type Event = CustomerEvent;

    /// The product's own projection keeps the rows.
    fn apply(_: Option<Self>, _: CustomerEvent, _: &Moment) -> Result<Option<Self>, OutOfSequence> {
        Err(OutOfSequence)
    }
}

static READ_MODELS: &[ReadModel] = &[ReadModel::of::<CustomerRow>(), ReadModel::of::<UserRow>()];

/// Both ways to an answer.
struct BothWays {
    executor: ApiSchema,
    planned: ApiSchema,
}

impl BothWays {
    fn of(setup: &Setup, read_models: &'static [ReadModel]) -> Self {
        let schema = |compiled| schema_of(read_models, setup.executor.clone(), false, compiled);
        Self { executor: schema(false), planned: schema(true) }
    }

    /// The answer, which is the same both ways, and whether a plan gave it.
    async fn answer(&self, caller: &Caller, query: &str, variables: &Value) -> (Value, bool) {
        let text = |answered: (Vec<u8>, bool)| (String::from_utf8(answered.0).expect("UTF-8"), answered.1);
        let ask = async |schema: &ApiSchema| {
            text(schema.query(caller, query, variables.clone()).await.expect("the document is not refused"))
        };
        let (expected, compiled) = ask(&self.executor).await;
        assert!(!compiled);
        let mut by_plan = false;
        for round in 0..2 {
            let (answer, compiled) = ask(&self.planned).await;
            assert_eq!(answer, expected, "round {round}: {query}");
            by_plan = compiled;
        }
        (serde_json::from_str(&expected).expect("JSON"), by_plan)
    }

    /// The data of an administrator's answer, which a plan gives without errors.
    async fn data(&self, caller: &Caller, query: &str, variables: Value) -> Value {
        let (mut answer, by_plan) = self.answer(caller, query, &variables).await;
        assert!(by_plan && answer.get("errors").is_none(), "{query}: {answer}");
        answer["data"].take()
    }
}

async fn caller(setup: &Setup, user: Uuid, roles: &[Role], scopes: &[Scope]) -> Caller {
    let record = setup.store.tenant_by_id(setup.tenant.id()).await.expect("reads").expect("is there");
    let claims = Claims {
        iss: "tests".to_owned(),
        aud: vec![Audience::Public],
        sub: user,
        tid: record.id,
        tenant: record.slug.clone(),
        email: String::new(),
        name: String::new(),
        roles: roles.to_vec(),
        scopes: scopes.to_vec(),
        subscription_tier: Tier::Free,
        iat: 0,
        exp: i64::MAX,
        // A service's token has its own id.
        jti: if roles.is_empty() { user } else { ids::new_id() },
    };
    Caller::new(Arc::new(claims), record, setup.tenant.clone())
}

/// Users with the given numbers of customers, and one customer who is no user.
async fn with_customers(setup: &Setup, numbers: &[usize]) -> Vec<Uuid> {
    let mut users = Vec::new();
    for (index, count) in numbers.iter().enumerate() {
        let user = setup.register_user(&format!("User {index}"), &format!("u{index}@example.com")).await;
        for number in 0..*count {
            let name = ["Ada", "Bo", "Zo\u{eb}"][number % 3];
            let id = setup.register(name, "ada@example.com", Some(user)).await;
            if number % 2 == 1 {
                setup.suspend(id).await;
            }
        }
        users.push(user);
    }
    setup.register("Nora", "nora@example.com", None).await;
    setup.settled().await;
    users
}

const ARGUMENTS: [&str; 7] = [
    "",
    "(first: 2)",
    "(first: 2, orderBy: NAME_DESC)",
    "(filter: {status: SUSPENDED}, orderBy: NAME_ASC)",
    "(first: $first, filter: {name: \"A\"})",
    "(first: $first, orderBy: REGISTERED_AT_DESC, filter: $filter)",
    "(first: 100, filter: {userId: $user})",
];

/// A query with the definitions of the variables in it.
fn defined(selections: &str) -> String {
    let variables = ["$first: Int", "$filter: CustomerFilter", "$user: ID", "$parent: ID", "$end: String"];
    let used = |definition: &&str| {
        let name = definition.split(':').next().expect("a name");
        selections.contains(&format!(" {name}"))
    };
    let used: Vec<&str> = variables.into_iter().filter(used).collect();
    if used.is_empty() { selections.to_owned() } else { format!("query ({}) {selections}", used.join(", ")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_lists_are_the_root_lists_of_each_parent_and_page_on_there() {
    let setup = Setup::new().await;
    let users = with_customers(&setup, &[5, 0, 3, 1]).await;
    let both = BothWays::of(&setup, READ_MODELS);
    let admin = caller(&setup, ids::new_id(), &[Role::TenantAdmin], &[]).await;
    let parts = "totalCount pageInfo { hasNextPage hasPreviousPage startCursor endCursor } \
                 edges { cursor node { id name user { name } } }";
    for arguments in ARGUMENTS {
        let query = defined(&format!(
            "{{ users(first: 3) {{ nodes {{ id customers{arguments} {{ {parts} nodes {{ name user {{ id \
             customers(first: 1) {{ nodes {{ id }} }} }} }} }} }} }} }}"
        ));
        let variables = json!({"first": 1, "filter": {"status": "ACTIVE"}, "user": users[0]});
        let nested = both.data(&admin, &query, variables.clone()).await;
        let parents = nested["users"]["nodes"].as_array().expect("parents");
        assert_eq!(parents.len(), 3);
        for parent in parents {
            // The same at the root: with the parent's id in the filter.
            let at_root = match arguments {
                "" => "(filter: {userId: $parent})".to_owned(),
                with if with.contains("$user") && parent["id"] != users[0].to_string() => continue,
                with if with.contains("$user") => with.to_owned(),
                with if with.contains("$filter") => {
                    with.replace("$filter", "{userId: $parent, status: ACTIVE}")
                }
                with if with.contains("filter: {") => with.replace("filter: {", "filter: {userId: $parent, "),
                with => with.replace(')', ", filter: {userId: $parent})"),
            };
            let on = |page: &str| at_root.replace(')', &format!("{page})"));
            let query = |arguments: &str| defined(&format!("{{ customers{arguments} {{ {parts} }} }}"));
            let mut variables = variables.clone();
            variables["parent"] = parent["id"].clone();
            let root = both.data(&admin, &query(&at_root), variables.clone()).await;
            let mut shown = parent["customers"].clone();
            shown.as_object_mut().expect("an object").remove("nodes");
            assert_eq!(shown, root["customers"], "{arguments}");
            // The rest is behind the end of the nested page.
            let page = &shown["pageInfo"];
            if page["hasNextPage"] == true {
                variables["end"] = page["endCursor"].clone();
                let rest = both.data(&admin, &query(&on(", after: $end")), variables).await;
                let count = |list: &Value| list["edges"].as_array().expect("edges").len() as u64;
                assert!(
                    count(&rest["customers"]) > 0 && rest["customers"]["pageInfo"]["hasPreviousPage"] == true
                );
                let seen = count(&shown) + count(&rest["customers"]);
                let more = rest["customers"]["pageInfo"]["hasNextPage"] == true;
                assert_eq!(seen == shown["totalCount"].as_u64().expect("a number"), !more, "{arguments}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_see_no_more_through_a_relation_than_without_it() {
    let setup = Setup::new().await;
    let users = with_customers(&setup, &[2, 1]).await;
    let both = BothWays::of(&setup, READ_MODELS);
    let of_users = "{ users { nodes { id customers { totalCount nodes { id user { id } } } } } }";
    let of_customers =
        "{ customers(orderBy: NAME_ASC) { nodes { name user { id customers { totalCount } } } } }";

    // A member sees itself and its own customers.
    let member = caller(&setup, users[1], &[Role::Member], &[]).await;
    let seen = both.data(&member, of_users, json!({})).await;
    let id = &seen["users"]["nodes"][0]["customers"]["nodes"][0]["id"];
    let own = json!({"totalCount": 1, "nodes": [{"id": id, "user": {"id": users[1]}}]});
    assert_eq!(seen["users"]["nodes"], json!([{"id": users[1], "customers": own}]));

    // A service that may read customers gets no users, and one that may read users no customers.
    let of_crm = caller(&setup, ids::new_id(), &[], &[Scope::CrmRead]).await;
    let seen = both.data(&of_crm, of_customers, json!({})).await;
    let nodes = seen["customers"]["nodes"].as_array().expect("nodes");
    assert!(nodes.len() == 4 && nodes.iter().all(|node| node["user"].is_null()), "{seen}");
    let of_identity = caller(&setup, ids::new_id(), &[], &[Scope::UsersRead]).await;
    let (answer, by_plan) = both.answer(&of_identity, of_users, &json!({})).await;
    assert!(!by_plan);
    let parents = answer["data"]["users"]["nodes"].as_array().expect("nodes");
    assert!(parents.len() == 2 && parents.iter().all(|node| node["customers"].is_null()), "{answer}");
    let path = |index: usize| json!(["users", "nodes", index, "customers"]);
    assert_eq!((&answer["errors"][0]["path"], &answer["errors"][1]["path"]), (&path(0), &path(1)));
    assert_eq!(answer["errors"][0]["extensions"]["code"], "FORBIDDEN");
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_of_a_nested_list_are_checked_like_those_of_the_root() {
    let setup = Setup::new().await;
    with_customers(&setup, &[1]).await;
    let both = BothWays::of(&setup, READ_MODELS);
    let admin = caller(&setup, ids::new_id(), &[Role::TenantAdmin], &[]).await;
    for (arguments, code) in [
        ("first: 101", "LIMIT_EXCEEDED"),
        ("first: 0", "BAD_REQUEST"),
        ("filter: {userId: \"none\"}", "BAD_REQUEST"),
    ] {
        let query = format!("{{ users {{ nodes {{ name customers({arguments}) {{ totalCount }} }} }} }}");
        let (answer, _) = both.answer(&admin, &query, &json!({})).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], code, "{answer}");
        assert_eq!(answer["data"]["users"]["nodes"], json!([{"name": "User 0", "customers": null}]));
    }
    let deep = "query ($n: Int) { users(first: 100) { nodes { customers(first: $n) { nodes { id } } } } }";
    for (rows, refused) in [(99, false), (100, true)] {
        for schema in [&both.executor, &both.planned, &both.planned] {
            let answered = schema.query(&admin, deep, json!({"n": rows})).await;
            assert_eq!(answered.is_err(), refused, "{rows}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_past_have_no_relations() {
    let setup = Setup::new().await;
    let users = with_customers(&setup, &[1]).await;
    let both = BothWays::of(&setup, &projections::READ_MODELS);
    let admin = caller(&setup, ids::new_id(), &[Role::TenantAdmin], &[]).await;
    let listed =
        both.data(&admin, "{ customers(filter: {name: \"Ada\"}) { nodes { id } } }", json!({})).await;
    let id = &listed["customers"]["nodes"][0]["id"];
    let query = "query ($id: ID!, $user: ID!) { now: customer(id: $id) { userId user { id } } \
                 then: customer(id: $id, asOf: {version: 1}) { userId user { id } } \
                 user(id: $user, asOf: {version: 1}) { id customer { id } } \
                 customerHistory(id: $id) { nodes { state { userId user { id } } } } }";
    let (answer, by_plan) = both.answer(&admin, query, &json!({"id": id, "user": users[0]})).await;
    assert!(!by_plan && answer.get("errors").is_none(), "{answer}");
    let then = json!({"userId": users[0], "user": null});
    let expected = json!({
        "now": {"userId": users[0], "user": {"id": users[0]}},
        "then": then,
        "user": {"id": users[0], "customer": null},
        "customerHistory": {"nodes": [{"state": then}]},
    });
    assert_eq!(answer["data"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_any_read_model_are_found_by_their_ids() {
    let database = Database::create().await;
    database.log_statements().await;
    let setup = Setup::over(database.store().await).await;
    let users = with_customers(&setup, &[1, 1]).await;
    let both = BothWays::of(&setup, &projections::READ_MODELS);
    let admin = caller(&setup, ids::new_id(), &[Role::TenantAdmin], &[]).await;
    let listed =
        both.data(&admin, "{ customers(filter: {name: \"Ada\"}) { nodes { id userId } } }", json!({})).await;
    let customers = listed["customers"]["nodes"].as_array().expect("customers");
    let ids = json!([users[1], "none", customers[0]["id"], ids::new_id(), users[1], customers[1]["id"]]);
    let query = "query ($ids: [ID!]!) { nodes(ids: $ids) { __typename id ... on Customer { user { id } } \
                 ... on User { registeredAt customer { name } } } }";

    let before = database.statements().len();
    let (text, _) = both.executor.query(&admin, query, json!({"ids": ids})).await.expect("answers");
    let statements = database.statements().split_off(before);
    let answer: Value = serde_json::from_slice(&text).expect("JSON");
    assert!(answer.get("errors").is_none(), "{answer}");
    let nodes = answer["data"]["nodes"].as_array().expect("nodes");
    let found: Vec<&Value> = nodes.iter().map(|node| &node["id"]).collect();
    let nothing = &Value::Null;
    assert_eq!(json!(found), json!([ids[0], nothing, ids[2], nothing, ids[4], ids[5]]), "{answer}");
    assert!(nodes[1].is_null() && nodes[3].is_null());
    let kinds: Vec<&Value> = nodes.iter().map(|node| &node["__typename"]).collect();
    assert_eq!(json!(kinds), json!(["User", nothing, "Customer", nothing, "User", "Customer"]));
    assert_eq!(
        (&nodes[2]["user"]["id"], &nodes[0]["customer"]["name"]),
        (&customers[0]["userId"], &json!("Ada"))
    );
    let of_user = both
        .data(&admin, "query ($id: ID!) { user(id: $id) { registeredAt } }", json!({"id": users[1]}))
        .await;
    assert_eq!(nodes[0]["registeredAt"], of_user["user"]["registeredAt"]);
    // One for the ids, one for the users of customers, one for the customers of users.
    let reads = statements.iter().filter(|(role, text)| role == "annals_tenant" && text.contains("_v2"));
    assert_eq!(reads.count(), 3, "{statements:#?}");

    // Others see their own, or none.
    let node = "query ($id: ID!) { node(id: $id) { id ... on Customer { name } } }";
    let member = caller(&setup, users[0], &[Role::Member], &[]).await;
    let reader = caller(&setup, ids::new_id(), &[], &[Scope::CrmRead]).await;
    let reader_of_events = caller(&setup, ids::new_id(), &[], &[Scope::EventsRead]).await;
    let own = customers.iter().find(|customer| customer["userId"] == json!(users[0])).expect("the member's");
    let other = customers.iter().find(|customer| customer["userId"] == json!(users[1])).expect("another's");
    for (caller, id, is_seen) in [
        (&admin, &json!(users[1]), true),
        (&member, &json!(users[0]), true),
        (&member, &json!(users[1]), false),
        (&member, &own["id"], true),
        (&member, &other["id"], false),
        (&reader, &own["id"], true),
        (&reader, &json!(users[0]), false),
        (&reader_of_events, &own["id"], false),
    ] {
        let (answer, by_plan) = both.answer(caller, node, &json!({"id": id})).await;
        assert!(!by_plan && answer.get("errors").is_none());
        assert_eq!(answer["data"]["node"].is_object(), is_seen, "{id}: {answer}");
    }
    let many: Vec<Uuid> = (0..101).map(|_| ids::new_id()).collect();
    assert!(both.executor.query(&admin, query, json!({"ids": many})).await.is_err());
    assert!(both.executor.query(&admin, query, json!({"ids": many[1..]})).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_level_costs_one_statement_whatever_the_number_of_parents() {
    let database = Database::create().await;
    database.log_statements().await;
    let setup = Setup::over(database.store().await).await;
    with_customers(&setup, &[1; 100]).await;
    let admin = caller(&setup, ids::new_id(), &[Role::TenantAdmin], &[]).await;
    let statements = || {
        let logged = database.statements().into_iter();
        logged
            .filter(|(role, text)| role == "annals_tenant" && text.contains("from"))
            .filter(|(_, text)| text.contains("customers_v2") || text.contains("users_v2"))
    };
    let one = "query ($n: Int) { customers(first: $n) { nodes { name user { name customer { name user { email } } } } } }";
    let many = "query ($n: Int) { users(first: $n) { nodes { customers(first: 2) { totalCount edges { node { name \
                user { name } } } } } } }";
    for (read_models, query, expected) in [(&*projections::READ_MODELS, one, 4), (READ_MODELS, many, 4)] {
        for parents in [1, 10, 100] {
            let both = BothWays::of(&setup, read_models);
            for (schema, by_plan) in [(&both.executor, false), (&both.planned, false), (&both.planned, true)]
            {
                let before = statements().count();
                let (_, planned) = schema.query(&admin, query, json!({"n": parents})).await.expect("answers");
                let ran: Vec<_> = statements().skip(before).collect();
                assert_eq!((planned, ran.len()), (by_plan, expected), "{parents} parents: {ran:#?}");
            }
        }
    }
}

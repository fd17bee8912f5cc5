//! Compiled reads answer with the bytes of the library's executor: two gateways over the same data, one of them without
//! plans, get the same generated documents, variables and callers.

use std::fmt::Write;

use nix::sys::signal::Signal;
use serde_json::{Map, Value, json};

use crate::cli::serve::{serve, started};
use crate::support::dice::Dice;
use crate::support::process::send as send_signal;
use crate::support::product::{PASSWORD, client, send};
use crate::support::{Product, eventually, long};

/// Names that need an escape in JSON, or that only bytes can sort.
const NAMES: [&str; 8] =
    ["Ada", "ada", "Bo \"B\" \\", "Zo\u{eb}", "\u{10348}", "Caf\u{e9}", "</script>", "a\u{2028}b"];
const COLUMNS: [&str; 12] = [
    "id",
    "userId",
    "name",
    "email",
    "company",
    "notes",
    "status",
    "erased",
    "version",
    "registeredAt",
    "updatedAt",
    "__typename",
];
const USER_COLUMNS: [&str; 9] =
    ["id", "email", "name", "roles", "status", "erased", "version", "registeredAt", "__typename"];
const PAGE_INFO: [&str; 5] = ["hasNextPage", "hasPreviousPage", "startCursor", "endCursor", "__typename"];

/// A document with its variables.
struct Generated {
    dice: Dice,
    variables: Map<String, Value>,
    definitions: String,
    fragments: String,
    ids: Vec<String>,
    cursors: Vec<String>,
}

impl Generated {
    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.dice.below(from.len() as u64) as usize]
    }

    fn one_in(&mut self, of: u64) -> bool {
        self.dice.below(of) == 0
    }

    /// Some fields, now and then under another name, twice, or in a fragment.
    fn fields(&mut self, columns: &[&str], type_name: &str) -> String {
        let mut text = String::new();
        for _ in 0..=self.dice.below(6) {
            let column = self.pick(columns);
            match self.dice.below(12) {
                0 => write!(text, " other{}: {column}", self.dice.below(3)),
                1 => write!(text, " ... {{ {column} }}"),
                2 => write!(text, " ... on {type_name} {{ {column} {} }}", columns[0]),
                3 => {
                    let name = format!("F{}", self.fragments.matches("fragment ").count());
                    write!(self.fragments, " fragment {name} on {type_name} {{ {column} }}").expect("memory");
                    write!(text, " ...{name}")
                }
                // Plans give up on directives.
                4 if self.one_in(3) => write!(text, " {column} @include(if: true)"),
                _ => write!(text, " {column}"),
            }
            .expect("writing to memory");
        }
        text
    }

    /// [`Self::fields`] of a row, now and then with what it is related to: also under another name, twice, in a fragment.
    fn row(&mut self, object: &str, depth: u32) -> String {
        let (columns, field, other) = match object {
            "Customer" => (&COLUMNS[..], "user", "User"),
            _ => (&USER_COLUMNS[..], "customer", "Customer"),
        };
        let mut text = self.fields(columns, object);
        while depth > 0 && self.one_in(2) {
            let related = format!("{field} {{{} }}", self.row(other, depth - 1));
            match self.dice.below(6) {
                0 => write!(text, " related{}: {related}", self.dice.below(2)),
                1 => write!(text, " ... on {object} {{ {related} }}"),
                2 => {
                    text = format!(" {related}{text}");
                    Ok(())
                }
                _ => write!(text, " {related}{}", self.fields(columns, object)),
            }
            .expect("writing to memory");
        }
        text
    }

    /// An argument, as a constant or as a variable.
    fn argument(&mut self, name: &str, ty: &str, constant: &str, value: Value) -> String {
        if self.one_in(2) {
            return format!("{name}: {constant}");
        }
        let variable = format!("v{}", self.variables.len() + self.definitions.matches('$').count());
        write!(self.definitions, " ${variable}: {ty}").expect("writing to memory");
        if !self.one_in(8) {
            self.variables.insert(variable.clone(), value);
        }
        format!("{name}: ${variable}")
    }

    fn page(&mut self) -> Vec<String> {
        let mut arguments = Vec::new();
        let size = self.pick(&[1, 2, 5, 20, 100, 0, -1, 101]);
        let cursor = match self.dice.below(4) {
            0 => "nonsense".to_owned(),
            _ if self.cursors.is_empty() => String::new(),
            _ => self.cursors[self.dice.below(self.cursors.len() as u64) as usize].clone(),
        };
        let (count, place) = self.pick(&[("first", "after"), ("first", "after"), ("last", "before")]);
        if !self.one_in(3) {
            arguments.push(self.argument(count, "Int", &size.to_string(), json!(size)));
        }
        if self.one_in(2) {
            arguments.push(self.argument(place, "String", &format!("\"{cursor}\""), json!(cursor)));
        }
        if self.one_in(12) {
            arguments.push("last: 1".to_owned());
        }
        arguments
    }

    fn filter(&mut self, object: &str) -> Vec<String> {
        let mut arguments = Vec::new();
        let ty = format!("{object}Filter");
        match self.dice.below(6) {
            0 => {
                arguments.push(self.argument("filter", &ty, "{status: ACTIVE}", json!({"status": "ACTIVE"})));
            }
            1 => arguments.push(self.argument("filter", &ty, "{name: \"A\"}", json!({"name": "A"}))),
            2 => arguments.push(self.argument("filter", &ty, "null", Value::Null)),
            3 => {
                let email = self.argument("email", "String", "\"ADA@example.com\"", json!("ADA@example.com"));
                arguments.push(format!("filter: {{{email}}}"));
            }
            4 if self.one_in(3) => {
                let wrong = self.pick(&[r#"{"status":"NONE"}"#, r#"{"unknown":1}"#, r#"{"email":5}"#]);
                let wrong: Value = serde_json::from_str(wrong).expect("JSON");
                arguments.push(self.argument("filter", &ty, "{}", wrong));
            }
            _ => {}
        }
        if self.one_in(2) {
            let order = self.pick(&["NAME_ASC", "NAME_DESC", "REGISTERED_AT_ASC", "REGISTERED_AT_DESC"]);
            arguments.push(self.argument("orderBy", &format!("{object}Order"), order, json!(order)));
        }
        arguments
    }

    fn root(&mut self) -> String {
        let (object, one, many) = self.pick(&[
            ("Customer", "customer", "customers"),
            ("Customer", "customer", "customers"),
            ("User", "user", "users"),
        ]);
        match self.dice.below(8) {
            0 if self.one_in(2) => "__typename".to_owned(),
            // Plans give up on these.
            0 => {
                let mut id = || self.ids[self.dice.below(self.ids.len() as u64) as usize].clone();
                let ids = json!([id(), id(), id()]);
                let ids = self.argument("ids", "[ID!]!", &ids.to_string(), ids);
                format!("nodes({ids}) {{ __typename id ... on {object} {{{} }} }}", self.row(object, 1))
            }
            1 | 2 => {
                let id = self.ids[self.dice.below(self.ids.len() as u64) as usize].clone();
                let id = self.argument("id", "ID!", &format!("\"{id}\""), json!(id));
                let fields = self.row(object, 3);
                format!("{one}({id}) {{{fields} }}")
            }
            _ => {
                let mut arguments = self.page();
                arguments.extend(self.filter(object));
                let arguments =
                    if arguments.is_empty() { String::new() } else { format!("({})", arguments.join(", ")) };
                let mut selected = String::new();
                for _ in 0..=self.dice.below(3) {
                    let part = match self.dice.below(5) {
                        0 => format!(" edges {{ cursor node {{{} }} }}", self.row(object, 3)),
                        1 => " totalCount".to_owned(),
                        2 => format!(" pageInfo {{{} }}", self.fields(&PAGE_INFO, "PageInfo")),
                        3 => " __typename".to_owned(),
                        _ => format!(" nodes {{{} }}", self.row(object, 3)),
                    };
                    selected.push_str(&part);
                }
                format!("{many}{arguments} {{{selected} }}")
            }
        }
    }

    fn document(&mut self) -> (String, Value) {
        (self.variables, self.definitions, self.fragments) = (Map::new(), String::new(), String::new());
        let mut roots = String::new();
        for index in 0..=self.dice.below(3) {
            write!(roots, " r{index}: {}", self.root()).expect("writing to memory");
        }
        let definitions =
            if self.definitions.is_empty() { String::new() } else { format!("({})", self.definitions) };
        let document = format!("query Q{definitions} {{{roots} }}{}", self.fragments);
        (document, Value::Object(std::mem::take(&mut self.variables)))
    }
}

/// The body of an answer without the request's id.
async fn answered(url: &str, token: &str, body: &Value) -> String {
    let answer = client()
        .post(format!("{url}/graphql"))
        .bearer_auth(token)
        .header("X-Request-ID", "compared")
        .json(body)
        .send()
        .await
        .expect("answers");
    let status = answer.status();
    format!("{status} {}", answer.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_answer_with_the_bytes_of_the_executor() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let mut ids = vec!["no id".to_owned(), "00000000-0000-0000-0000-000000000000".to_owned()];
    for (index, name) in NAMES.iter().cycle().take(30).enumerate() {
        let input = json!({"input": {"name": name, "email": format!("ADA{}@example.com", index % 3)}});
        let mutation = "mutation ($input: RegisterCustomerInput!) { it: registerCustomer(input: $input) { customer { id } } }";
        let id = tenant.graphql(mutation, input).await["it"]["customer"]["id"].take();
        if index % 4 == 0 {
            tenant
                .graphql(
                    "mutation ($id: ID!) { suspendCustomer(input: {id: $id}) { outcome } }",
                    json!({"id": id}),
                )
                .await;
        }
        ids.push(id.as_str().expect("an id").to_owned());
    }
    for name in ["Member", "Zoe"] {
        let email = format!("{}@plans.example", name.to_lowercase());
        let member = tenant.register(&email, name).await;
        ids.push(member["user"]["id"].as_str().expect("an id").to_owned());
    }
    let login = json!({"email": "member@plans.example", "password": PASSWORD});
    let (_, signed_in) = send(tenant.anonymous(reqwest::Method::POST, "/v1/auth/login").json(&login)).await;
    let member_token = signed_in["access_token"].as_str().expect("a token").to_owned();
    eventually("the read models follow", || async {
        let seen = tenant.graphql("{ customers { totalCount } users { totalCount } }", json!({})).await;
        let counted = (&seen["customers"]["totalCount"], &seen["users"]["totalCount"]);
        (counted == (&json!(32), &json!(3))).then_some(())
    })
    .await;
    let listed = tenant.graphql("{ customers(first: 100) { edges { cursor } } }", json!({})).await;
    let edges = listed["customers"]["edges"].as_array().expect("edges").clone();
    let cursors = edges.iter().map(|edge| edge["cursor"].as_str().expect("a cursor").to_owned()).collect();
    let tokens = [
        // Most documents are answered with data.
        tenant.token.clone(),
        tenant.token.clone(),
        tenant.token.clone(),
        member_token,
        tenant.service(&["crm:read"]).await,
        tenant.service(&["users:read"]).await,
        tenant.service(&["events:read"]).await,
    ];

    let mut without = serve(&product.annals.settings(), "gateway");
    without.env("ANNALS__GATEWAY__COMPILED_READS", "false");
    let (mut child, log, running) = started(without);
    // An unread log would fill the pipe and block the process.
    let log = std::thread::spawn(move || log.map_while(Result::ok).count());
    let executor = format!("http://{}", running["public"].as_str().expect("an address"));
    let planned = product.url("");

    let seed = long::seed();
    println!("seed {seed}");
    let mut generated = Generated {
        dice: Dice::new(seed),
        variables: Map::new(),
        definitions: String::new(),
        fragments: String::new(),
        ids,
        cursors,
    };
    let documents = if std::env::var_os("ANNALS_TEST_LONG").is_some() { 20_000 } else { 250 };
    let mut with_data = 0;
    for _ in 0..documents {
        let (query, variables) = generated.document();
        let body = json!({"query": query, "variables": variables});
        let token = tokens[generated.dice.below(tokens.len() as u64) as usize].clone();
        let expected = answered(&executor, &token, &body).await;
        // The first answer of the other gateway is the executor's as well, and makes the plan.
        for round in 0..2 {
            assert_eq!(answered(&planned, &token, &body).await, expected, "round {round}: {body}");
        }
        with_data += usize::from(!expected.contains("\"errors\""));
    }
    assert!(with_data > documents / 4, "{with_data} documents of {documents} were answered");

    // Plans were used, and were not used everywhere.
    let metrics = client()
        .get(format!("{}/metrics", product.annals.text("operations_url")))
        .send()
        .await
        .expect("answers");
    let metrics = metrics.text().await.expect("text");
    let counted = |outcome: &str| {
        let start = format!("annals_graphql_plans_total{{outcome=\"{outcome}\"}} ");
        let line = metrics.lines().find_map(|line| line.strip_prefix(&start));
        line.map_or(0.0, |number| number.parse::<f64>().expect("a number"))
    };
    assert!(counted("planned") > 0.0 && counted("unplannable") > 0.0, "{metrics}");

    send_signal(child.id(), Signal::SIGTERM);
    assert!(child.wait().expect("it is our child").success());
    log.join().expect("the log is text");
}

//! An auditor looks back with a token and no database: the history with filters and bounds, whole read models as they
//! were, what became of them; stopped half-way, and refused.

use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::{StatusCode as Status, Uri};
use axum::response::{IntoResponse, Response};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::support::process::run;
use crate::support::product::{Product, Tenant, client, send};
use crate::support::{eventually, folder};

/// A tenant with some history, its administrator's token in a file, and the operator's settings.
struct Case<'a> {
    tenant: Tenant<'a>,
    folder: tempfile::TempDir,
    settings: String,
    events: Vec<Value>,
}

impl Case<'static> {
    /// Three users, the customers that the saga makes of them, and one that is renamed and closed.
    async fn prepared() -> Self {
        let tenant = Product::shared().tenant().await;
        for name in ["Ada", "Bo", "Cy"] {
            tenant.register(&format!("{name}@example.com"), name).await;
        }
        let events = eventually("the saga has made the customers", || async {
            let events = tenant.events().await;
            let made = events.iter().filter(|event| event["type"] == "crm.customer.registered.v1").count();
            (made == 3).then_some(events)
        })
        .await;
        let customer = events.iter().find(|event| event["type"] == "crm.customer.registered.v1");
        let subject = customer.expect("a customer")["subject"].as_str().expect("a stream");
        let id = subject.rsplit('/').next().expect("an id");
        for (command, input) in
            [("renameCustomer", json!({"id": id, "name": "Renamed"})), ("closeCustomer", json!({"id": id}))]
        {
            let (first, rest) = command.split_at(1);
            let input_type = format!("{}{rest}Input", first.to_uppercase());
            let query =
                format!("mutation ($input: {input_type}!) {{ {command}(input: $input) {{ outcome }} }}");
            let answer = tenant.graphql(&query, json!({"input": input})).await;
            assert_eq!(answer[command]["outcome"], "APPLIED");
        }
        let folder = folder();
        std::fs::write(folder.path().join("token"), &tenant.token).expect("written");
        let settings = tenant.product.annals.settings();
        let events = tenant.events().await;
        Self { tenant, folder, settings, events }
    }

    fn at(&self, url: &str, arguments: &[&str]) -> Output {
        let token = self.folder.path().join("token").display().to_string();
        run(&[arguments, &["--url", url, "--token-file", &token, "--output", "jsonl"]].concat())
    }

    /// What a command prints over the API, which it must do alike on the database.
    fn lines(&self, arguments: &[&str]) -> Vec<Value> {
        let remote = self.at(&self.tenant.product.url(""), arguments);
        assert_eq!(remote.status.code(), Some(0), "{}", String::from_utf8_lossy(&remote.stderr));
        let here = ["--config", &self.settings, "--tenant", &self.tenant.slug, "--output", "jsonl"];
        let local = run(&[arguments, &here].concat());
        assert_eq!(local.status.code(), Some(0), "{}", String::from_utf8_lossy(&local.stderr));
        let (mut remote, mut local) = (lines(&remote.stdout), lines(&local.stdout));
        if arguments[0] == "event" {
            // Over the database personal data stay sealed.
            for (open, sealed) in remote.iter().zip(&mut local) {
                if sealed["data"].to_string().contains("$sealed") {
                    assert!(!open["data"].to_string().contains("$sealed"), "{open}");
                    sealed["data"] = open["data"].clone();
                }
            }
        }
        if arguments.contains(&"diff") {
            // Over the API rows come as they were touched, from a scratch table by their keys.
            for lines in [&mut remote, &mut local] {
                lines.sort_by_key(|line| line["id"].to_string());
            }
        }
        assert_eq!(remote, local, "{arguments:?}");
        remote
    }

    fn replay(&self, arguments: &[&str]) -> Vec<Value> {
        // What comes later is not in the way.
        let head = self.events.len().to_string();
        let bound: &[&str] = if arguments.contains(&"--to") { &[] } else { &["--to", &head] };
        self.lines(&[&["event", "replay"], arguments, bound].concat())
    }

    fn events_that(&self, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        self.events.iter().filter(|event| wanted(event)).cloned().collect()
    }

    fn exit(&self, arguments: &[&str]) -> Option<i32> {
        self.at(&self.tenant.product.url(""), arguments).status.code()
    }
}

fn lines(text: &[u8]) -> Vec<Value> {
    let text = std::str::from_utf8(text).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// The product behind a door that shortens pages to three and says, by the number of the request, what to answer instead.
struct Door {
    url: String,
    asked: Arc<AtomicUsize>,
    _serving: AbortOnDropHandle<()>,
}

impl Door {
    async fn with(answers: impl Fn(usize) -> Option<Status> + Clone + Send + Sync + 'static) -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let (count, product) = (Arc::clone(&asked), Product::shared());
        let handler = async move |uri: Uri, headers: axum::http::HeaderMap| -> Response {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(status) = answers(number) {
                return (status, [("retry-after", "0")]).into_response();
            }
            let path = uri.path_and_query().expect("a path").as_str().replace("limit=500", "limit=3");
            let mut request = client().get(product.url(&path));
            for (name, value) in &headers {
                if name != "host" {
                    request = request.header(name.as_str(), value.as_bytes());
                }
            }
            let (status, body) = send(request).await;
            (Status::from_u16(status.as_u16()).expect("a status"), body.to_string()).into_response()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move {
            axum::serve(listener, Router::new().fallback(handler)).await.expect("serves");
        });
        Self { url, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_is_replayed_by_type_stream_position_and_time() {
    let case = Case::prepared().await;
    let text = |event: &Value, name: &str| event[name].as_str().expect("text").to_owned();
    let position = |event: &Value| text(event, "position").parse::<usize>().expect("a number");
    assert_eq!(case.replay(&[]), case.events);
    let crm = case.events_that(|event| text(event, "type").starts_with("crm."));
    assert_eq!(case.replay(&["--type", "crm.>"]), crm);
    let registered = case.events_that(|event| text(event, "type").contains(".registered."));
    assert_eq!(
        case.replay(&["--type", "crm.*.registered.v1", "--type", "identity.*.registered.v1"]),
        registered
    );
    let stream = text(&crm[0], "subject");
    let of_stream = case.events_that(|event| text(event, "subject") == stream);
    assert!(of_stream.len() == 3 || of_stream.len() == 1, "{of_stream:?}");
    assert_eq!(case.replay(&["--stream", &stream]), of_stream);
    let users = case.events_that(|event| text(event, "subject").starts_with("identity.user/"));
    assert_eq!(case.replay(&["--stream", "identity.user/*"]), users);
    assert_eq!(case.replay(&["--from", "3", "--to", "5"]), case.events[2..5]);
    assert_eq!(case.replay(&["--from", "3", "--to", "2"]), Vec::<Value>::new());
    // Times do not decrease along the positions; some events may have one in common.
    let middle = text(&case.events[4], "time");
    let by = case.events_that(|event| text(event, "time") <= middle);
    let after = case.events_that(|event| text(event, "time") > middle);
    assert_eq!(case.replay(&["--as-of", &middle]), by);
    assert_eq!(case.replay(&["--after-time", &middle]), after);
    let both = case.replay(&["--after-time", &middle, "--type", "crm.>", "--from", "1"]);
    assert_eq!(both, case.events_that(|event| text(event, "time") > middle && crm.contains(event)));
    assert_eq!(case.replay(&["--as-of", "2020-01-01T00:00:00Z"]), Vec::<Value>::new());
    assert_eq!(position(&case.events[4]), 5);

    for (arguments, code) in [
        (&["event", "replay", "--type", "a..b"][..], 2),
        (&["event", "replay", "--stream", "x"], 2),
        (&["event", "replay", "--tenant", "demo"], 4),
        (&["event", "replay", "--log", "01234567-89ab-7def-8123-456789abcdef"], 3),
        (&["event", "replay", "--as-of", &middle, "--log", "01234567-89ab-7def-8123-456789abcdef"], 3),
    ] {
        assert_eq!(case.exit(arguments), Some(code), "{arguments:?}");
    }
    assert_eq!(run(&["event", "replay", "--url", "http://localhost"]).status.code(), Some(2), "no token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_asks_again_within_bounds_and_goes_on_where_it_stopped() {
    let case = Case::prepared().await;
    let all = case.events.len();
    assert!(all > 9, "{all}");
    // Busy now and then: nothing is missing.
    let busy = Door::with(|number| match number % 3 {
        1 => Some(Status::TOO_MANY_REQUESTS),
        2 => Some(Status::SERVICE_UNAVAILABLE),
        _ => None,
    })
    .await;
    let to = all.to_string();
    let output = case.at(&busy.url, &["event", "replay", "--to", &to]);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(lines(&output.stdout), case.events);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("trying again") && told.contains(&format!("of {all} events")), "{told}");

    // Busy for ever: it gives up.
    let closed = Door::with(|_| Some(Status::SERVICE_UNAVAILABLE)).await;
    let output = case.at(&closed.url, &["event", "replay"]);
    assert_eq!((output.status.code(), closed.asked()), (Some(8), 6));
    assert!(!String::from_utf8_lossy(&output.stderr).contains("go on with"), "nothing was read");

    // Broken behind the second page: what it says is where the next one goes on.
    let broken = Door::with(|number| (number > 2).then_some(Status::INTERNAL_SERVER_ERROR)).await;
    let output = case.at(&broken.url, &["event", "replay", "--to", &to]);
    assert_eq!((output.status.code(), broken.asked()), (Some(1), 3));
    let mut printed = lines(&output.stdout);
    assert_eq!(printed, case.events[..6]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = told.lines().find_map(|line| line.strip_prefix("stopped behind position 6; go on with "));
    let resume: Vec<&str> = line.unwrap_or_else(|| panic!("{told}")).split(' ').collect();
    let output = case
        .at(&case.tenant.product.url(""), &[&["event", "replay", "--to", &to], resume.as_slice()].concat());
    printed.extend(lines(&output.stdout));
    assert_eq!(printed, case.events);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_model_is_shown_as_it_was_and_compared_over_the_api() {
    let case = Case::prepared().await;
    let positions: Vec<String> = (0..=case.events.len()).map(|position| position.to_string()).collect();
    let of = |kind: &str| {
        let is_meant = |event: &&Value| event["type"] == kind;
        case.events.iter().filter(is_meant).collect::<Vec<_>>()
    };
    let closed = of("crm.customer.closed.v1")[0];
    let at: usize = closed["position"].as_str().and_then(|at| at.parse().ok()).expect("a position");
    let replay = |at: usize| case.lines(&["projection", "replay", "customers", "--at", &positions[at]]);
    let found = |rows: &[Value]| {
        let id = closed["subject"].as_str().and_then(|subject| subject.rsplit('/').next()).expect("an id");
        rows.iter().find(|row| row["id"] == id).cloned().expect("the customer")
    };
    assert_eq!(replay(0), Vec::<Value>::new());
    let (before, behind) = (replay(at - 1), replay(at));
    assert_eq!((before.len(), behind.len()), (3, 3));
    let (before, behind) = (found(&before), found(&behind));
    assert_eq!((&before["status"], &behind["status"]), (&json!("active"), &json!("closed")));
    assert_eq!((&before["name"], &before["version"]), (&json!("Renamed"), &json!(2)));
    assert_eq!(
        behind["updated_at"].as_str().map(|time| &time[..19]),
        closed["time"].as_str().map(|time| &time[..19])
    );
    let time = closed["time"].as_str().expect("a time");
    let by_time = case.lines(&["projection", "replay", "customers.v2", "--as-of", time]);
    assert_eq!(found(&by_time), behind);
    assert_eq!(case.lines(&["projection", "replay", "users", "--at", &positions[at]]).len(), 4);

    // Between two positions over the API, a page of three events at a time.
    let diff = |from: usize, to: usize| {
        case.lines(&["projection", "diff", "customers", "--from", &positions[from], "--to", &positions[to]])
    };
    let change = diff(at - 1, at);
    assert_eq!((change.len(), &change[0]["kind"]), (1, &json!("changed")));
    assert_eq!(change[0]["fields"]["status"], json!({"before": "active", "after": "closed"}));
    assert_eq!(change[0]["fields"]["version"], json!({"before": 2, "after": 3}));
    assert_eq!(diff(at, at), Vec::<Value>::new());
    let all = diff(0, case.events.len());
    assert!(all.len() == 3 && all.iter().all(|change| change["kind"] == "added"), "{all:?}");
    let door = Door::with(|_| None).await;
    let arguments = ["projection", "diff", "customers", "--from", "0", "--to", &positions[case.events.len()]];
    let mut by_threes = lines(&case.at(&door.url, &arguments).stdout);
    by_threes.sort_by_key(|line| line["id"].to_string());
    assert_eq!(by_threes, all);
    assert!(door.asked() > 1, "more than a page");
    let by_threes =
        lines(&case.at(&door.url, &["projection", "replay", "users", "--at", &positions[at]]).stdout);
    assert_eq!(by_threes, case.lines(&["projection", "replay", "users", "--at", &positions[at]]));

    let head = tenant_head(&case.tenant).await;
    let beyond = (head + 1_000_000).to_string();
    for (arguments, code) in [
        (&["projection", "replay", "nothing"][..], 3),
        (&["projection", "replay", "customers", "--at", &beyond], 6),
        (&["projection", "diff", "customers", "--from", "2", "--to", "1"], 2),
        (&["projection", "diff", "customers"], 2),
        (&["projection", "diff", "customers", "--serving"], 2),
        (&["projection", "replay", "customers", "--tenant", "demo"], 4),
        (&["projection", "replay", "customers", "--log", "01234567-89ab-7def-8123-456789abcdef"], 3),
    ] {
        assert_eq!(case.exit(arguments), Some(code), "{arguments:?}");
    }
}

async fn tenant_head(tenant: &Tenant<'_>) -> u64 {
    let (_, page) = send(tenant.admin(Method::GET, "/v1/events?limit=1")).await;
    page["head"].as_u64().expect("a head")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_of_a_read_model_is_for_those_who_may_audit_and_see_it() {
    let case = Case::prepared().await;
    let member = case.tenant.login("Ada@example.com").await;
    // Each of them may do a part of it.
    let service = async |scope: &str| {
        let body = json!({"name": crate::support::unique("reader"), "scopes": [scope], "expires_days": 1});
        let request = case.tenant.admin(Method::POST, "/v1/service-tokens").json(&body);
        let (status, answer) = send(request).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        answer["access_token"].as_str().expect("a token").to_owned()
    };
    let (reader, follower) = (service("crm:read").await, service("events:read").await);
    let blind = service("audit:read").await;
    let ask = async |token: &str, path: &str| {
        let path = format!("/v1/audit/{path}");
        send(case.tenant.product.request(Method::GET, &path).bearer_auth(token)).await
    };
    for path in ["read-models/customers", "read-models/customers/changes?from=0"] {
        assert_eq!(ask(&member, path).await.0, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(ask(&reader, path).await.0, StatusCode::FORBIDDEN, "{path}");
        assert_eq!(
            ask(&blind, path).await.0,
            StatusCode::FORBIDDEN,
            "it may look back, and not see customers: {path}"
        );
        assert_eq!(ask(&case.tenant.token, path).await.0, StatusCode::OK, "{path}");
        let anonymous = case.tenant.anonymous(Method::GET, &format!("/v1/audit/{path}"));
        assert_eq!(send(anonymous).await.0, StatusCode::UNAUTHORIZED, "{path}");
    }
    for token in [&follower, &blind] {
        assert_eq!(ask(token, "position?time=2030-01-01T00:00:00Z").await.0, StatusCode::OK);
    }
    for token in [&member, &reader] {
        assert_eq!(ask(token, "position?time=2030-01-01T00:00:00Z").await.0, StatusCode::FORBIDDEN);
    }
    for (path, status) in [
        ("read-models/nothing", StatusCode::NOT_FOUND),
        ("read-models/invoices.v1", StatusCode::NOT_FOUND),
        ("read-models/customers.v9", StatusCode::NOT_FOUND),
        ("read-models/nothing/changes?from=0", StatusCode::NOT_FOUND),
        ("read-models/customers?at=99999999", StatusCode::BAD_REQUEST),
        ("read-models/customers?at=99999999999999999999", StatusCode::BAD_REQUEST),
        ("read-models/customers?at=-1", StatusCode::BAD_REQUEST),
        ("read-models/customers?limit=0", StatusCode::BAD_REQUEST),
        ("read-models/customers?limit=501", StatusCode::BAD_REQUEST),
        ("read-models/customers?after=x", StatusCode::BAD_REQUEST),
        ("read-models/customers?colour=red", StatusCode::BAD_REQUEST),
        ("read-models/customers?log=01234567-89ab-7def-8123-456789abcdef", StatusCode::GONE),
        ("read-models/customers/changes", StatusCode::BAD_REQUEST),
        ("read-models/customers/changes?from=2&to=1", StatusCode::BAD_REQUEST),
        ("read-models/customers/changes?from=99999999", StatusCode::BAD_REQUEST),
        ("read-models/customers/changes?from=0&after=9223372036854775807", StatusCode::OK),
        ("position", StatusCode::BAD_REQUEST),
        ("position?time=yesterday", StatusCode::BAD_REQUEST),
    ] {
        let (answered, body) = ask(&case.tenant.token, path).await;
        assert_eq!(answered, status, "{path}: {body}");
    }
    // Another tenant's rows are out of reach.
    let other = Product::shared().tenant().await;
    let (status, page) = send(other.admin(Method::GET, "/v1/audit/read-models/customers")).await;
    assert_eq!((status, &page["rows"]), (StatusCode::OK, &json!([])));
}

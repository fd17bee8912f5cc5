//! Bad input: each is answered as the contract says, and the log stays as it was.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::Product;
use crate::support::product::{PASSWORD, Tenant, client, send};

/// Asserts a problem document of this status and code.
fn assert_problem((status, problem): (StatusCode, Value), expected: u16, code: &str) -> Value {
    assert_eq!((status.as_u16(), problem["code"].as_str()), (expected, Some(code)), "{problem}");
    assert_eq!(problem["status"], expected);
    for field in ["type", "title", "request_id"] {
        assert!(problem[field].is_string(), "{field} in {problem}");
    }
    problem
}

async fn post(
    tenant: &Tenant<'_>,
    path: &str,
    content_type: &str,
    body: impl Into<reqwest::Body>,
) -> (StatusCode, Value) {
    let request = tenant.anonymous(Method::POST, path).header("content-type", content_type).body(body);
    let answer = request.send().await.expect("answers");
    let status = answer.status();
    assert_eq!(answer.headers()["content-type"], "application/problem+json");
    (status, answer.json().await.expect("JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_what_was_asked_for() {
    let tenant = Product::shared().tenant().await;
    let before = tenant.events().await;
    let register = "/v1/auth/register";
    let good = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    for malformed in
        ["", "{", "[]", "null", "\"text\"", "{\"email\":1,\"password\":\"x\",\"name\":\"Ada\"}", "{} {}"]
    {
        assert_problem(post(&tenant, register, "application/json", malformed).await, 400, "bad_request");
    }
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
        assert_problem(
            post(&tenant, register, content_type, good.to_string()).await,
            415,
            "unsupported_media_type",
        );
    }
    let large = json!({"email": "ada@example.com", "password": PASSWORD, "name": "x".repeat(300 * 1024)});
    assert_problem(post(&tenant, register, "application/json", large.to_string()).await, 413, "too_large");
    let mut unknown = good.clone();
    unknown["colour"] = json!("red");
    let problem = assert_problem(
        post(&tenant, register, "application/json", unknown.to_string()).await,
        422,
        "invalid",
    );
    assert_eq!(problem["errors"][0]["field"], "colour");
    let invalid = json!({"email": "nobody", "password": "short", "name": " "});
    let problem = assert_problem(
        post(&tenant, register, "application/json", invalid.to_string()).await,
        422,
        "invalid",
    );
    let fields: Vec<&str> = problem["errors"]
        .as_array()
        .expect("errors")
        .iter()
        .filter_map(|error| error["field"].as_str())
        .collect();
    assert_eq!(fields, ["email", "password", "name"], "{problem}");
    for missing in ["email", "password", "name"] {
        let mut body = good.clone();
        body.as_object_mut().expect("an object").remove(missing);
        let problem = assert_problem(
            post(&tenant, register, "application/json", body.to_string()).await,
            422,
            "invalid",
        );
        assert_eq!(problem["errors"][0]["field"], missing);
    }
    let request =
        tenant.anonymous(Method::POST, register).header("Idempotency-Key", "not a uuid").json(&good);
    assert_problem(send(request).await, 400, "bad_request");
    assert_eq!(tenant.events().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_are_missing_unknown_or_closed() {
    let product = Product::shared();
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "name": "Ada"});
    let register = || product.request(Method::POST, "/v1/auth/register").json(&body);
    assert_problem(send(register()).await, 400, "bad_request");
    for unknown in ["nobody-here", "UPPER", "a b", "x"] {
        assert_problem(send(register().header("X-Tenant-ID", unknown)).await, 404, "tenant_unknown");
    }
    assert_problem(send(register().header("X-Tenant-ID", "platform")).await, 403, "forbidden");
    let slug = crate::support::unique("closed");
    let tenant = json!({"slug": slug, "name": "Closed", "tier": "free"});
    let (status, answer) =
        send(product.request(Method::POST, "/v1/tenants").bearer_auth(product.admin_token()).json(&tenant))
            .await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_problem(send(register().header("X-Tenant-ID", &slug)).await, 403, "forbidden");
    let demo = product.demo();
    let request = product.request(Method::POST, "/v1/tenants").bearer_auth(&demo.token).json(&tenant);
    assert_problem(send(request).await, 403, "forbidden");
    let taken = product.request(Method::POST, "/v1/tenants").bearer_auth(product.admin_token()).json(&tenant);
    let (status, _) = send(taken).await;
    assert_eq!(status, StatusCode::CONFLICT);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_ours() {
    let product = Product::shared();
    let tenant = product.tenant().await;
    let genuine = &tenant.token;
    let parts: Vec<&str> = genuine.split('.').collect();
    let none = base64url(br#"{"alg":"none","typ":"JWT"}"#);
    let hs256 = base64url(br#"{"alg":"HS256","typ":"JWT"}"#);
    let forged = [
        String::new(),
        "x".to_owned(),
        format!("{}.{}.", none, parts[1]),
        format!("{}.{}.{}", hs256, parts[1], parts[2]),
        format!("{}.{}.{}", parts[0], base64url(br#"{"sub":"x","exp":9999999999}"#), parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], "A".repeat(86)),
        genuine[..genuine.len() - 4].to_owned(),
    ];
    for token in &forged {
        for path in ["/v1/auth/me", "/v1/events", "/v1/events/stream"] {
            let request =
                product.request(Method::GET, path).header("authorization", format!("Bearer {token}"));
            assert_problem(send(request).await, 401, "unauthenticated");
        }
    }
    assert_problem(send(product.request(Method::GET, "/v1/auth/me")).await, 401, "unauthenticated");
    assert_problem(
        send(product.request(Method::GET, "/v1/auth/me").header("authorization", "Basic eDp5")).await,
        401,
        "unauthenticated",
    );
    // A token in the query string is no token.
    let (status, _) =
        send(product.request(Method::GET, &format!("/v1/auth/me?access_token={genuine}"))).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    let graphql =
        product.request(Method::POST, "/graphql").bearer_auth("x").json(&json!({"query": "{ me { id } }"}));
    let (_, answer) = send(graphql).await;
    let code = answer["errors"][0]["extensions"]["code"].as_str().or(answer["code"].as_str());
    assert!(matches!(code, Some("UNAUTHENTICATED" | "unauthenticated")), "{answer}");
}

/// A genuine token of another deployment, and one of this one that has expired: signed for real, with real keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_and_an_expired_token() {
    let other = Product::start(&["--ephemeral"]);
    let product = Product::shared();
    let foreign = product.request(Method::GET, "/v1/auth/me").bearer_auth(other.access_token());
    assert_problem(send(foreign).await, 401, "unauthenticated");

    let pem = std::fs::read(find(&product.annals.data_dir(), "signing")).expect("the signing key");
    let key = jsonwebtoken::EncodingKey::from_ed_pem(&pem).expect("a key");
    let mut claims: Value = decode(product.access_token().split('.').nth(1).expect("claims"));
    let header = jsonwebtoken::decode_header(product.access_token()).expect("a header");
    let sign = |claims: &Value| jsonwebtoken::encode(&header, claims, &key).expect("signs");
    let fresh = product.request(Method::GET, "/v1/auth/me").bearer_auth(sign(&claims));
    assert_eq!(send(fresh).await.0, StatusCode::OK, "the test's own signature is good");
    for (claim, value) in
        [("exp", json!(1_600_000_000)), ("aud", json!(["elsewhere"])), ("iss", json!("elsewhere"))]
    {
        let genuine = claims[claim].take();
        claims[claim] = value;
        let request = product.request(Method::GET, "/v1/auth/me").bearer_auth(sign(&claims));
        assert_problem(send(request).await, 401, "unauthenticated");
        claims[claim] = genuine;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_its_limit_is_refused_whole() {
    let tenant = Product::shared().tenant().await;
    let before = tenant.events().await;
    let mutation = "mutation ($input: RegisterCustomerInput!) { registerCustomer(input: $input) { outcome userErrors { code path } } }";
    let input = |notes: usize| json!({"input": {"name": "Ada", "email": "ada@example.com", "notes": "x".repeat(notes)}});
    let answer = tenant.graphql(mutation, input(20_000)).await;
    assert_eq!(
        answer["registerCustomer"],
        json!({"outcome": "REJECTED", "userErrors": [{"code": "INVALID", "path": ["notes"]}]})
    );
    let body = json!({"query": mutation, "variables": input(300 * 1024)});
    assert_problem(send(tenant.admin(Method::POST, "/graphql").json(&body)).await, 413, "too_large");
    assert_eq!(tenant.events().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_methods_that_are_not_there() {
    let product = Product::shared();
    assert_problem(send(product.request(Method::GET, "/v1/nothing")).await, 404, "not_found");
    let (status, problem) = send(product.request(Method::DELETE, "/v1/auth/login")).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{problem}");
    assert_problem(send(product.demo().admin(Method::GET, "/v1/events?colour=red")).await, 422, "invalid");
    assert_problem(send(product.demo().admin(Method::GET, "/v1/events?after=x")).await, 400, "bad_request");
    let beyond = send(product.demo().admin(Method::GET, "/v1/events?after=99999999")).await;
    assert_problem(beyond, 400, "bad_request");
    // The operations listener has probes and metrics, and nothing else.
    let operations = product.annals.text("operations_url");
    for (path, expected) in
        [("/livez", 200), ("/readyz", 200), ("/metrics", 200), ("/v1/auth/me", 404), ("/", 404)]
    {
        let status = client().get(format!("{operations}{path}")).send().await.expect("answers").status();
        assert_eq!(status.as_u16(), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_graphql_fields_and_inputs_are_bad_requests() {
    let tenant = Product::shared().tenant().await;
    for document in [
        "{ nothing }",
        "{ customers { nothing } }",
        "mutation { registerCustomer(input: {name: \"Ada\", email: \"ada@example.com\", colour: \"red\"}) { outcome } }",
        "mutation { registerCustomer(input: {name: \"Ada\"}) { outcome } }",
        "{",
        "",
    ] {
        let (_, answer) =
            send(tenant.admin(Method::POST, "/graphql").json(&json!({ "query": document }))).await;
        assert_eq!(answer["errors"][0]["extensions"]["code"], "BAD_REQUEST", "{document}: {answer}");
    }
}

fn base64url(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn decode(part: &str) -> Value {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64url");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The file below a folder whose name contains a word.
fn find(folder: &std::path::Path, word: &str) -> std::path::PathBuf {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if entry.file_name().to_string_lossy().contains(word) {
                return path;
            }
        }
    }
    panic!("no file named {word} below {}", folder.display())
}

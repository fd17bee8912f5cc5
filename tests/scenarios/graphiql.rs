//! The page at `GET /graphql` in development: GraphiQL with everything that it needs, from this server alone.

use std::io::Write as _;
use std::process::{Command, Stdio};

use reqwest::{Client, Method, StatusCode};

use crate::support::product::{Product, send};

/// The values of an attribute in the page.
fn values<'a>(page: &'a str, attribute: &str) -> Vec<&'a str> {
    let begin = format!("{attribute}=\"");
    page.split(&begin).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

fn unpacked(bytes: &[u8]) -> String {
    let mut gzip = Command::new("gzip")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip runs");
    let mut input = gzip.stdin.take().expect("a pipe");
    let bytes = bytes.to_vec();
    let writes = std::thread::spawn(move || input.write_all(&bytes));
    let output = gzip.wait_with_output().expect("ends");
    writes.join().expect("ends").expect("writes");
    assert!(output.status.success());
    String::from_utf8(output.stdout).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_and_its_assets_come_from_this_server_under_a_policy_of_their_own() {
    let product = Product::shared();
    let page = Client::new().get(product.url("/graphql")).send().await.expect("answers");
    assert_eq!(page.status(), StatusCode::OK);
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    let policy = page.headers()["content-security-policy"].to_str().expect("text").to_owned();
    for rule in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
        assert!(policy.split("; ").any(|given| given == rule), "{rule} in {policy}");
    }
    assert!(!policy.contains("unsafe-eval") && !policy.contains("script-src 'self' "), "{policy}");
    for (name, value) in [("x-content-type-options", "nosniff"), ("x-frame-options", "DENY")] {
        assert_eq!(page.headers()[name], value);
    }
    let page = page.text().await.expect("a page");
    let mut assets = [values(&page, "href"), values(&page, "src")].concat();
    assets.retain(|path| *path != "data:,");
    assert_eq!(assets.len(), 6, "{page}");
    let mut scripts = String::new();
    for path in assets {
        assert!(path.starts_with("/graphql/assets/"), "{path}");
        let asset = Client::new().get(product.url(path)).send().await.expect("answers");
        assert_eq!(asset.status(), StatusCode::OK, "{path}");
        let headers = asset.headers().clone();
        let expected = if path.rsplit('.').next() == Some("css") {
            "text/css; charset=utf-8"
        } else {
            "text/javascript; charset=utf-8"
        };
        assert_eq!(headers["content-type"], expected, "{path}");
        assert_eq!(headers["cache-control"], "public, max-age=31536000, immutable", "{path}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{path}");
        assert_eq!(
            headers["content-security-policy"], "default-src 'none'; frame-ancestors 'none'",
            "{path}"
        );
        let bytes = asset.bytes().await.expect("an asset");
        let text = match headers.get("content-encoding").map(reqwest::header::HeaderValue::as_bytes) {
            Some(b"gzip") => unpacked(&bytes),
            _ => String::from_utf8(bytes.to_vec()).expect("text"),
        };
        if path.rsplit('.').next() == Some("js") {
            assert!(!text.contains("sourceMappingURL="), "{path}");
            scripts += &text;
        }
    }
    for part in ["GraphiQL", "createRoot", "Authorization", "/v1/auth/login"] {
        assert!(scripts.contains(part), "{part}");
    }
    for unknown in ["react.js", "0000000000000000-react.js", "x", "..%2Fpage.rs"] {
        let path = format!("/graphql/assets/{unknown}");
        let (status, problem) = send(product.request(Method::GET, &path)).await;
        assert_eq!((status, &problem["code"]), (StatusCode::NOT_FOUND, &"not_found".into()), "{unknown}");
    }
}

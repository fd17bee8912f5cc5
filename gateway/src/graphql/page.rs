//! `GET /graphql`: in development GraphiQL, with its assets at paths of their own; elsewhere the same answer as for any
//! unknown route. The assets are vendored by `scripts/vendor-graphiql`, so that the page needs nothing from elsewhere.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};

use crate::http::{ErrorCode, Problem};

/// Where the assets are served.
const FOLDER: &str = "/graphql/assets/";
/// Scripts come from this server alone. GraphiQL and its dialogs insert style elements, and its fonts are inside its style
/// sheet. The page talks to this server alone.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self' data:; \
                      img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
/// The name of an asset holds the digest of its bytes: what a name stands for never changes.
const CACHE: &str = "public, max-age=31536000, immutable";

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

struct Asset {
    /// The name that the page has for it.
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
    /// Whether the bytes are gzip.
    is_compressed: bool,
}

const ASSETS: [Asset; 6] = [
    compressed("react.js", SCRIPT, include_bytes!("page/vendor/react.js.gz")),
    compressed("react-dom.js", SCRIPT, include_bytes!("page/vendor/react-dom.js.gz")),
    compressed("graphiql.js", SCRIPT, include_bytes!("page/vendor/graphiql.js.gz")),
    compressed("graphiql.css", STYLE, include_bytes!("page/vendor/graphiql.css.gz")),
    plain("page.js", SCRIPT, include_bytes!("page/page.js")),
    plain("page.css", STYLE, include_bytes!("page/page.css")),
];

const fn compressed(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { name, content_type, bytes, is_compressed: true }
}

const fn plain(name: &'static str, content_type: &'static str, bytes: &'static [u8]) -> Asset {
    Asset { name, content_type, bytes, is_compressed: false }
}

impl Asset {
    /// `<digest>-<name>`.
    fn file_name(&self) -> String {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, self.bytes);
        let digest = &digest.as_ref()[..8];
        format!(
            "{:016x}-{}",
            digest.iter().fold(0, |number: u64, byte| number << 8 | u64::from(*byte)),
            self.name
        )
    }
}

static FILE_NAMES: LazyLock<[String; ASSETS.len()]> =
    LazyLock::new(|| ASSETS.each_ref().map(Asset::file_name));
static PAGE: LazyLock<String> = LazyLock::new(|| {
    let page = include_str!("page/page.html").to_owned();
    ASSETS.iter().zip(FILE_NAMES.iter()).fold(page, |page, (asset, file_name)| {
        page.replace(&format!("{{{{{}}}}}", asset.name), &format!("{FOLDER}{file_name}"))
    })
});

/// The page.
pub async fn show() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY)),
    ];
    (headers, PAGE.as_str()).into_response()
}

/// `GET /graphql/assets/{name}`: an asset of the page, in the one encoding that it is kept in.
///
/// # Errors
/// `not_found` if there is no such asset.
pub async fn asset(Path(name): Path<String>) -> Result<Response, Problem> {
    let place = FILE_NAMES.iter().position(|file_name| *file_name == name);
    let Asset { content_type, bytes, is_compressed, .. } =
        &ASSETS[place.ok_or(Problem::new(ErrorCode::NotFound))?];
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(content_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static(CACHE)),
    ];
    let mut response = (headers, *bytes).into_response();
    if *is_compressed {
        response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Ok(response)
}

/// No page here: only `POST` asks questions.
pub async fn hidden() -> Problem {
    Problem::new(ErrorCode::MethodNotAllowed).allow(HeaderValue::from_static("POST"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_every_asset_by_its_digest_and_nothing_else() {
        for file_name in FILE_NAMES.iter() {
            assert!(PAGE.contains(&format!("\"{FOLDER}{file_name}\"")), "{file_name}");
        }
        assert!(!PAGE.contains("{{"), "{}", *PAGE);
        assert!(!PAGE.contains("<style") && !PAGE.contains("<script>") && !PAGE.contains("://"));
    }
}

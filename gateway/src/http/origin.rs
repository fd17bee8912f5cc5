//! Checks the `Origin` of WebSocket requests. Browsers send no preflight request before they open a WebSocket.

use std::sync::Arc;

use axum::http::{HeaderMap, header};

/// The origins whose pages may open WebSockets. Cheap to clone.
#[derive(Clone)]
pub struct AllowedOrigins {
    public_host: Option<Arc<str>>,
    listed: Arc<[String]>,
}

impl AllowedOrigins {
    /// Allows the hosts of the gateway and the `listed` origins.
    pub fn new(public_host: Option<&str>, listed: &[String]) -> Self {
        Self { public_host: public_host.map(Arc::from), listed: listed.into() }
    }

    /// The configured origins.
    pub fn listed(&self) -> &[String] {
        &self.listed
    }

    /// Whether the request has no `Origin`, or its `Origin` is one of the gateway's own hosts or a configured origin.
    pub fn allows(&self, headers: &HeaderMap) -> bool {
        let mut given = headers.get_all(header::ORIGIN).iter();
        let origin = match (given.next(), given.next()) {
            (None, _) => return true,
            (Some(origin), None) => origin.to_str().unwrap_or_default().to_ascii_lowercase(),
            _ => return false,
        };
        if self.listed.iter().any(|listed| listed.eq_ignore_ascii_case(&origin)) {
            return true;
        }
        let Some((_scheme, authority)) = origin.split_once("://") else { return false };
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        if host.is_some_and(|host| host.eq_ignore_ascii_case(authority)) {
            return true;
        }
        let name = authority.rsplit_once(':').map_or(authority, |(name, _port)| name);
        self.public_host.as_deref().is_some_and(|own| {
            let own = own.to_ascii_lowercase();
            name == own || name.strip_suffix(&own).is_some_and(|label| label.ends_with('.'))
        })
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn pages_of_other_origins_do_not_connect() {
        let allowed = AllowedOrigins::new(Some("annals.test"), &["https://app.example.com".to_owned()]);
        let takes = |origins: &[&str]| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("10.0.0.7:8080"));
            for origin in origins {
                headers.append(header::ORIGIN, HeaderValue::from_str(origin).expect("valid"));
            }
            allowed.allows(&headers)
        };
        assert!(takes(&[]));
        for own in ["https://annals.test", "http://acme.annals.test:3000", "http://10.0.0.7:8080"] {
            assert!(takes(&[own]), "{own}");
        }
        assert!(takes(&["https://app.example.com"]));
        for other in [
            "null",
            "https://evil.test",
            "https://evilannals.test",
            "https://annals.test.evil.test",
            "http://10.0.0.7:9090",
            "http://app.example.com",
            "",
        ] {
            assert!(!takes(&[other]), "{other}");
        }
        assert!(!takes(&["https://annals.test", "https://annals.test"]));
    }
}

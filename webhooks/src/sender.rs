//! Sends one request to an endpoint.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode, Url};
use schemas::engine::clock;

use crate::endpoint::{NotPublic, Resolver, is_public, literal};
use crate::secret::SigningSecret;
use crate::settings::WebhookSettings;

/// Maximum bytes read of a response, so that the connection can be reused.
const RESPONSE_READ_BYTES_MAX: usize = 16 * 1024;

/// Why the sender cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client for webhooks cannot be made")]
pub struct SenderError(#[source] reqwest::Error);

/// One event for one endpoint.
pub(crate) struct WebhookMessage {
    /// The same id for each attempt.
    pub(crate) id: String,
    /// The CloudEvent as JSON.
    pub(crate) body: Bytes,
}

/// Result of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EndpointResponse {
    pub(crate) http_status: Option<u16>,
    /// A stable error code; `None` if it was delivered. It never contains the endpoint's response or address.
    pub(crate) error: Option<String>,
    /// The delay that the endpoint asked for before a retry.
    pub(crate) retry_after: Option<Duration>,
}

impl EndpointResponse {
    /// Whether the endpoint responded 410 Gone.
    pub(crate) fn is_gone(&self) -> bool {
        self.http_status == Some(StatusCode::GONE.as_u16())
    }

    fn failed(error: &str) -> Self {
        Self { http_status: None, error: Some(error.to_owned()), retry_after: None }
    }
}

/// Sends messages.
#[derive(Clone)]
pub(crate) struct Sender {
    client: Client,
    allow_private_addresses: bool,
}

impl Sender {
    pub(crate) fn new(settings: &WebhookSettings) -> Result<Self, SenderError> {
        let allow_private_addresses = settings.allow_private_addresses;
        let client = Client::builder()
            .user_agent(concat!("annals/", env!("CARGO_PKG_VERSION")))
            .https_only(!allow_private_addresses)
            // A redirect would bypass the check of the endpoint, and a proxy would bypass the resolver.
            .redirect(Policy::none())
            .no_proxy()
            .dns_resolver(Resolver { allow_private_addresses })
            .timeout(settings.timeout)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(settings.max_concurrent_requests_per_tenant)
            .build()
            .map_err(SenderError)?;
        Ok(Self { client, allow_private_addresses })
    }

    /// Posts a message, with a signature by each of the secrets.
    pub(crate) async fn send(
        &self,
        url: &str,
        message: &WebhookMessage,
        secrets: &[SigningSecret],
    ) -> EndpointResponse {
        let Ok(url) = Url::parse(url) else { return EndpointResponse::failed("url_invalid") };
        // An IP address in the URL is not resolved, so it is checked here.
        if !self.allow_private_addresses && literal(&url).is_some_and(|address| !is_public(address)) {
            return EndpointResponse::failed("address_refused");
        }
        let timestamp = clock::now().timestamp();
        let sign = |secret: &SigningSecret| secret.sign(&message.id, timestamp, &message.body);
        let signatures: Vec<String> = secrets.iter().map(sign).collect();
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, "application/cloudevents+json")
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", signatures.join(" "))
            .body(message.body.clone());
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => return EndpointResponse::failed(code_of(&error)),
        };
        let status = response.status();
        let retry_after =
            response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut read = 0;
        while let Ok(Some(chunk)) = response.chunk().await {
            read += chunk.len();
            if read > RESPONSE_READ_BYTES_MAX {
                break;
            }
        }
        EndpointResponse {
            http_status: Some(status.as_u16()),
            error: (!status.is_success()).then(|| format!("http_{}", status.as_u16())),
            retry_after: retry_after.map(Duration::from_secs),
        }
    }
}

fn code_of(error: &reqwest::Error) -> &'static str {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.is::<NotPublic>() {
            return "address_refused";
        }
        cause = inner.source();
    }
    if error.is_timeout() {
        "timeout"
    } else if error.is_connect() {
        "connection_failed"
    } else {
        "request_failed"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::testing::DEFAULTS;

    async fn error(settings: WebhookSettings, url: &str) -> Option<String> {
        let message = WebhookMessage { id: "msg_1".to_owned(), body: Bytes::from_static(b"{}") };
        Sender::new(&settings)
            .expect("a client")
            .send(url, &message, &[SigningSecret::generate()])
            .await
            .error
    }

    #[tokio::test]
    async fn a_private_address_is_refused_whether_it_is_named_or_resolved_to() {
        // Something listens, so that a request that is made does arrive.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]", "2130706433"] {
            let url = format!("https://{host}:{port}/");
            assert_eq!(error(DEFAULTS, &url).await.as_deref(), Some("address_refused"), "{url}");
        }
        assert_eq!(
            error(DEFAULTS, &format!("http://localhost:{port}/")).await.as_deref(),
            Some("request_failed")
        );
        let nobody = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(nobody.is_err(), "nothing may arrive");
    }
}

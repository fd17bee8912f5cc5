//! Sends requests with the token, and repeats those that fail for a moment.

use std::fmt;
use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use schemas::engine::{TenantSlug, ids};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use crate::{Error, Problem};

/// Maximum time until the response begins. Its body may take longer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum attempts of a request that fails temporarily.
const ATTEMPTS_MAX: u32 = 6;
/// The first pause between two attempts when the response has no `Retry-After`. It doubles with each attempt.
const RETRY_DELAY_INITIAL: Duration = Duration::from_millis(500);
/// Maximum pause between two attempts.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// Why a client waits before it continues.
#[derive(Debug)]
pub enum Pause<'a> {
    /// A request failed and is repeated.
    Retry {
        /// Why it failed.
        error: &'a Error,
        /// How long the client waits.
        delay: Duration,
    },
    /// A stream of events broke off and is opened again.
    Resume {
        /// Why it broke off.
        error: &'a Error,
        /// The last position that was received.
        position: u64,
    },
}

type OnPause = Box<dyn Fn(Pause<'_>) + Send + Sync>;

/// The public API with one token. Each request is sent once, unless [`Client::with_retries`] says otherwise.
pub struct Client {
    http: reqwest::Client,
    url: Url,
    token: String,
    tenant: Option<TenantSlug>,
    on_pause: Option<OnPause>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url.as_str()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the API at `url`.
    ///
    /// # Errors
    /// [`Error::Setup`] if the HTTP client cannot be set up, for example without certificate authorities.
    pub fn new(url: Url, token: impl Into<String>) -> Result<Self, Error> {
        let http = reqwest::Client::builder()
            .connect_timeout(RESPONSE_TIMEOUT)
            .read_timeout(RESPONSE_TIMEOUT)
            .build()
            .map_err(Error::Setup)?;
        Ok(Self { http, url, token: token.into(), tenant: None, on_pause: None })
    }

    /// Names the tenant in each request. The server refuses a token of another tenant.
    #[must_use]
    pub fn for_tenant(mut self, tenant: Option<TenantSlug>) -> Self {
        self.tenant = tenant;
        self
    }

    /// Repeats requests that fail temporarily, up to the maximum of attempts. `on_pause` hears of each pause.
    #[must_use]
    pub fn with_retries(mut self, on_pause: impl Fn(Pause<'_>) + Send + Sync + 'static) -> Self {
        self.on_pause = Some(Box::new(on_pause));
        self
    }

    /// Requests a path with parameters.
    pub(crate) async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, Error> {
        self.repeated(async || self.ask(path, parameters).await).await
    }

    /// The response as text.
    pub(crate) async fn text(&self, path: &str, parameters: &[(&str, String)]) -> Result<String, Error> {
        let ask = async || self.ask(path, parameters).await?.text().await.map_err(Error::Transport);
        self.repeated(ask).await
    }

    /// The response as JSON.
    pub(crate) async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<T, Error> {
        serde_json::from_str(&self.text(path, parameters).await?).map_err(Error::Unreadable)
    }

    /// Sends a command with a body.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Error> {
        let request = self.http.post(self.url.join(path)?).json(body);
        let answer = self.send(request.header("Idempotency-Key", ids::random_id().to_string())).await?;
        serde_json::from_str(&answer.text().await.map_err(Error::Transport)?).map_err(Error::Unreadable)
    }

    /// Deletes the resource of a path.
    pub(crate) async fn delete(&self, path: &str) -> Result<(), Error> {
        let request = self.http.delete(self.url.join(path)?);
        self.send(request.header("Idempotency-Key", ids::random_id().to_string())).await.map(drop)
    }

    /// Tells the caller of a pause.
    pub(crate) fn tell(&self, pause: Pause<'_>) {
        if let Some(on_pause) = &self.on_pause {
            on_pause(pause);
        }
    }

    async fn repeated<T>(&self, ask: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        let attempts_max = if self.on_pause.is_some() { ATTEMPTS_MAX } else { 1 };
        let mut attempts = 0;
        loop {
            attempts += 1;
            match ask().await {
                Err(error) if error.is_retryable() && attempts < attempts_max => {
                    let delay = error.retry_after();
                    let delay = delay.unwrap_or(RETRY_DELAY_INITIAL * 2_u32.pow(attempts - 1));
                    let delay = delay.min(RETRY_DELAY_MAX);
                    self.tell(Pause::Retry { error: &error, delay });
                    tokio::time::sleep(delay).await;
                }
                done => return done,
            }
        }
    }

    async fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, Error> {
        let mut url = self.url.join(path)?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        self.send(self.http.get(url)).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, Error> {
        let mut request = request.bearer_auth(&self.token);
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Tenant-ID", tenant.as_str());
        }
        let answer = request.send().await.map_err(Error::Transport)?;
        if answer.status().is_success() {
            Ok(answer)
        } else {
            Err(Error::Refused(Problem::read(answer).await))
        }
    }
}

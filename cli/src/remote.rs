//! A client of the product's public API, for commands that use a token instead of the database.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use chrono::{DateTime, Utc};
use clap::Args;
use projections::LogPosition;
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header};
use schemas::engine::recorded::timestamp;
use schemas::engine::{LogId, TenantSlug, ids};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Exit, Failure};

/// The address of the API and the token.
#[derive(Debug, Args)]
pub struct Remote {
    /// The public address of the product
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    url: Url,
    /// The file that holds an access token
    #[arg(long, value_name = "FILE", required = true)]
    token_file: Option<PathBuf>,
}

/// The same for commands that work on the database, and on the API when there is a token.
#[derive(Debug, Args)]
pub struct Access {
    /// The public address of the product, to ask it instead of the database [default: http://localhost:8080]
    #[arg(long, value_name = "URL", requires = "token_file")]
    url: Option<Url>,
    /// The file that holds an access token: asks the public API, no access to the database is needed
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

const DEFAULT_URL: &str = "http://localhost:8080";
/// Maximum time until the response begins. Its body may take longer.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Maximum attempts of a request that fails temporarily.
const ATTEMPTS_MAX: u32 = 6;
/// The first pause between two attempts when the response has no `Retry-After`. It doubles with each attempt.
const RETRY_DELAY_INITIAL: Duration = Duration::from_millis(500);
/// Maximum pause between two attempts.
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// The fields of a problem (RFC 9457) that are printed.
#[derive(Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    code: String,
}

/// The API with one token.
pub struct Api {
    client: Client,
    url: Url,
    token: String,
    tenant: Option<TenantSlug>,
}

/// A failed request.
struct RequestError {
    failure: Failure,
    /// Whether a retry may succeed.
    is_retryable: bool,
    /// The pause that the response requests.
    retry_after: Option<Duration>,
}

impl Access {
    /// The API, if a token was given.
    ///
    /// # Errors
    /// `tenant` is not the tenant of the token.
    pub fn api(&self, tenant: Option<&TenantSlug>) -> Result<Option<Api>, Failure> {
        let Some(token_file) = &self.token_file else { return Ok(None) };
        let default = || DEFAULT_URL.parse().expect("the default is a URL");
        let url = self.url.clone().unwrap_or_else(default);
        let mut api = Remote { url, token_file: Some(token_file.clone()) }.open()?;
        api.tenant = tenant.cloned();
        Ok(Some(api))
    }
}

impl Remote {
    /// Opens a client with the token.
    pub fn open(&self) -> Result<Api, Failure> {
        let file = self.token_file.as_ref().expect("the command line requires it");
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("the token file {} cannot be read", file.display()))
            .map_err(Failure::usage)?;
        let client = Client::builder()
            .connect_timeout(RESPONSE_TIMEOUT)
            .read_timeout(RESPONSE_TIMEOUT)
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        Ok(Api { client, url: self.url.clone(), token: token.trim().to_owned(), tenant: None })
    }

    /// Requests a path with parameters.
    ///
    /// # Errors
    /// A refusal, with the exit code of its kind.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, Failure> {
        self.open()?.ask(path, parameters).await.map_err(|error| error.failure)
    }

    /// Sends a command with a body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let api = self.open()?;
        let url = api.url.join(path).map_err(Failure::usage)?;
        let request = api.client.post(url).header("Idempotency-Key", ids::random_id().to_string());
        let answer = api.send(request.json(body)).await.map_err(|error| error.failure)?;
        answer.json().await.map_err(|error| Failure::new(Exit::Unavailable, error))
    }

    /// Deletes the resource of a path.
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        let api = self.open()?;
        let url = api.url.join(path).map_err(Failure::usage)?;
        let request = api.client.delete(url).header("Idempotency-Key", ids::random_id().to_string());
        api.send(request).await.map(|_nothing| ()).map_err(|error| error.failure)
    }

    /// The response as text.
    pub async fn text(&self, path: &str, parameters: &[(&str, String)]) -> Result<String, Failure> {
        let answer = self.get(path, parameters).await?;
        answer.text().await.map_err(|error| Failure::new(Exit::Unavailable, error))
    }
}

impl Api {
    /// Requests a path. Temporary failures are retried up to the maximum of attempts.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, Failure> {
        self.with_retries(async || self.ask(path, parameters).await).await
    }

    /// The response as JSON, with the same retries.
    pub async fn json<T: DeserializeOwned>(
        &self,
        path: &str,
        parameters: &[(&str, String)],
    ) -> Result<T, Failure> {
        let ask = async || {
            let broken = |error| RequestError {
                failure: transport_failure(error),
                is_retryable: true,
                retry_after: None,
            };
            self.ask(path, parameters).await?.text().await.map_err(broken)
        };
        let text = self.with_retries(ask).await?;
        let read = serde_json::from_str(&text).context("the answer does not read");
        read.map_err(|error| Failure::new(Exit::Failed, error))
    }

    /// The position of the log at a time.
    pub async fn moment(&self, time: DateTime<Utc>) -> Result<LogPosition, Failure> {
        #[derive(Deserialize)]
        struct Body {
            log_id: LogId,
            position: u64,
            head: u64,
        }
        let body: Body = self.json("/v1/audit/position", &[("time", timestamp(time))]).await?;
        Ok(LogPosition { log: body.log_id, position: body.position, head: body.head })
    }

    async fn with_retries<T>(&self, ask: impl AsyncFn() -> Result<T, RequestError>) -> Result<T, Failure> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            match ask().await {
                Err(RequestError { failure, is_retryable: true, retry_after }) if attempts < ATTEMPTS_MAX => {
                    let retry_after = retry_after
                        .unwrap_or(RETRY_DELAY_INITIAL * 2_u32.pow(attempts - 1))
                        .min(RETRY_DELAY_MAX);
                    eprintln!("{failure}; trying again in {:.1} s", retry_after.as_secs_f32());
                    tokio::time::sleep(retry_after).await;
                }
                done => return done.map_err(|error| error.failure),
            }
        }
    }

    async fn ask(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, RequestError> {
        let mut url = self.url.join(path).map_err(Failure::usage)?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        self.send(self.client.get(url)).await
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, RequestError> {
        let mut request = request.bearer_auth(&self.token);
        if let Some(tenant) = &self.tenant {
            request = request.header("X-Tenant-ID", tenant.as_str());
        }
        let sent = request.send().await;
        let answer = sent.map_err(|error| RequestError {
            failure: transport_failure(error),
            is_retryable: true,
            retry_after: None,
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(response_error(answer).await) }
    }
}

impl From<Failure> for RequestError {
    fn from(failure: Failure) -> Self {
        Self { failure, is_retryable: false, retry_after: None }
    }
}

/// The failure for a missing or incomplete response.
pub fn transport_failure(error: reqwest::Error) -> Failure {
    let exit = if error.is_timeout() { Exit::TimedOut } else { Exit::Unavailable };
    Failure::new(exit, error)
}

async fn response_error(answer: Response) -> RequestError {
    let status = answer.status();
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::CONFLICT => Exit::Conflict,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Rejected,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let retry_after = answer.headers().get(header::RETRY_AFTER);
    let retry_after =
        retry_after.and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let message = match answer.json::<Problem>().await {
        Ok(Problem { title, detail: Some(detail), code }) => format!("{title} ({code}): {detail}"),
        Ok(Problem { title, detail: None, code }) => format!("{title} ({code})"),
        Err(_) => format!("the answer was {status}"),
    };
    let is_retryable = exit == Exit::Unavailable;
    RequestError { failure: Failure::new(exit, anyhow::anyhow!(message)), is_retryable, retry_after }
}

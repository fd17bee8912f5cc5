//! The product's public API as a client uses it: for commands that take a token instead of access to the database.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use reqwest::{Client, Method, Response, StatusCode, Url};
use schemas::engine::ids;
use serde::Deserialize;
use serde_json::Value;

use super::{Exit, Failure};

/// Where the API is and who asks.
#[derive(Debug, Args)]
pub struct Remote {
    /// The public address of the product
    #[arg(long, value_name = "URL", default_value = "http://localhost:8080")]
    url: Url,
    /// The file that holds an access token
    #[arg(long, value_name = "FILE", required = true)]
    token_file: Option<PathBuf>,
}

/// Time until the answer begins; a body may take longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The part of a problem (RFC 9457) that people need.
#[derive(Deserialize)]
struct Problem {
    title: String,
    #[serde(default)]
    detail: Option<String>,
    #[serde(default)]
    code: String,
}

impl Remote {
    /// Asks for a path with parameters. Refusals are failures with the exit code of their kind.
    pub async fn get(&self, path: &str, parameters: &[(&str, String)]) -> Result<Response, Failure> {
        self.send(Method::GET, path, parameters, None).await
    }

    /// Sends a command with a body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let answer = self.send(Method::POST, path, &[], Some(body)).await?;
        answer.json().await.map_err(|error| Failure::new(Exit::Unavailable, error))
    }

    /// Removes what is under a path.
    pub async fn delete(&self, path: &str) -> Result<(), Failure> {
        self.send(Method::DELETE, path, &[], None).await.map(|_nothing| ())
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        parameters: &[(&str, String)],
        body: Option<&Value>,
    ) -> Result<Response, Failure> {
        let file = self.token_file.as_ref().expect("the command line requires it");
        let token = std::fs::read_to_string(file)
            .with_context(|| format!("the token file {} cannot be read", file.display()))
            .map_err(Failure::usage)?;
        let mut url = self.url.join(path).map_err(Failure::usage)?;
        if !parameters.is_empty() {
            url.query_pairs_mut().extend_pairs(parameters);
        }
        let client = Client::builder()
            .connect_timeout(PATIENCE)
            .read_timeout(PATIENCE)
            .build()
            .map_err(|error| Failure::new(Exit::Failed, error))?;
        let mut request = client.request(method, url).bearer_auth(token.trim());
        if let Some(body) = body {
            request = request.header("Idempotency-Key", ids::random_id().to_string()).json(body);
        }
        let answer = request.send().await.map_err(|error| {
            let exit = if error.is_timeout() { Exit::TimedOut } else { Exit::Unavailable };
            Failure::new(exit, error)
        })?;
        if answer.status().is_success() { Ok(answer) } else { Err(refusal(answer).await) }
    }

    /// The answer's text.
    pub async fn text(&self, path: &str, parameters: &[(&str, String)]) -> Result<String, Failure> {
        let answer = self.get(path, parameters).await?;
        answer.text().await.map_err(|error| Failure::new(Exit::Unavailable, error))
    }
}

async fn refusal(answer: Response) -> Failure {
    let status = answer.status();
    let exit = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Exit::Denied,
        StatusCode::NOT_FOUND | StatusCode::GONE => Exit::NotFound,
        StatusCode::CONFLICT => Exit::Conflict,
        StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => Exit::Rejected,
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Exit::Unavailable,
        _ => Exit::Failed,
    };
    let told = match answer.json::<Problem>().await {
        Ok(Problem { title, detail: Some(detail), code }) => format!("{title} ({code}): {detail}"),
        Ok(Problem { title, detail: None, code }) => format!("{title} ({code})"),
        Err(_) => format!("the answer was {status}"),
    };
    Failure::new(exit, anyhow::anyhow!(told))
}

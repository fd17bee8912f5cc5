//! `annals audit token`: tokens for auditors. Such a token is read-only, for one tenant and for a limited time.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use schemas::identity::scope::Scope;
use schemas::integration::service_token::AUDITOR_SCOPES;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::remote::Remote;
use super::super::{Exit, Failure, Output};
use terminal::ignore_broken_pipe;

/// `annals audit token ...`
#[derive(Debug, Subcommand)]
pub enum Token {
    /// Issue a token; as a table, standard output gets only the token, which cannot be shown again
    Create(Create),
    /// List the tenant's tokens for auditors
    Ls(Remote),
    /// Revoke a token: it is refused within seconds, and streams that it opened end
    Revoke {
        /// Its id
        id: Uuid,
        #[command(flatten)]
        remote: Remote,
    },
}

/// `annals audit token create ...`
#[derive(Debug, Args)]
pub struct Create {
    /// The name of its holder
    #[arg(long)]
    name: String,
    /// How long it is valid
    #[arg(long, default_value_t = 30, value_name = "DAYS", conflicts_with = "expires_at", value_parser = clap::value_parser!(u16).range(1..=30))]
    days: u16,
    /// When it expires (RFC 3339)
    #[arg(long, value_name = "TIME")]
    expires_at: Option<DateTime<Utc>>,
    /// Let the holder read personal data in events, and get the keys to them (`annals audit export --keys-to`)
    #[arg(long)]
    personal_data: bool,
    #[command(flatten)]
    remote: Remote,
}

const TOKENS_PATH: &str = "/v1/service-tokens";
const COLUMNS: [&str; 6] = ["id", "name", "scopes", "issued_at", "expires_at", "revoked"];

#[derive(Serialize, Deserialize)]
struct TokenLine {
    id: Uuid,
    name: String,
    scopes: Vec<Scope>,
    issued_at: String,
    expires_at: String,
    revoked: bool,
}

impl Token {
    /// Runs it.
    pub async fn run(self, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Create(create) => create.run(output).await,
            Self::Ls(remote) => list(&remote, output).await,
            Self::Revoke { id, remote } => {
                remote.delete(&format!("{TOKENS_PATH}/{id}")).await?;
                Ok(Exit::Ok)
            }
        }
    }
}

impl Create {
    async fn run(self, output: Output) -> Result<Exit, Failure> {
        let mut scopes = AUDITOR_SCOPES.to_vec();
        scopes.extend(self.personal_data.then_some(Scope::PersonalDataRead));
        let mut body = json!({"name": self.name, "scopes": scopes});
        match self.expires_at {
            Some(time) => body["expires_at"] = time.to_rfc3339().into(),
            None => body["expires_days"] = self.days.into(),
        }
        let issued = self.remote.post(TOKENS_PATH, &body).await?;
        if output != Output::Table {
            output.object(&[], &issued)?;
            return Ok(Exit::Ok);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        eprintln!("id          {}", text(&issued["service_token"]["id"]));
        eprintln!("expires at  {}", text(&issued["service_token"]["expires_at"]));
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text(&issued["access_token"]))
            .and_then(|()| out.flush())
            .or_else(ignore_broken_pipe)?;
        Ok(Exit::Ok)
    }
}

async fn list(remote: &Remote, output: Output) -> Result<Exit, Failure> {
    #[derive(Deserialize)]
    struct Page {
        service_tokens: Vec<TokenLine>,
        next_after: Option<Uuid>,
    }
    let (mut rows, mut after): (Vec<TokenLine>, Option<Uuid>) = (Vec::new(), None);
    loop {
        let mut parameters = vec![("limit", "100".to_owned())];
        parameters.extend(after.map(|after| ("after", after.to_string())));
        let text = remote.text(TOKENS_PATH, &parameters).await?;
        let page: Page = serde_json::from_str(&text).map_err(|error| Failure::new(Exit::Failed, error))?;
        rows.extend(page.service_tokens.into_iter().filter(|row| row.scopes.contains(&Scope::AuditRead)));
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

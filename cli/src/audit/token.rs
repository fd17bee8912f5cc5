//! `annals audit token`: tokens for auditors. Such a token is read-only, for one tenant and for a limited time.

use std::io::{self, Write};

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use client::{NewServiceToken, TokenExpiry};
use schemas::identity::scope::Scope;
use schemas::integration::service_token::AUDITOR_SCOPES;
use uuid::Uuid;

use super::super::remote::Remote;
use crate::failure::Failure;
use terminal::ignore_broken_pipe;
use terminal::{Exit, Output};

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

/// Tokens in a page of the API.
const PAGE_SIZE: usize = 100;
const COLUMNS: [&str; 6] = ["id", "name", "scopes", "issued_at", "expires_at", "revoked"];

impl Token {
    /// Runs it.
    pub async fn run(self, output: Output) -> Result<Exit, Failure> {
        match self {
            Self::Create(create) => create.run(output).await,
            Self::Ls(remote) => list(&remote, output).await,
            Self::Revoke { id, remote } => {
                remote.client()?.revoke_service_token(id).await?;
                Ok(Exit::Ok)
            }
        }
    }
}

impl Create {
    async fn run(self, output: Output) -> Result<Exit, Failure> {
        let mut scopes = AUDITOR_SCOPES.to_vec();
        scopes.extend(self.personal_data.then_some(Scope::PersonalDataRead));
        let expiry = self.expires_at.map_or(TokenExpiry::Days(self.days), TokenExpiry::At);
        let new = NewServiceToken { name: self.name, scopes, expiry };
        let issued = self.remote.client()?.issue_service_token(&new).await?;
        if output != Output::Table {
            let issued = serde_json::to_value(issued).map_err(anyhow::Error::from)?;
            output.object(&[], &issued)?;
            return Ok(Exit::Ok);
        }
        eprintln!("id          {}", issued.service_token.id);
        eprintln!("expires at  {}", issued.service_token.expires_at);
        let mut out = io::stdout().lock();
        writeln!(out, "{}", issued.access_token).and_then(|()| out.flush()).or_else(ignore_broken_pipe)?;
        Ok(Exit::Ok)
    }
}

async fn list(remote: &Remote, output: Output) -> Result<Exit, Failure> {
    let client = remote.client()?;
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = client.service_tokens(after, PAGE_SIZE).await?;
        rows.extend(page.service_tokens.into_iter().filter(|row| row.scopes.contains(&Scope::AuditRead)));
        after = page.next_after;
        if after.is_none() {
            break;
        }
    }
    output.rows(&COLUMNS, &rows)?;
    Ok(Exit::Ok)
}

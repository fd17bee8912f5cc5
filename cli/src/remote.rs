//! The address of the public API and a token, for commands that use them instead of the database.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use client::{Client, Pause};
use schemas::engine::TenantSlug;
use terminal::OneLine;
use url::Url;

use crate::failure::Failure;

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

impl Access {
    /// Whether a token was given, so that the API is asked.
    pub fn is_remote(&self) -> bool {
        self.token_file.is_some()
    }

    /// A client of the API, if a token was given. It repeats requests. The server refuses a `tenant` that is not the
    /// token's.
    pub fn client(&self, tenant: Option<&TenantSlug>) -> Result<Option<Client>, Failure> {
        let Some(token_file) = &self.token_file else { return Ok(None) };
        let default = || DEFAULT_URL.parse().expect("the default is a URL");
        let client = open(self.url.clone().unwrap_or_else(default), token_file)?;
        Ok(Some(client.for_tenant(tenant.cloned()).with_retries(print_pause)))
    }
}

impl Remote {
    /// A client of the API, which sends each request once.
    pub fn client(&self) -> Result<Client, Failure> {
        open(self.url.clone(), self.token_file.as_ref().expect("the command line requires it"))
    }
}

fn open(url: Url, token_file: &Path) -> Result<Client, Failure> {
    let token = std::fs::read_to_string(token_file)
        .with_context(|| format!("the token file {} cannot be read", token_file.display()))
        .map_err(Failure::usage)?;
    Ok(Client::new(url, token.trim())?)
}

fn print_pause(pause: Pause<'_>) {
    match pause {
        Pause::Retry { error, delay } => {
            eprintln!("{}; trying again in {:.1} s", OneLine(error), delay.as_secs_f32());
        }
        Pause::Resume { error, position } => {
            eprintln!("{}; going on behind position {position}", OneLine(error));
        }
    }
}

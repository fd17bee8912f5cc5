//! `annals init`: creates the keys and the settings file of a production deployment. It never overwrites a file.
//!
//! Layout: `files` creates missing files; `settings` writes the settings file and the SQL that creates the database.

mod files;
mod settings;

use std::path::{Path, PathBuf};

use clap::Args;
use gateway::auth::SigningKey;
use keyring::RootKey;
use nats::accounts::OperatorKeys;
use serde::Serialize;
use store::DeploymentKey;

use self::files::FileState;
pub use self::files::Files;
use self::settings::{Database, Layout, Servers};
use crate::failure::Failure;
use ::settings::{Secret, deployment_problem, host_problem};
use devserver::random_password;
use terminal::{Exit, Output};

/// `annals init ...`
#[derive(Debug, Args)]
pub struct Init {
    /// The folder for the settings file and the keys; it is made where it is missing
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,
    /// The host that clients see; <tenant>.<host> names a tenant
    #[arg(long, value_name = "HOST", default_value = "localhost", value_parser = host)]
    host: String,
    /// The deployment's name, which begins every checkpoint's origin and can never change [default: the host]
    #[arg(long, value_name = "NAME", value_parser = deployment)]
    deployment: Option<String>,
    /// PostgreSQL, without a password: the login that will own the database, the server and the database
    #[arg(
        long,
        value_name = "URL",
        default_value = "postgres://annals_migrator@127.0.0.1:5432/annals",
        value_parser = settings::database
    )]
    database: Database,
    /// The servers of NATS, separated by commas, without user and password
    #[arg(long, value_name = "URL", default_value = "nats://127.0.0.1:4222", value_parser = settings::servers)]
    nats: Servers,
    /// A credentials file that your NATS accepts [default: keys for a NATS in operator mode are made]
    #[arg(long, value_name = "FILE")]
    nats_credentials: Option<PathBuf>,
    /// Where nats-server will keep the accounts' JWTs, when keys for it are made
    #[arg(
        long,
        value_name = "DIR",
        default_value = "/var/lib/nats/jwt",
        conflicts_with = "nats_credentials"
    )]
    nats_jwt_dir: PathBuf,
}

fn host(text: &str) -> Result<String, String> {
    host_problem(text).map_or_else(|| Ok(text.to_owned()), |problem| Err(problem.to_owned()))
}

fn deployment(text: &str) -> Result<String, String> {
    deployment_problem(text).map_or_else(|| Ok(text.to_owned()), |problem| Err(problem.to_owned()))
}

/// The files that a deployment always needs. The others, such as the owner's password and offline keys, may be moved
/// away after use.
const REQUIRED_FILES: [&str; 5] = [
    "secrets/deployment.key",
    "secrets/root.key",
    "secrets/token-signing.pem",
    "secrets/audit-signing.pem",
    "secrets/database-runtime.password",
];

#[derive(Serialize)]
struct KeyFileLine {
    state: FileState,
    file: String,
    purpose: &'static str,
}

impl Init {
    /// Creates missing files and prints the next steps. It needs no settings, because it creates them.
    pub fn run(self, output: Output) -> Result<Exit, Failure> {
        if let Some(file) = self.nats_credentials.as_deref() {
            let readable = std::fs::File::open(file).map(drop);
            readable.map_err(|error| {
                Failure::usage(anyhow::anyhow!(
                    "the credentials file {} cannot be read: {error}",
                    file.display()
                ))
            })?;
        }
        let mut files = Files::open(&self.dir)?;
        // The settings file is written last. Without it, an earlier run was interrupted or there was none.
        let complete = files.has(settings::SETTINGS_FILE);
        files.read_only = complete;
        let layout = self.create_files(&mut files)?;
        let is_required = |file: &Path| REQUIRED_FILES.iter().any(|name| file.ends_with(name));
        let rows: Vec<KeyFileLine> = files
            .into_entries()
            .into_iter()
            .filter(|(file, _, state)| *state != FileState::Missing || is_required(file))
            .map(|(file, purpose, state)| KeyFileLine { state, file: file.display().to_string(), purpose })
            .collect();
        output.rows(&["state", "file", "purpose"], &rows)?;
        if !complete {
            eprint!("{}", layout.next_steps());
            return Ok(Exit::Ok);
        }
        if rows.iter().any(|row| row.state == FileState::Missing) {
            eprintln!(
                "{} is there, so no new keys were made for it: take what is missing from your backup. \
                 `annals --config {} config check` says whether the settings need it.",
                settings::SETTINGS_FILE,
                layout.settings_file().display()
            );
            return Ok(Exit::CheckFailed);
        }
        eprintln!("everything is there already; nothing was changed");
        Ok(Exit::Ok)
    }

    fn create_files(&self, files: &mut Files) -> Result<Layout, Failure> {
        let pem =
            || SigningKey::generate_pem().map(Secret::new).map_err(|error| Failure::new(Exit::Failed, error));
        let password = || Ok(random_password());
        files.secret("secrets/deployment.key", "the root of every keyed hash", || {
            Ok(Secret::new(DeploymentKey::generate().to_hex()))
        })?;
        files.secret("secrets/root.key", "wraps the keys of personal data", || {
            Ok(Secret::new(RootKey::generate().to_hex()))
        })?;
        files.secret("secrets/token-signing.pem", "signs access tokens", pem)?;
        files.secret("secrets/audit-signing.pem", "signs checkpoints", pem)?;
        files.secret("secrets/database-runtime.password", "the runtime roles of PostgreSQL", password)?;
        let owner = files.secret("secrets/database-owner.password", "the owner of the database", password)?;
        files.secret("secrets/create-database.sql", "makes the owner and the database", || {
            let owner = owner.as_ref().map(Secret::reveal).unwrap_or_default();
            Ok(Secret::new(self.database.create_sql(owner)))
        })?;
        let credentials = match &self.nats_credentials {
            Some(file) => settings::Credentials::Existing(std::path::absolute(file)?),
            None => settings::Credentials::Generated { edge_account: self.create_nats_files(files)? },
        };
        let layout = Layout {
            folder: files.folder().to_owned(),
            host: self.host.clone(),
            deployment: self.deployment.clone().unwrap_or_else(|| match self.host.as_str() {
                "localhost" => "annals.localhost".to_owned(),
                host => host.to_owned(),
            }),
            database: self.database.clone(),
            servers: self.nats.clone(),
            credentials,
        };
        files.secret(settings::SETTINGS_FILE, "the settings", || Ok(Secret::new(layout.settings())))?;
        Ok(layout)
    }

    /// The keys of a NATS in operator mode and the files that its server and annals need. Returns the public key of the
    /// integrators' account.
    fn create_nats_files(&self, files: &mut Files) -> Result<String, Failure> {
        let offline = ["operator", "system", "application", "edge"];
        let keys = OperatorKeys::load_or_create(|name, fresh| {
            let purpose =
                if offline.contains(&name) { "a key of NATS; keep it offline" } else { "a key of NATS" };
            let kept =
                files.secret(&format!("nats/{name}.seed"), purpose, || Ok(Secret::new(fresh.clone())))?;
            // In read-only mode, missing files are only listed.
            Ok::<_, NatsKeyError>(kept.map_or(fresh, |kept| kept.reveal().trim_end().to_owned()))
        })?;
        let creds = |text: String| move || Ok(Secret::new(text));
        files.secret(
            "nats/application.creds",
            "how annals signs in to NATS",
            creds(keys.application_credentials()),
        )?;
        files.secret(
            "nats/system.creds",
            "how the role relay manages accounts",
            creds(keys.system_credentials()),
        )?;
        let server = format!(
            "# For nats-server: include this file, and add listen, server_name and jetstream {{ store_dir: ... }}.\n{}",
            keys.server_settings(&self.nats_jwt_dir)
        );
        files.secret("nats/nats-server.conf", "for nats-server to include", || Ok(Secret::new(server)))?;
        Ok(keys.edge_account())
    }
}

/// Why a key of NATS was not generated or is malformed.
struct NatsKeyError(Failure);

impl From<Failure> for NatsKeyError {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl From<nats::accounts::KeyError> for NatsKeyError {
    fn from(error: nats::accounts::KeyError) -> Self {
        Self(Failure::new(Exit::Failed, error))
    }
}

impl From<NatsKeyError> for Failure {
    fn from(error: NatsKeyError) -> Self {
        error.0
    }
}

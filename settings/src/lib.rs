//! The settings: one struct per section, read from the embedded defaults, a file and the environment, in that order.
//!
//! Layout: `sections` and `privacy` hold the structs. `secret` holds values that are never printed. `names` checks
//! public names and lists renamed settings. `paths` finds files and programs. Only this crate reads environment
//! variables.

mod names;
pub mod paths;
mod privacy;
mod secret;
mod sections;

use std::path::{Path, PathBuf};

use config::{Config, ConfigError, File, FileFormat};
use serde::Deserialize;

use names::new_name;
pub use names::{deployment_problem, host_problem};
pub use privacy::{KEYS_FOLDER_SETTING, PrivacySettings};
pub use secret::Secret;
pub use sections::{
    ActivitySettings, AuditSettings, DatabaseSettings, GatewaySettings, IdentitySettings, LogFormat,
    LogSettings, NatsSettings, SagaSettings, SecretsSettings, WebhooksSettings,
};

/// With fewer connections the reads of one tenant could leave none to others.
const POOL_SIZE_MIN: usize = 4;

/// `config.default.toml`: every setting with its default.
pub const DEFAULTS: &str = include_str!("../../config.default.toml");

/// The defaults that `annals dev` changes. All others are as in production.
const DEVELOPMENT_PROFILE: &str = r#"
[gateway]
public_address = "127.0.0.1:8080"
operations_address = "127.0.0.1:8081"
admin_address = "127.0.0.1:8082"
graphiql = true
# All clients are on one machine.
max_connections_per_address = 6500

[log]
format = "text"
"#;

/// The prefix of environment variables that are settings.
const ENVIRONMENT_PREFIX: &str = "ANNALS__";

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// PostgreSQL.
    pub database: DatabaseSettings,
    /// The message broker.
    pub nats: NatsSettings,
    /// The listeners.
    pub gateway: GatewaySettings,
    /// Tokens and passwords.
    pub identity: IdentitySettings,
    /// Deliveries to tenants' endpoints.
    pub webhooks: WebhooksSettings,
    /// Retries of sagas.
    pub saga: SagaSettings,
    /// The activity log.
    pub activity: ActivitySettings,
    /// The sealer.
    pub audit: AuditSettings,
    /// The encryption keys of personal data.
    pub privacy: PrivacySettings,
    /// The deployment key.
    pub secrets: SecretsSettings,
    /// Logging.
    pub log: LogSettings,
    /// The settings file that was read, if any.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// The settings that a process needs in addition to the database and the deployment key. They follow from its roles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequiredSettings {
    /// The key that signs access tokens.
    pub tokens: bool,
    /// The key that signs checkpoints.
    pub checkpoints: bool,
    /// The key store, to decrypt personal data.
    pub personal_data: bool,
}

impl RequiredSettings {
    /// The settings for a process with all roles.
    pub const ALL: Self = Self { tokens: true, checkpoints: true, personal_data: true };

    /// The settings that one of both needs.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self {
            tokens: self.tokens || other.tokens,
            checkpoints: self.checkpoints || other.checkpoints,
            personal_data: self.personal_data || other.personal_data,
        }
    }
}

/// Why settings are invalid.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The settings file cannot be read.
    #[error("the settings file {path} cannot be read")]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The settings file is not TOML.
    #[error("{path} is not valid TOML")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<toml::de::Error>,
    },
    /// A setting that does not exist.
    #[error("unknown setting `{key}` in {origin}{}", suggestion(.key))]
    Unknown {
        /// The setting, as `section.key`.
        key: String,
        /// The file or the environment variable.
        origin: String,
    },
    /// A value has the wrong type or format.
    #[error("{0}")]
    Value(#[from] ConfigError),
    /// A required setting is not set.
    #[error("`{name}` is not set{remedy}", name = .0, remedy = remedy(.0))]
    Missing(&'static str),
    /// A secret and its file are both set.
    #[error("`{0}` and `{0}_file` are both set; give one of them")]
    Twice(&'static str),
    /// The file of a secret cannot be read.
    #[error("the file of `{name}`, {path}, cannot be read")]
    SecretFile {
        /// The setting.
        name: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A value is out of bounds.
    #[error("`{key}` {problem}")]
    Invalid {
        /// The setting, as `section.key`.
        key: &'static str,
        /// The problem.
        problem: String,
    },
}

impl Settings {
    /// The settings of every command except `dev`. `file` is the settings file; `None`: search the usual places.
    ///
    /// # Errors
    /// [`SettingsError::File`] when the file cannot be read, [`SettingsError::Syntax`] when it is not TOML.
    /// [`SettingsError::Unknown`] for a setting that does not exist, [`SettingsError::Value`] for a value of the wrong
    /// type or format.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let file = file.map(Path::to_owned).or_else(paths::settings_file);
        Self::from_layers(None, file.as_deref(), paths::environment(ENVIRONMENT_PREFIX))
    }

    /// The settings of `annals dev`. The development profile supplies what the file and the environment do not set.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_development(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::from_layers(Some(DEVELOPMENT_PROFILE), file, paths::environment(ENVIRONMENT_PREFIX))
    }

    fn from_layers(
        profile: Option<&str>,
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let known: toml::Table = DEFAULTS.parse().expect("the embedded defaults are TOML, a test reads them");
        let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
        if let Some(profile) = profile {
            builder = builder.add_source(File::from_str(profile, FileFormat::Toml));
        }
        if let Some(path) = file {
            let text = std::fs::read_to_string(path)
                .map_err(|source| SettingsError::File { path: path.to_owned(), source })?;
            let table: toml::Table = text.parse().map_err(|source| SettingsError::Syntax {
                path: path.to_owned(),
                source: Box::new(source),
            })?;
            reject_unknown(&known, &table, &path.display().to_string())?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        for (name, value) in environment {
            let key = name[ENVIRONMENT_PREFIX.len()..].to_lowercase().replace("__", ".");
            if !is_known(&known, &key) {
                return Err(SettingsError::Unknown {
                    key,
                    origin: format!("the environment variable {name}"),
                });
            }
            builder = builder.set_override(key, value)?;
        }
        let mut settings: Self = builder.build()?.try_deserialize()?;
        settings.file = file.map(Path::to_owned);
        Ok(settings)
    }

    /// All problems of these settings for a process with these requirements.
    pub fn problems(&self, required: RequiredSettings) -> Vec<SettingsError> {
        let mut problems = Vec::new();
        problems.extend(self.database.runtime_password().err());
        problems.extend(self.secrets.deployment_key().err());
        if required.tokens {
            problems.extend(self.identity.signing_key().err());
        }
        if required.personal_data {
            problems.extend(self.privacy.missing());
        }
        if required.checkpoints {
            problems.extend(self.audit.problem());
            problems.extend(self.audit.signing_key().err());
            problems.extend(self.audit.previous_signing_key().err());
            problems.extend(self.audit.state_folder().err());
        }
        problems.extend(self.database.problem());
        problems.extend(self.nats.problem());
        problems.extend(self.gateway.problem());
        problems.extend(self.identity.problem());
        problems.extend(self.privacy.problem());
        problems.extend(self.privacy.previous_root_key().err());
        problems.extend(self.log.problem());
        for (key, value) in [
            ("database.append_workers", self.database.append_workers),
            ("database.idle_timeout_seconds", self.database.idle_timeout_seconds as usize),
            ("gateway.max_streams", self.gateway.max_streams),
            ("gateway.max_connections", self.gateway.max_connections),
            ("gateway.max_connections_per_address", self.gateway.max_connections_per_address),
            ("gateway.header_timeout_seconds", self.gateway.header_timeout_seconds as usize),
            ("gateway.keep_alive_timeout_seconds", self.gateway.keep_alive_timeout_seconds as usize),
            ("gateway.heartbeat_interval_seconds", self.gateway.heartbeat_interval_seconds as usize),
            ("activity.retention_days", self.activity.retention_days as usize),
            ("activity.max_entries_per_kind", self.activity.max_entries_per_kind as usize),
            ("audit.seal_interval_seconds", self.audit.seal_interval_seconds as usize),
            ("gateway.slow_consumer_timeout_seconds", self.gateway.slow_consumer_timeout_seconds as usize),
            ("webhooks.request_timeout_seconds", self.webhooks.request_timeout_seconds as usize),
            ("webhooks.max_concurrent_requests_per_tenant", self.webhooks.max_concurrent_requests_per_tenant),
            ("webhooks.max_concurrent_requests", self.webhooks.max_concurrent_requests),
            ("webhooks.initial_delay_ms", self.webhooks.initial_delay_ms as usize),
            ("webhooks.max_dead_letters_per_endpoint", self.webhooks.max_dead_letters_per_endpoint as usize),
            ("saga.max_attempts", self.saga.max_attempts as usize),
        ] {
            if value == 0 {
                problems.push(SettingsError::Invalid { key, problem: "must be at least 1".to_owned() });
            }
        }
        if self.database.pool_size < POOL_SIZE_MIN {
            let problem = format!("must be at least {POOL_SIZE_MIN}");
            problems.push(SettingsError::Invalid { key: "database.pool_size", problem });
        }
        problems
    }
}

fn reject_unknown(known: &toml::Table, given: &toml::Table, origin: &str) -> Result<(), SettingsError> {
    for (section, value) in given {
        let keys = value.as_table().map(|table| table.keys().map(|key| format!("{section}.{key}")).collect());
        for key in keys.unwrap_or_else(|| vec![section.clone()]) {
            if !is_known(known, &key) {
                return Err(SettingsError::Unknown { key, origin: origin.to_owned() });
            }
        }
    }
    Ok(())
}

fn is_known(known: &toml::Table, key: &str) -> bool {
    let Some((section, key)) = key.split_once('.') else { return false };
    known.get(section).and_then(toml::Value::as_table).is_some_and(|table| table.contains_key(key))
}

/// How to get a value for a required setting, for the error message.
fn remedy(key: &str) -> &'static str {
    match key {
        "database.runtime_password" => "; `annals init` makes it, and `annals migrate` sets it",
        "database.owner_password" => "; `annals migrate` needs the password of `database.owner_user`",
        "secrets.deployment_key" | "identity.signing_key" | "audit.signing_key" | "privacy.root_key" => {
            "; `annals init` makes it"
        }
        "audit.state_folder" => {
            "; name a folder outside PostgreSQL's data and backups, as `annals init` does"
        }
        KEYS_FOLDER_SETTING => {
            "; name a folder outside PostgreSQL's data and backups, as `annals init` does, or a database in \
             `privacy.keys_url`"
        }
        "nats.credentials_file" | "nats.edge_account" | "nats.edge_signing_seed" => {
            "; `annals init` and `annals credential setup` make it"
        }
        _ => "",
    }
}

/// The new name of a renamed setting, or the setting with the most similar name, for the error message.
fn suggestion(key: &str) -> String {
    if let Some(name) = new_name(key) {
        return format!("; it is named `{name}` now");
    }
    let known: toml::Table = DEFAULTS.parse().expect("the embedded defaults are TOML, a test reads them");
    let nearest = known
        .iter()
        .filter_map(|(section, value)| Some((section, value.as_table()?)))
        .flat_map(|(section, table)| table.keys().map(move |key| format!("{section}.{key}")))
        .map(|candidate| (distance(key, &candidate), candidate))
        .min();
    match nearest {
        Some((distance, candidate)) if distance <= 4 => format!("; did you mean `{candidate}`?"),
        _ => String::new(),
    }
}

/// The number of edits between two short words (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests;

//! The settings: one struct per section, read from the embedded defaults, a file and the environment, in that order.
//!
//! Layout: `sections` and `privacy` hold the structs, `secret` the values that never show, `places` where files and programs are
//! looked for. This is the only module that reads environment variables.

pub mod places;
mod privacy;
mod secret;
mod sections;

use std::path::{Path, PathBuf};

use ::config::{Config, ConfigError, File, FileFormat};
use serde::Deserialize;

pub use privacy::Privacy;
pub use secret::Secret;
pub use sections::{
    Activity, Audit, Database, Gateway, Identity, Log, LogFormat, Nats, Saga, Secrets, Webhooks,
};

/// Every setting with its default; `config.default.toml`, embedded.
pub const DEFAULTS: &str = include_str!("../config.default.toml");

/// What differs under `annals dev`, everything else is as in production.
const DEVELOPMENT: &str = r#"
[gateway]
public_address = "127.0.0.1:8080"
operations_address = "127.0.0.1:8081"
admin_address = "127.0.0.1:8082"
explorer = true

[log]
format = "text"
"#;

/// Environment variables that start like this are settings.
const PREFIX: &str = "ANNALS__";

/// All settings.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// PostgreSQL.
    pub database: Database,
    /// The message broker.
    pub nats: Nats,
    /// The listeners.
    pub gateway: Gateway,
    /// Tokens and passwords.
    pub identity: Identity,
    /// Deliveries to tenants' endpoints.
    pub webhooks: Webhooks,
    /// Retries of processes.
    pub saga: Saga,
    /// The activity log.
    pub activity: Activity,
    /// The signer of checkpoints.
    pub audit: Audit,
    /// The keys of personal data.
    pub privacy: Privacy,
    /// The deployment key.
    pub secrets: Secrets,
    /// Logging.
    pub log: Log,
    /// The file that was read besides the defaults.
    #[serde(skip)]
    pub file: Option<PathBuf>,
}

/// Why settings cannot be used.
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
    /// A value of the wrong type or form.
    #[error("{0}")]
    Value(#[from] ConfigError),
    /// A setting that is needed and not set.
    #[error("`{0}` is not set")]
    Missing(&'static str),
    /// A secret that is given both ways.
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
    /// A value outside its bounds.
    #[error("`{key}` {problem}")]
    Invalid {
        /// The setting, as `section.key`.
        key: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

impl Settings {
    /// The settings for every command but `dev`: `file` where one is named, else the one found in its usual places.
    pub fn load(file: Option<&Path>) -> Result<Self, SettingsError> {
        let file = file.map(Path::to_owned).or_else(places::settings_file);
        Self::from_layers(None, file.as_deref(), places::environment(PREFIX))
    }

    /// The settings of `annals dev`: the development profile stands in for what a file and the environment leave open.
    pub fn load_development(file: Option<&Path>) -> Result<Self, SettingsError> {
        Self::from_layers(Some(DEVELOPMENT), file, places::environment(PREFIX))
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
            refuse_unknown(&known, &table, &path.display().to_string())?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        for (name, value) in environment {
            let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
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

    /// Everything that is wrong with these settings for a process, which may be one that signs checkpoints.
    pub fn problems(&self, signs: bool) -> Vec<SettingsError> {
        let mut problems = Vec::new();
        problems.extend(self.database.runtime_password().err());
        problems.extend(self.secrets.key().err());
        problems.extend(self.identity.signing_key().err());
        if signs {
            problems.extend(self.audit.signing_key().err());
            problems.extend(self.audit.previous_key().err());
            problems.extend(self.audit.folder().err());
        }
        problems.extend(self.nats.problem());
        problems.extend(self.gateway.problem());
        problems.extend(self.identity.problem());
        problems.extend(self.privacy.problem());
        problems.extend(self.privacy.previous_root_key().err());
        problems.extend(self.log.problem());
        for (key, value) in [
            ("database.pool_size", self.database.pool_size),
            ("database.append_lanes", self.database.append_lanes),
            ("gateway.streams", self.gateway.streams),
            ("gateway.heartbeat_seconds", self.gateway.heartbeat_seconds as usize),
            ("activity.retention_days", self.activity.retention_days as usize),
            ("activity.most_entries", self.activity.most_entries as usize),
            ("audit.seal_every_seconds", self.audit.seal_every_seconds as usize),
            ("gateway.slow_follower_seconds", self.gateway.slow_follower_seconds as usize),
            ("webhooks.timeout_seconds", self.webhooks.timeout_seconds as usize),
            ("webhooks.requests_a_tenant", self.webhooks.requests_a_tenant),
            ("webhooks.requests", self.webhooks.requests),
            ("webhooks.first_delay_ms", self.webhooks.first_delay_ms as usize),
            ("webhooks.most_dead_letters", self.webhooks.most_dead_letters as usize),
            ("saga.max_attempts", self.saga.max_attempts as usize),
        ] {
            if value == 0 {
                problems.push(SettingsError::Invalid { key, problem: "must be at least 1".to_owned() });
            }
        }
        problems
    }
}

fn refuse_unknown(known: &toml::Table, given: &toml::Table, origin: &str) -> Result<(), SettingsError> {
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

/// The settings with the nearest spelling, for the error message.
fn suggestion(key: &str) -> String {
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
mod tests {
    use super::*;

    fn with_environment(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Settings::from_layers(None, None, pairs.into_iter())
    }

    fn with_file(text: &str) -> Result<Settings, SettingsError> {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), text).expect("it can be written");
        Settings::from_layers(None, Some(file.path()), std::iter::empty())
    }

    #[test]
    fn the_defaults_set_everything() {
        let settings = with_environment(&[]).expect("the defaults are complete");
        assert_eq!(settings.identity.argon2_memory_kib, 19_456);
        assert_eq!(settings.gateway.public_address.port(), 8080);
    }

    #[test]
    fn the_environment_overrides_a_file_and_a_file_the_defaults() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), "[database]\nhost = \"file\"\nname = \"file\"\n")
            .expect("it can be written");
        let environment = [("ANNALS__DATABASE__HOST".to_owned(), "environment".to_owned())];
        let settings =
            Settings::from_layers(None, Some(file.path()), environment.into_iter()).expect("valid");
        assert_eq!((&*settings.database.host, &*settings.database.name), ("environment", "file"));
        assert_eq!(settings.database.port, 5432);
    }

    #[test]
    fn the_environment_holds_numbers_and_flags_as_text() {
        let settings = with_environment(&[
            ("ANNALS__IDENTITY__ARGON2_MEMORY_KIB", "64"),
            ("ANNALS__GATEWAY__EXPLORER", "true"),
            ("ANNALS__DATABASE__RUNTIME_PASSWORD", "007"),
        ])
        .expect("valid");
        assert_eq!(settings.identity.argon2_memory_kib, 64);
        assert!(settings.gateway.explorer);
        assert_eq!(settings.database.runtime_password().expect("set").reveal(), "007");
    }

    #[test]
    fn an_unknown_key_is_refused_by_name() {
        let error = with_file("[identity]\nargon2_memry_kib = 1\n").expect_err("unknown").to_string();
        assert!(error.contains("`identity.argon2_memry_kib`"), "{error}");
        assert!(error.contains("did you mean `identity.argon2_memory_kib`?"), "{error}");
        let error =
            with_environment(&[("ANNALS__IDENTITY__NONSENSE", "1")]).expect_err("unknown").to_string();
        assert!(
            error.contains("`identity.nonsense`") && error.contains("ANNALS__IDENTITY__NONSENSE"),
            "{error}"
        );
        assert!(with_file("[nonsense]\na = 1\n").is_err());
        assert!(with_file("nonsense = 1\n").is_err());
        assert!(with_file("[nonsense]\n").is_err());
    }

    #[test]
    fn a_wrong_value_is_refused_by_name() {
        let error = with_environment(&[("ANNALS__DATABASE__PORT", "many")]).expect_err("no port").to_string();
        assert!(error.contains("database.port"), "{error}");
        let error = with_file("[log]\nformat = \"xml\"\n").expect_err("no format").to_string();
        assert!(error.contains("format"), "{error}");
    }

    #[test]
    fn several_nats_servers_and_their_replicas_are_checked() {
        let problem = |url: &str, replicas: &str| {
            let pairs = [("ANNALS__NATS__URL", url), ("ANNALS__NATS__REPLICAS", replicas)];
            with_environment(&pairs).expect("readable").nats.problem().map(|problem| problem.to_string())
        };
        assert_eq!(problem("nats://a:4222, tls://b:4222,nats://c:4222", "3"), None);
        let told = |url, replicas| problem(url, replicas).expect("is refused");
        assert!(told("nats://a:4222,b:4222", "1").contains("nats.url"));
        assert!(told("nats://a:4222", "2").contains("nats.replicas"));
    }

    #[test]
    fn origins_are_written_as_browsers_send_them() {
        let gateway = |host: &str, origins: &str| {
            let pairs = [("ANNALS__GATEWAY__PUBLIC_HOST", host), ("ANNALS__GATEWAY__WEB_ORIGINS", origins)];
            with_environment(&pairs).expect("readable").gateway
        };
        assert!(gateway("", "").problem().is_none());
        assert!(gateway("", "https://app.example.com, http://localhost:3000").problem().is_none());
        for wrong in [
            "*",
            "null",
            "app.example.com",
            "https://app.example.com/",
            "https://App.example.com",
            "https://app.example.com:443",
            "https://app.example.com/page",
            "ws://app.example.com",
        ] {
            let told = gateway("", &format!("https://fine.example.com,{wrong}")).problem();
            assert!(told.is_some_and(|told| told.to_string().contains(&format!("`{wrong}`"))), "{wrong}");
        }
        let development = "http://localhost:3000,http://localhost:5173";
        assert_eq!(gateway("localhost", development).stray_origin(), None);
        assert_eq!(gateway("api.example.com", development).stray_origin(), Some("http://localhost:3000"));
        assert_eq!(gateway("api.example.com", "https://app.example.com").stray_origin(), None);
    }

    #[test]
    fn a_secret_is_given_once() {
        let error = with_file("[database]\nruntime_password = \"a\"\nruntime_password_file = \"b\"\n")
            .expect("readable")
            .database
            .runtime_password()
            .expect_err("twice");
        assert_eq!(
            error.to_string(),
            "`database.runtime_password` and `database.runtime_password_file` are both set; give one of them"
        );
    }

    #[test]
    fn a_secret_file_may_end_with_a_line_break() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
        std::fs::write(file.path(), "hunter2\n").expect("it can be written");
        let path = file.path().to_str().expect("a plain path").to_owned();
        let settings =
            with_environment(&[("ANNALS__DATABASE__RUNTIME_PASSWORD_FILE", &path)]).expect("valid");
        assert_eq!(settings.database.runtime_password().expect("set").reveal(), "hunter2");
    }

    #[test]
    fn settings_print_no_secret() {
        let settings = with_environment(&[
            ("ANNALS__DATABASE__RUNTIME_PASSWORD", "hunter2"),
            ("ANNALS__SECRETS__KEY", "c0ffee"),
        ])
        .expect("valid");
        let printed = format!("{settings:?}");
        assert!(!printed.contains("hunter2") && !printed.contains("c0ffee"), "{printed}");
    }

    #[test]
    fn every_setting_is_documented_and_read() {
        let settings = with_environment(&[]).expect("the defaults are complete");
        let problems: Vec<String> = settings.problems(true).iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "`database.runtime_password` is not set",
                "`secrets.key` is not set",
                "`identity.signing_key` is not set",
                "`audit.signing_key` is not set",
                "`audit.folder` is not set"
            ]
        );
    }
}

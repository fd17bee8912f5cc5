//! The sections of the settings with their types and bounds. `config.default.toml` describes each setting.

#![expect(missing_docs, reason = "`config.default.toml` describes each setting")]

use std::net::SocketAddr;
use std::path::PathBuf;

use database::{TlsConfig, TlsMode};
use gateway::TrustedProxies;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::{Secret, SettingsError, deployment_problem, host_problem};

/// `[database]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    pub host: String,
    pub port: u16,
    pub name: String,
    pub owner_user: String,
    #[serde(deserialize_with = "secret")]
    pub owner_password: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub owner_password_file: Option<PathBuf>,
    #[serde(deserialize_with = "secret")]
    pub runtime_password: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub runtime_password_file: Option<PathBuf>,
    pub tls: String,
    #[serde(deserialize_with = "path")]
    pub tls_ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_certificate_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_key_file: Option<PathBuf>,
    pub pool_size: usize,
    pub append_workers: usize,
    pub idle_timeout_seconds: u64,
}

impl DatabaseSettings {
    /// The TLS settings of connections.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] for an unknown TLS mode.
    pub fn tls(&self) -> Result<TlsConfig, SettingsError> {
        let mode = self
            .tls
            .parse()
            .map_err(|error: database::UnknownTlsMode| invalid("database.tls", &error.to_string()))?;
        Ok(TlsConfig {
            mode,
            ca_file: self.tls_ca_file.clone(),
            certificate_file: self.tls_certificate_file.clone(),
            key_file: self.tls_key_file.clone(),
        })
    }

    pub(super) fn problem(&self) -> Option<SettingsError> {
        let tls = match self.tls() {
            Ok(tls) => tls,
            Err(problem) => return Some(problem),
        };
        let files = [&tls.ca_file, &tls.certificate_file, &tls.key_file];
        // A named file means that TLS is wanted, so it must not be ignored.
        if tls.mode == TlsMode::Off && files.iter().any(|file| file.is_some()) {
            return Some(invalid("database.tls", "is off, although files for TLS are set"));
        }
        (tls.certificate_file.is_some() != tls.key_file.is_some()).then(|| {
            invalid(
                "database.tls_certificate_file",
                "and `database.tls_key_file` go together; set both or neither",
            )
        })
    }

    /// The password of the owner role. Only migrations need it.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn owner_password(&self) -> Result<Secret, SettingsError> {
        Secret::resolve(
            "database.owner_password",
            self.owner_password.as_ref(),
            self.owner_password_file.as_deref(),
        )
    }

    /// The password of the runtime roles.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn runtime_password(&self) -> Result<Secret, SettingsError> {
        Secret::resolve(
            "database.runtime_password",
            self.runtime_password.as_ref(),
            self.runtime_password_file.as_deref(),
        )
    }
}

/// `[nats]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NatsSettings {
    /// A secret, because it may contain a password.
    pub url: Secret,
    #[serde(deserialize_with = "path")]
    pub credentials_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_ca_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_certificate_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub tls_key_file: Option<PathBuf>,
    pub allow_unauthenticated: bool,
    pub replicas: usize,
    #[serde(deserialize_with = "text")]
    pub edge_account: Option<String>,
    #[serde(deserialize_with = "secret")]
    pub edge_signing_seed: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub edge_signing_seed_file: Option<PathBuf>,
    #[serde(deserialize_with = "secret")]
    pub operator_signing_seed: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub operator_signing_seed_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub system_credentials_file: Option<PathBuf>,
    #[serde(deserialize_with = "text")]
    pub public_url: Option<String>,
}

impl NatsSettings {
    /// The seed that signs credentials of integrators. `None` when this process issues none.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or the file cannot be read.
    pub fn edge_signing_seed(&self) -> Result<Option<Secret>, SettingsError> {
        optional(Secret::resolve(
            "nats.edge_signing_seed",
            self.edge_signing_seed.as_ref(),
            self.edge_signing_seed_file.as_deref(),
        ))
    }

    /// The seed that signs the integrators' account. `None` when this process does not update the account.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or the file cannot be read.
    pub fn operator_signing_seed(&self) -> Result<Option<Secret>, SettingsError> {
        optional(Secret::resolve(
            "nats.operator_signing_seed",
            self.operator_signing_seed.as_ref(),
            self.operator_signing_seed_file.as_deref(),
        ))
    }

    /// The problem of the settings for integrators' credentials.
    fn integrators_problem(&self) -> Option<SettingsError> {
        let (edge, operator) = match (self.edge_signing_seed(), self.operator_signing_seed()) {
            (Ok(edge), Ok(operator)) => (edge.is_some(), operator.is_some()),
            (Err(error), _) | (_, Err(error)) => return Some(error),
        };
        if operator != self.system_credentials_file.is_some() {
            return Some(invalid(
                "nats.operator_signing_seed",
                "and `nats.system_credentials_file` go together; set both or neither",
            ));
        }
        if operator && self.credentials_file.is_none() {
            return Some(SettingsError::Missing("nats.credentials_file"));
        }
        match self.edge_account.is_some() {
            false if edge || operator => Some(SettingsError::Missing("nats.edge_account")),
            // A process with the operator's seed publishes the account's signing keys, so it must know this one.
            true if !edge => Some(SettingsError::Missing("nats.edge_signing_seed")),
            _ => None,
        }
    }

    fn has_credentials(&self) -> bool {
        nats::has_credentials(self.url.reveal(), self.credentials_file.as_deref())
    }

    pub(super) fn problem(&self) -> Option<SettingsError> {
        let has_scheme =
            |address: &str| ["nats://", "tls://"].iter().any(|scheme| address.trim().starts_with(scheme));
        if !self.url.reveal().split(',').all(has_scheme) {
            return Some(invalid("nats.url", "each address must start with nats:// or tls://"));
        }
        if ![1, 3].contains(&self.replicas) {
            return Some(invalid("nats.replicas", "must be 1 or 3"));
        }
        if self.tls_certificate_file.is_some() != self.tls_key_file.is_some() {
            return Some(invalid(
                "nats.tls_certificate_file",
                "and `nats.tls_key_file` go together; set both or neither",
            ));
        }
        let files = [
            ("nats.credentials", &self.credentials_file),
            ("nats.system_credentials", &self.system_credentials_file),
            ("nats.tls_ca", &self.tls_ca_file),
            ("nats.tls_certificate", &self.tls_certificate_file),
            ("nats.tls_key", &self.tls_key_file),
        ];
        for (name, path) in files {
            if let Some(path) = path
                && let Err(source) = std::fs::File::open(path)
            {
                return Some(SettingsError::SecretFile { name, path: path.clone(), source });
            }
        }
        let problem = self.integrators_problem();
        problem.or_else(|| {
            (!self.allow_unauthenticated && !self.has_credentials()).then(|| {
                invalid(
                    "nats.credentials_file",
                    "is not set, and `nats.url` holds no user: NATS without credentials is refused \
                 (`nats.allow_unauthenticated = true` accepts it, for development only)",
                )
            })
        })
    }
}

/// `[gateway]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewaySettings {
    pub public_address: SocketAddr,
    pub operations_address: SocketAddr,
    pub admin_address: SocketAddr,
    #[serde(deserialize_with = "text")]
    pub public_host: Option<String>,
    pub max_streams: usize,
    pub heartbeat_interval_seconds: u64,
    pub slow_consumer_timeout_seconds: u64,
    #[serde(deserialize_with = "list")]
    pub cors_allowed_origins: Vec<String>,
    pub graphiql: bool,
    pub compiled_reads: bool,
    pub max_connections: usize,
    pub max_connections_per_address: usize,
    pub header_timeout_seconds: u64,
    pub keep_alive_timeout_seconds: u64,
    #[serde(deserialize_with = "list")]
    pub trusted_proxies: Vec<String>,
}

impl GatewaySettings {
    pub(super) fn problem(&self) -> Option<SettingsError> {
        if let Err(error) = TrustedProxies::parse(&self.trusted_proxies) {
            return Some(invalid("gateway.trusted_proxies", &error.to_string()));
        }
        if let Some(problem) = self.public_host.as_deref().and_then(host_problem) {
            return Some(invalid("gateway.public_host", problem));
        }
        let is_origin = |text: &String| {
            let url = Url::parse(text).ok().filter(|url| ["http", "https"].contains(&url.scheme()));
            // Browsers send an origin in this form. Any other form would never match.
            url.is_some_and(|url| url.origin().ascii_serialization() == *text)
        };
        let wrong = self.cors_allowed_origins.iter().find(|text| !is_origin(text))?;
        let problem = format!("`{wrong}` is no origin as browsers send it, such as https://app.example.com");
        Some(invalid("gateway.cors_allowed_origins", &problem))
    }

    /// Whether clients reach the public listener under a domain name. This is by HTTPS, even if the proxy that ends TLS
    /// does not report it.
    pub fn is_behind_tls(&self) -> bool {
        let local = |host: &str| {
            host == "localhost" || host.ends_with(".localhost") || host.parse::<std::net::IpAddr>().is_ok()
        };
        self.public_host.as_deref().is_some_and(|host| !local(host))
    }

    /// A configured origin on the client's own machine, although the gateway has another public host.
    pub fn loopback_origin(&self) -> Option<&str> {
        let local = |host: &str| ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        if self.public_host.as_deref().is_some_and(local) {
            return None;
        }
        let host = |origin: &str| Url::parse(origin).ok()?.host_str().map(str::to_owned);
        self.cors_allowed_origins
            .iter()
            .map(String::as_str)
            .find(|origin| host(origin).is_some_and(|host| local(&host)))
    }
}

/// `[identity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitySettings {
    pub issuer: String,
    #[serde(deserialize_with = "secret")]
    pub signing_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub signing_key_file: Option<PathBuf>,
    pub access_token_lifetime_seconds: u32,
    pub argon2_memory_kib: u32,
    pub argon2_iterations: u32,
    pub argon2_threads: usize,
    pub argon2_max_wait_ms: u64,
    pub argon2_max_queued_per_tenant: usize,
}

impl IdentitySettings {
    /// The private key of access tokens, as PEM.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn signing_key(&self) -> Result<Secret, SettingsError> {
        Secret::resolve("identity.signing_key", self.signing_key.as_ref(), self.signing_key_file.as_deref())
    }

    /// Hashes computed at a time. The setting 0 is resolved.
    pub fn hashing_threads(&self) -> usize {
        match self.argon2_threads {
            0 => std::thread::available_parallelism().map_or(1, |cores| cores.get() - 1).max(1),
            threads => threads,
        }
    }

    pub(super) fn problem(&self) -> Option<SettingsError> {
        // RFC 9106 requires at least 8 KiB for each lane; one lane is used.
        if self.argon2_memory_kib < 8 {
            return Some(invalid("identity.argon2_memory_kib", "must be at least 8"));
        }
        if self.argon2_iterations == 0 {
            return Some(invalid("identity.argon2_iterations", "must be at least 1"));
        }
        if !(300..=3600).contains(&self.access_token_lifetime_seconds) {
            return Some(invalid("identity.access_token_lifetime_seconds", "must be between 300 and 3600"));
        }
        self.issuer.is_empty().then(|| invalid("identity.issuer", "must not be empty"))
    }
}

/// `[webhooks]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhooksSettings {
    pub allow_private_addresses: bool,
    pub request_timeout_seconds: u64,
    pub max_concurrent_requests_per_tenant: usize,
    pub max_concurrent_requests: usize,
    pub initial_delay_ms: u64,
    pub max_delay_ms: u64,
    pub max_retry_seconds: u64,
    pub disable_after_seconds: u64,
    pub max_dead_letters_per_endpoint: u64,
}

/// `[saga]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SagaSettings {
    pub max_attempts: u32,
    pub initial_delay_ms: u64,
    pub max_delay_ms: u64,
}

/// `[activity]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ActivitySettings {
    pub retention_days: u32,
    pub max_entries_per_kind: u64,
}

/// `[audit]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditSettings {
    pub deployment: String,
    #[serde(deserialize_with = "secret")]
    pub signing_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub signing_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "secret")]
    pub previous_signing_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub previous_signing_key_file: Option<PathBuf>,
    #[serde(deserialize_with = "path")]
    pub state_folder: Option<PathBuf>,
    pub seal_interval_seconds: u64,
}

impl AuditSettings {
    /// The private key of checkpoints, as PEM.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn signing_key(&self) -> Result<Secret, SettingsError> {
        Secret::resolve("audit.signing_key", self.signing_key.as_ref(), self.signing_key_file.as_deref())
    }

    /// The previous key, if it is set.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or the file cannot be read.
    pub fn previous_signing_key(&self) -> Result<Option<Secret>, SettingsError> {
        let (key, file) = (self.previous_signing_key.as_ref(), self.previous_signing_key_file.as_deref());
        optional(Secret::resolve("audit.previous_signing_key", key, file))
    }

    pub(super) fn problem(&self) -> Option<SettingsError> {
        deployment_problem(&self.deployment).map(|problem| invalid("audit.deployment", problem))
    }

    /// The folder in which the signer stores what it has signed.
    ///
    /// # Errors
    /// [`SettingsError::Missing`] when it is not set.
    pub fn state_folder(&self) -> Result<PathBuf, SettingsError> {
        self.state_folder.clone().ok_or(SettingsError::Missing("audit.state_folder"))
    }
}

/// `[secrets]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsSettings {
    #[serde(deserialize_with = "secret")]
    pub deployment_key: Option<Secret>,
    #[serde(deserialize_with = "path")]
    pub deployment_key_file: Option<PathBuf>,
}

impl SecretsSettings {
    /// The deployment key in hexadecimal.
    ///
    /// # Errors
    /// [`SettingsError`] when both the value and its file are set, or neither is, or the file cannot be read.
    pub fn deployment_key(&self) -> Result<Secret, SettingsError> {
        let (key, file) = (self.deployment_key.as_ref(), self.deployment_key_file.as_deref());
        Secret::resolve("secrets.deployment_key", key, file)
    }
}

/// `[log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogSettings {
    pub level: String,
    pub format: LogFormat,
}

impl LogSettings {
    pub(super) fn problem(&self) -> Option<SettingsError> {
        let error = tracing_subscriber::EnvFilter::try_new(&self.level).err()?;
        Some(invalid("log.level", &format!("is no log filter: {error}")))
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object on each line.
    Json,
    /// Text for reading at a terminal.
    Text,
}

/// Turns a missing secret into `None`.
pub(super) fn optional(resolved: Result<Secret, SettingsError>) -> Result<Option<Secret>, SettingsError> {
    match resolved {
        Ok(secret) => Ok(Some(secret)),
        Err(SettingsError::Missing(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn invalid(key: &'static str, problem: &str) -> SettingsError {
    SettingsError::Invalid { key, problem: problem.to_owned() }
}

pub(super) fn text<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    String::deserialize(from).map(|text| (!text.is_empty()).then_some(text))
}

fn list<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let listed = String::deserialize(from)?;
    Ok(listed.split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
}

pub(super) fn secret<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Secret>, D::Error> {
    text(from).map(|text| text.map(Secret::new))
}

pub(super) fn path<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    text(from).map(|text| text.map(PathBuf::from))
}

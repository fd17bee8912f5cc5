//! The connection to NATS and the stream `EVENTS`. The client reconnects without limit.
//! [`Nats::event_stream`] returns the stream; it checks the server and the stream's settings on each call.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::{
    ContextBuilder, CreateStreamError, CreateStreamErrorKind, GetStreamErrorKind,
};
use async_nats::jetstream::stream::{Config, DiscardPolicy, Info, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;

use crate::NatsError;

/// The first token of every event's subject.
pub const SUBJECT_ROOT: &str = "events";
/// The stream with the events of every tenant.
pub const STREAM: &str = "EVENTS";
/// How long JetStream recognises message ids. A relay repeats a publication well within this time.
pub const DUPLICATE_WINDOW: Duration = Duration::from_mins(2);

/// Older servers ignore settings that the product needs.
const REQUIRED_VERSION: (u64, u64) = (2, 12);
const REQUIRED_VERSION_TEXT: &str = "2.12";
/// How long `connect` waits for a server before it returns without one.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of JetStream requests and of publish acknowledgements.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a request for the stream's state. A cluster does not answer while it elects a leader; a retry succeeds
/// soon
/// after the election.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum outstanding acknowledgements; more than the relay ever has in flight.
const ACKS_IN_FLIGHT_MAX: usize = 2_000;

/// Address and sign-in of NATS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsConfig {
    /// One address, or several separated by commas: `nats://127.0.0.1:4222`.
    pub url: String,
    /// A credentials file (`.creds`), if the server needs one.
    pub credentials_file: Option<PathBuf>,
    /// TLS settings of the connection.
    pub tls: NatsTls,
    /// The number of replicas of the stream in a cluster: 1 or 3.
    pub replicas: usize,
    /// Accepts a server that allows clients without credentials. For development.
    pub allow_unauthenticated: bool,
}

/// Whether the settings have credentials: a file, or a user or token in each address.
pub fn has_credentials(url: &str, credentials_file: Option<&Path>) -> bool {
    let has_user =
        |part: &str| part.trim().parse::<ServerAddr>().is_ok_and(|address| address.username().is_some());
    credentials_file.is_some() || url.split(',').all(has_user)
}

/// The PEM files for TLS. If one is set, or an address starts with `tls://`, TLS is required. Otherwise it is used if
/// the server requires it. The server's certificate must be from a trusted authority and match the host name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatsTls {
    /// The trusted certificate authorities; by default those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, if the server needs one.
    pub certificate_file: Option<PathBuf>,
    /// The private key of the client's certificate.
    pub key_file: Option<PathBuf>,
}

impl NatsConfig {
    /// Client options with this TLS. If one address requires TLS, the other servers of the cluster must support it too.
    pub(crate) fn connect_options(&self) -> ConnectOptions {
        let NatsTls { ca_file, certificate_file, key_file } = self.tls.clone();
        let is_tls = |address: &str| address.trim().starts_with("tls://");
        let is_required = ca_file.is_some() || certificate_file.is_some() || self.url.split(',').any(is_tls);
        let mut options = ConnectOptions::new().require_tls(is_required);
        if let Some(file) = ca_file {
            options = options.add_root_certificates(file);
        }
        if let (Some(certificate), Some(key)) = (certificate_file, key_file) {
            options = options.add_client_certificate(certificate, key);
        }
        options
    }
}

/// A connection to NATS that reconnects after outages. Cheap to clone.
#[derive(Clone)]
pub struct Nats {
    client: Client,
    jetstream: Context,
    connections: Arc<watch::Receiver<u64>>,
    config: Arc<NatsConfig>,
    /// The number of replicas has been set.
    replicas_set: Arc<AtomicBool>,
}

impl Nats {
    /// Connects, checks the server and creates the stream. If no server answers within `CONNECT_TIMEOUT`, it logs a
    /// warning and returns; the client keeps connecting in the background.
    ///
    /// # Errors
    /// [`NatsError`] if a server answers but cannot be used: too old, without JetStream, or with other settings of the
    /// stream.
    pub async fn connect(config: NatsConfig) -> Result<Self, NatsError> {
        let addresses = addresses(&config.url)?;
        if !config.allow_unauthenticated && !has_credentials(&config.url, config.credentials_file.as_deref())
        {
            return Err(NatsError::NoCredentials);
        }
        let (counter, connections) = watch::channel(0u64);
        let mut options = config
            .connect_options()
            .name("annals")
            .retry_on_initial_connect()
            .max_reconnects(None)
            .connection_timeout(REQUEST_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                match &event {
                    Event::Connected => counter.send_modify(|count| *count += 1),
                    Event::Disconnected => tracing::warn!("the connection to NATS is lost"),
                    // These two are texts without a source error.
                    Event::ClientError(problem) => tracing::warn!(%problem, "NATS client error"),
                    Event::ServerError(problem) => tracing::warn!(%problem, "NATS server error"),
                    _ => {}
                }
                std::future::ready(())
            });
        if let Some(path) = &config.credentials_file {
            options = options.credentials_file(path).await.map_err(NatsError::Credentials)?;
        }
        let client = options.connect(addresses).await.map_err(NatsError::Connect)?;
        let jetstream = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .max_ack_inflight(ACKS_IN_FLIGHT_MAX)
            .build(client.clone());
        let nats = Self {
            client,
            jetstream,
            connections: Arc::new(connections),
            config: Arc::new(config),
            replicas_set: Arc::default(),
        };
        match tokio::time::timeout(CONNECT_TIMEOUT, nats.wait_for_stream()).await {
            Ok(Ok(())) => tracing::info!(version = nats.client.server_info().version, "connected to NATS"),
            Ok(Err(error)) => return Err(error),
            Err(_elapsed) => {
                tracing::warn!(url = %without_password(&nats.config.url), "NATS is unreachable; trying on in the background");
            }
        }
        Ok(nats)
    }

    async fn wait_for_stream(&self) -> Result<(), NatsError> {
        let mut connections = self.connections();
        // This fails only if the client is dropped, and `self` holds it.
        let _ = connections.wait_for(|count| *count > 0).await;
        loop {
            match self.event_stream().await {
                // JetStream starts a moment later than the server's port.
                Err(error) if error.is_unavailable() => tokio::time::sleep(Duration::from_millis(50)).await,
                result => return result.map(|_| ()),
            }
        }
    }

    /// Whether the client is connected now.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// The number of connections made so far; it changes with each reconnection.
    pub fn connections(&self) -> watch::Receiver<u64> {
        (*self.connections).clone()
    }

    /// The JetStream context, for publishing and consuming.
    pub fn jetstream(&self) -> &Context {
        &self.jetstream
    }

    /// The core client.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The number of replicas of each stream.
    pub(crate) fn replicas(&self) -> usize {
        self.config.replicas
    }

    /// Another connection with the same settings. A message with headers that the client cannot parse ends its
    /// connection, so a push consumer uses its own connection.
    pub(crate) async fn connect_again(&self) -> Result<Self, NatsError> {
        Self::connect((*self.config).clone()).await
    }

    /// Checks the server's version and the settings of `EVENTS`, and creates the stream if it is missing.
    /// A process sets the number of replicas once. If two processes have different settings, the process that started
    /// last wins.
    ///
    /// # Errors
    /// [`NatsError`] if NATS is unreachable, or if the server or the stream cannot be used.
    pub async fn event_stream(&self) -> Result<Info, NatsError> {
        if !self.is_connected() {
            return Err(NatsError::Unreachable);
        }
        let server = self.client.try_server_info().ok_or(NatsError::Unreachable)?;
        check_version(&server.version)?;
        if !server.auth_required && !self.config.allow_unauthenticated {
            return Err(NatsError::Open);
        }
        if !server.jetstream {
            return Err(NatsError::NoJetStream);
        }
        let looked = tokio::time::timeout(PROBE_TIMEOUT, self.jetstream.get_stream(STREAM)).await;
        let found =
            looked.map_err(|_elapsed| NatsError::JetStream("the stream does not answer".to_owned()))?;
        let info = match found {
            Ok(stream) => self.with_replicas(stream.cached_info().clone()).await?,
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(refusal)
                    if refusal.error_code() == ErrorCode::STREAM_NOT_FOUND =>
                {
                    self.create_stream().await?
                }
                _ => return Err(NatsError::JetStream(describe(&error))),
            },
        };
        check_stream(&info.config)?;
        Ok(info)
    }

    async fn create_stream(&self) -> Result<Info, NatsError> {
        let wanted = stream_config(self.config.replicas);
        let created = self.jetstream.create_stream(wanted.clone()).await;
        let info = created.map_err(|error| self.refused(&error))?.cached_info().clone();
        compare_echo(&wanted, &info.config)?;
        self.replicas_set.store(true, Ordering::Relaxed);
        tracing::info!(stream = STREAM, replicas = self.config.replicas, "created the stream");
        Ok(info)
    }

    async fn with_replicas(&self, found: Info) -> Result<Info, NatsError> {
        if found.config.num_replicas == self.config.replicas {
            self.replicas_set.store(true, Ordering::Relaxed);
        }
        if self.replicas_set.load(Ordering::Relaxed) {
            return Ok(found);
        }
        // A server without a cluster accepts any number of replicas and stores one copy.
        let is_of_cluster = found.cluster.as_ref().is_some_and(|cluster| cluster.name.is_some());
        if self.config.replicas > 1 && !is_of_cluster {
            return Err(NatsError::NoCluster { replicas: self.config.replicas });
        }
        let before = found.config.num_replicas;
        let wanted = Config { num_replicas: self.config.replicas, ..found.config };
        let updated = self.jetstream.update_stream(&wanted).await.map_err(|error| self.refused(&error))?;
        compare_echo(&wanted, &updated.config)?;
        self.replicas_set.store(true, Ordering::Relaxed);
        tracing::info!(
            stream = STREAM,
            before,
            replicas = self.config.replicas,
            "changed the stream's replicas"
        );
        Ok(updated)
    }

    fn refused(&self, error: &CreateStreamError) -> NatsError {
        match error.kind() {
            CreateStreamErrorKind::JetStream(refusal)
                if refusal.error_code() == ErrorCode::STREAM_REPLICAS_NOT_SUPPORTED =>
            {
                NatsError::NoCluster { replicas: self.config.replicas }
            }
            _ => NatsError::JetStream(describe(error)),
        }
    }
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("connected", &self.is_connected()).finish_non_exhaustive()
    }
}

pub(crate) fn addresses(url: &str) -> Result<Vec<ServerAddr>, NatsError> {
    let parse = |part: &str| part.trim().parse().map_err(|_| NatsError::Address(without_password(part)));
    url.split(',').map(parse).collect()
}

/// The address without user and password.
pub(crate) fn without_password(url: &str) -> String {
    let without = |part: &str| match (part.find("://"), part.rfind('@')) {
        (Some(scheme), Some(at)) if at > scheme => format!("{}{}", &part[..scheme + 3], &part[at + 1..]),
        (None, Some(at)) => part[at + 1..].to_owned(),
        _ => part.to_owned(),
    };
    url.split(',').map(without).collect::<Vec<_>>().join(",")
}

fn reconnect_delay(attempt: usize) -> Duration {
    let doublings = u32::try_from(attempt.min(6)).unwrap_or(6);
    Duration::from_millis(25 * 2u64.pow(doublings)).min(Duration::from_secs(1))
}

fn stream_config(replicas: usize) -> Config {
    Config {
        name: STREAM.to_owned(),
        description: Some("Every tenant's events; a copy that is filled from the log".to_owned()),
        subjects: vec![format!("{SUBJECT_ROOT}.>")],
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_bytes: -1,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_consumers: -1,
        max_age: Duration::ZERO,
        duplicate_window: DUPLICATE_WINDOW,
        allow_direct: true,
        num_replicas: replicas,
        ..Config::default()
    }
}

fn check_version(version: &str) -> Result<(), NatsError> {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u64>().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if found >= REQUIRED_VERSION {
        Ok(())
    } else {
        Err(NatsError::ServerTooOld { found: version.to_owned(), required: REQUIRED_VERSION_TEXT })
    }
}

/// A server leaves an unknown setting out of its response instead of rejecting it.
fn compare_echo(wanted: &Config, echoed: &Config) -> Result<(), NatsError> {
    let limits = |config: &Config| (config.max_bytes, config.max_messages, config.max_messages_per_subject);
    let settings = [
        ("retention", wanted.retention == echoed.retention),
        ("limits", limits(wanted) == limits(echoed)),
        ("max_age", wanted.max_age == echoed.max_age),
        ("storage", wanted.storage == echoed.storage),
        ("duplicate_window", wanted.duplicate_window == echoed.duplicate_window),
        ("allow_direct", wanted.allow_direct == echoed.allow_direct),
        ("num_replicas", wanted.num_replicas == echoed.num_replicas),
    ];
    match settings.iter().find(|(_, same)| !same) {
        Some((name, _)) => Err(differs(format!("{name} was not taken over by the server"))),
        None => Ok(()),
    }
}

/// Checks the settings that correctness depends on. Limits of age and size are the operator's choice; they are only
/// logged.
fn check_stream(config: &Config) -> Result<(), NatsError> {
    let subject = format!("{SUBJECT_ROOT}.>");
    if config.subjects != [subject.clone()] {
        return Err(differs(format!("its subjects are {:?}, not {subject:?}", config.subjects)));
    }
    if config.retention != RetentionPolicy::Limits {
        return Err(differs(format!("its retention is {:?}, not limits", config.retention)));
    }
    if config.no_ack || config.sealed || config.mirror.is_some() || config.sources.is_some() {
        return Err(differs("it must acknowledge, be open and have no other source".to_owned()));
    }
    if config.duplicate_window < DUPLICATE_WINDOW {
        return Err(differs(format!(
            "its duplicate window is {:?}, not at least {DUPLICATE_WINDOW:?}",
            config.duplicate_window
        )));
    }
    if config.max_age > Duration::ZERO || config.max_bytes > 0 || config.max_messages > 0 {
        tracing::warn!(stream = STREAM, "the stream has limits: old events will leave it");
    }
    Ok(())
}

fn differs(difference: String) -> NatsError {
    NatsError::StreamDiffers { stream: STREAM, difference }
}

/// An error with its cause, because the client's messages often contain only the kind.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_servers_are_refused() {
        for good in ["2.12.0", "2.12.8", "2.15.1", "3.0.0", "2.14.0-RC.1"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
        for bad in ["2.9.10", "2.11.11", "1.99.0", "", "x"] {
            assert!(check_version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stream_that_would_lose_events_or_doubles_is_refused() {
        assert!(check_stream(&stream_config(1)).is_ok());
        let change = |change: fn(&mut Config)| {
            let mut config = stream_config(1);
            change(&mut config);
            check_stream(&config)
        };
        assert!(change(|config| config.subjects = vec!["events.acme.>".to_owned()]).is_err());
        assert!(change(|config| config.retention = RetentionPolicy::WorkQueue).is_err());
        assert!(change(|config| config.duplicate_window = Duration::from_secs(1)).is_err());
        assert!(change(|config| config.no_ack = true).is_err());
        assert!(change(|config| config.max_age = Duration::from_hours(24)).is_ok());
    }

    #[test]
    fn a_setting_that_the_server_ignored_is_noticed() {
        let wanted = stream_config(3);
        assert!(compare_echo(&wanted, &wanted).is_ok());
        for ignored in
            [Config { allow_direct: false, ..wanted.clone() }, Config { num_replicas: 1, ..wanted.clone() }]
        {
            assert!(compare_echo(&wanted, &ignored).is_err());
        }
    }

    #[test]
    fn credentials_are_a_file_or_a_user_in_each_address() {
        let file = Some(Path::new("application.creds"));
        assert!(has_credentials("nats://a:4222", file));
        assert!(has_credentials("nats://ann:pw@a:4222, tls://ann:pw@b:4222", None));
        assert!(has_credentials("nats://token@a:4222", None));
        for without in ["nats://a:4222", "nats://ann:pw@a:4222,nats://b:4222", "nats://:pw@a:4222", ""] {
            assert!(!has_credentials(without, None), "{without}");
        }
    }

    #[test]
    fn addresses_are_shown_without_their_password() {
        assert_eq!(
            without_password("nats://ann:secret@a:4222, nats://b:4222"),
            "nats://a:4222, nats://b:4222"
        );
        assert!(addresses("nats://a:4222,nats://b:4222").is_ok());
        assert!(
            matches!(addresses("http://ann:pw@x"), Err(NatsError::Address(shown)) if !shown.contains("pw"))
        );
    }
}

//! Errors of the connection to NATS.

/// An error of NATS or of its configuration.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The address of the server is invalid.
    #[error("the NATS address {0:?} is not valid")]
    Address(String),
    /// The credentials file cannot be read.
    #[error("the NATS credentials file does not read")]
    Credentials(#[source] std::io::Error),
    /// The settings have no credentials.
    #[error(
        "there are no credentials for NATS: set nats.credentials_file, or a user and a password in nats.url"
    )]
    NoCredentials,
    /// The server accepts clients without credentials, so any client may publish on the product's subjects.
    #[error("nats-server lets in clients without credentials: configure accounts or users on it")]
    Open,
    /// The client cannot be created.
    #[error("cannot connect to NATS")]
    Connect(#[source] async_nats::ConnectError),
    /// No server answers; the client keeps connecting.
    #[error("NATS is unreachable")]
    Unreachable,
    /// The server is too old. Older servers silently ignore settings.
    #[error("nats-server {found} is too old: {required} or later is needed")]
    ServerTooOld {
        /// The server's version.
        found: String,
        /// The minimum version.
        required: &'static str,
    },
    /// The server runs without JetStream.
    #[error("nats-server runs without JetStream: start it with a store directory and JetStream enabled")]
    NoJetStream,
    /// The stream has settings that would lose events or allow duplicates.
    #[error("the stream {stream} is set up otherwise than needed: {difference}")]
    StreamDiffers {
        /// The stream.
        stream: &'static str,
        /// The first setting that differs.
        difference: String,
    },
    /// More than one replica is configured, but the server is not in a cluster.
    #[error("nats.replicas is {replicas}, and nats-server is not part of a cluster with JetStream")]
    NoCluster {
        /// The configured number.
        replicas: usize,
    },
    /// JetStream rejected a request or did not answer it.
    #[error("JetStream: {0}")]
    JetStream(String),
    /// The system account rejected a request or did not answer it.
    #[error("the system account of NATS: {0}")]
    System(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

impl NatsError {
    /// Whether a retry may succeed without a change of configuration.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable | Self::JetStream(_) | Self::System(_) => true,
            Self::Store(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

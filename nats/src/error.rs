//! What can go wrong between the product and NATS.

/// An error of NATS or of its set-up.
#[derive(Debug, thiserror::Error)]
pub enum NatsError {
    /// The address of the server is not one.
    #[error("the NATS address {0:?} is not valid")]
    Address(String),
    /// The credentials file does not read.
    #[error("the NATS credentials file does not read")]
    Credentials(#[source] std::io::Error),
    /// The settings hold nothing to sign in with.
    #[error(
        "there are no credentials for NATS: set nats.credentials_file, or a user and a password in nats.url"
    )]
    NoCredentials,
    /// The server asks for no credentials, so that any client may publish on the product's subjects.
    #[error("nats-server lets in clients without credentials: configure accounts or users on it")]
    Open,
    /// The client could not be made.
    #[error("cannot connect to NATS")]
    Connect(#[source] async_nats::ConnectError),
    /// Nothing answers; the client goes on trying.
    #[error("NATS is unreachable")]
    Unreachable,
    /// Older servers ignore settings without a word, so they are refused.
    #[error("nats-server {found} is too old: {required} or later is needed")]
    ServerTooOld {
        /// What the server says it is.
        found: String,
        /// The floor.
        required: &'static str,
    },
    /// The server runs without JetStream.
    #[error("nats-server runs without JetStream: start it with a store directory and JetStream enabled")]
    NoJetStream,
    /// The stream exists with settings that would lose events or let duplicates in.
    #[error("the stream {stream} is set up otherwise than needed: {difference}")]
    StreamDiffers {
        /// The stream.
        stream: &'static str,
        /// The first setting that differs.
        difference: String,
    },
    /// More than one replica is wanted of a server that stands alone.
    #[error("nats.replicas is {replicas}, and nats-server is not part of a cluster with JetStream")]
    NoCluster {
        /// What the settings say.
        replicas: usize,
    },
    /// JetStream refused a request or did not answer it.
    #[error("JetStream: {0}")]
    JetStream(String),
    /// The system account refused a request or did not answer it.
    #[error("the system account of NATS: {0}")]
    System(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::StoreError),
}

impl NatsError {
    /// Whether trying again later may help without anybody changing anything.
    pub fn is_unavailable(&self) -> bool {
        match self {
            Self::Unreachable | Self::JetStream(_) | Self::System(_) => true,
            Self::Store(error) => error.is_unavailable(),
            _ => false,
        }
    }
}

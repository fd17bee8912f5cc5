//! Connects with the product's TLS settings and timeouts, listens on channels, and cancels statements.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Config, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::AbortOnDropHandle;

use crate::{Causes, ConnectError, DatabaseConfig, TlsError, TlsMode, tls};

/// Timeout of a connection attempt, from the TCP handshake to the end of the login.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout of unacknowledged bytes and unanswered keepalives; afterwards the connection counts as broken.
/// TCP alone would retry for about 15 minutes when a host disappears.
pub(crate) const UNACKNOWLEDGED_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to one database as one role. Cheap to clone. [`Connector::new`] has read the TLS files.
#[derive(Clone)]
pub struct Connector {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) config: Config,
    pub(crate) tls: MakeRustlsConnect,
}

/// A connection with the task that drives it. Dropping either closes it.
pub struct Connection {
    /// The client.
    pub client: Client,
    /// The task that drives the connection.
    pub driver: AbortOnDropHandle<()>,
}

/// Connects once. For several connections, use a [`Connector`].
///
/// # Errors
/// [`ConnectError`] when the settings are invalid, or when the server cannot be reached or refuses the login.
pub async fn connect(config: &DatabaseConfig) -> Result<Connection, ConnectError> {
    Connector::new(config)?.connect().await
}

impl Connector {
    /// Reads the TLS files, without connecting.
    ///
    /// # Errors
    /// [`TlsError`] when the TLS settings are invalid.
    pub fn new(database: &DatabaseConfig) -> Result<Self, TlsError> {
        let mut config = Config::new();
        config
            .host(&database.host)
            .port(database.port)
            .dbname(&database.name)
            .user(&database.user)
            .password(database.password.reveal())
            .application_name(&database.application_name)
            .ssl_mode(if database.tls.mode == TlsMode::Off { SslMode::Disable } else { SslMode::Require })
            .connect_timeout(CONNECT_TIMEOUT)
            .keepalives_idle(UNACKNOWLEDGED_TIMEOUT)
            .keepalives_interval(UNACKNOWLEDGED_TIMEOUT / 3)
            .keepalives_retries(3)
            .tcp_user_timeout(UNACKNOWLEDGED_TIMEOUT);
        if !database.options.is_empty() {
            config.options(&database.options);
        }
        let tls = MakeRustlsConnect::new(tls::client(&database.tls)?);
        Ok(Self { host: database.host.clone(), port: database.port, config, tls })
    }

    /// The same login with additional session settings.
    #[must_use]
    pub fn with_options(&self, options: &str) -> Self {
        let mut with = self.clone();
        let own = self.config.get_options().unwrap_or_default();
        with.config.options(format!("{own} {options}"));
        with
    }

    /// Another login to the same database.
    #[must_use]
    pub fn with_login(&self, user: &str, password: &str, application_name: &str) -> Self {
        let mut with = self.clone();
        with.config.user(user).password(password).application_name(application_name);
        with
    }

    /// Connects; takes at most [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] after [`CONNECT_TIMEOUT`].
    /// [`ConnectError::Postgres`] when the server cannot be reached, has an unexpected identity, or refuses the login.
    pub async fn connect(&self) -> Result<Connection, ConnectError> {
        // The timeout of the settings covers the TCP handshake only.
        let connecting = Box::pin(self.config.connect(self.tls.clone()));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
        let (client, connection) = connected.map_err(|_| ConnectError::Timeout)??;
        let gauge = ConnectionGauge::new(&self.config);
        let driver = tokio::spawn(async move {
            let _gauge = gauge;
            if let Err(error) = connection.await {
                tracing::debug!(error = %Causes(&error), "a database connection ended");
            }
        });
        Ok(Connection { client, driver: AbortOnDropHandle::new(driver) })
    }

    /// Connects and listens on a channel. `channel` must be a plain identifier.
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] when the server has not accepted the channel after [`CONNECT_TIMEOUT`].
    /// [`ConnectError::Postgres`] when the server cannot be reached, or refuses the login or the channel.
    pub async fn listen(&self, channel: &str) -> Result<Listener, ConnectError> {
        let connecting = Box::pin(async {
            let (client, mut connection) = self.config.connect(self.tls.clone()).await?;
            let mut messages = Box::pin(futures::stream::poll_fn(move |cx| connection.poll_message(cx)));
            // The stream drives the connection, so it has to be polled while the statement runs.
            let statement = format!("listen {channel}");
            let mut listening = Box::pin(client.batch_execute(&statement));
            loop {
                tokio::select! {
                    listens = &mut listening => { listens?; break }
                    message = messages.next() => if let Some(message) = message { message?; }
                }
            }
            drop(listening);
            Ok(Listener { _client: client, messages, _gauge: ConnectionGauge::new(&self.config) })
        });
        tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(|_| ConnectError::Timeout)?
    }

    /// Cancels the running statement of a connection. It returns after the server has signalled the session.
    /// So the cancellation does not hit a statement that is sent afterwards.
    ///
    /// # Errors
    /// [`ConnectError::Timeout`] after [`CONNECT_TIMEOUT`].
    /// [`ConnectError::Network`] when the server cannot be reached.
    /// [`ConnectError::Postgres`] when the request cannot be sent, such as after a failed TLS handshake.
    pub async fn cancel(&self, token: &CancelToken) -> Result<(), ConnectError> {
        let cancelling = Box::pin(async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            // The client closes its side without reading. The second handle waits for the server to close its side.
            // The server does that after it has signalled the session.
            let stream = stream.into_std()?;
            let mut rest = TcpStream::from_std(stream.try_clone()?)?;
            let stream = TcpStream::from_std(stream)?;
            let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut self.tls.clone(), &self.host);
            token.cancel_query_raw(stream, tls).await?;
            // With TLS, the end of the connection may appear as a reset.
            let mut bytes = [0; 256];
            while matches!(rest.read(&mut bytes).await, Ok(read) if read > 0) {}
            Ok(())
        });
        tokio::time::timeout(CONNECT_TIMEOUT, cancelling).await.map_err(|_| ConnectError::Timeout)?
    }
}

type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Send>>;

/// The notifications of a channel. The stream ends with the connection.
pub struct Listener {
    _client: Client,
    messages: Messages,
    _gauge: ConnectionGauge,
}

/// Counts an open connection in the metric `annals_database_connections`.
pub(crate) struct ConnectionGauge(metrics::Gauge);

impl ConnectionGauge {
    pub(crate) fn new(config: &Config) -> Self {
        let role = config.get_user().unwrap_or_default().to_owned();
        let gauge = metrics::gauge!("annals_database_connections", "role" => role);
        gauge.increment(1);
        Self(gauge)
    }
}

impl Drop for ConnectionGauge {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

impl Stream for Listener {
    type Item = Result<Notification, tokio_postgres::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return match futures::ready!(self.messages.poll_next_unpin(cx)) {
                Some(Ok(AsyncMessage::Notification(notification))) => Poll::Ready(Some(Ok(notification))),
                Some(Ok(_)) => continue,
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                None => Poll::Ready(None),
            };
        }
    }
}

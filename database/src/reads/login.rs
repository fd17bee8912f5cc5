//! Connects and signs in with the other client, and takes the connection over from it.
//!
//! So TLS, SCRAM and the errors of a login are the same for all connections of the product.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_postgres::CancelToken;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::connector::{ConnectionGauge, UNACKNOWLEDGED_TIMEOUT};
use crate::{CONNECT_TIMEOUT, ConnectError, Connector};

type Tls = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::TlsConnect;
type Encrypted = <MakeRustlsConnect as MakeTlsConnect<TcpStream>>::Stream;

/// A connection that is signed in and idle.
pub(super) struct Login {
    pub(super) stream: Stream,
    pub(super) cancel: CancelToken,
    pub(super) gauge: ConnectionGauge,
}

/// A stream to the server.
pub(super) enum Stream {
    Plain(TcpStream),
    Encrypted(Box<Encrypted>),
}

impl Connector {
    /// Connects and signs in; takes at most [`CONNECT_TIMEOUT`].
    pub(super) async fn login(&self) -> Result<Login, ConnectError> {
        let login = Box::pin(async {
            let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
            stream.set_nodelay(true)?;
            let keepalive = TcpKeepalive::new()
                .with_time(UNACKNOWLEDGED_TIMEOUT)
                .with_interval(UNACKNOWLEDGED_TIMEOUT / 3)
                .with_retries(3);
            SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
            #[cfg(target_os = "linux")]
            SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_TIMEOUT))?;

            let lent = Lent(Arc::new(Mutex::new(Some(Stream::Plain(stream)))));
            let Ok(tls) = MakeTlsConnect::<TcpStream>::make_tls_connect(&mut self.tls.clone(), &self.host);
            let (client, connection) = self.config.connect_raw(lent.clone(), LentTls(tls)).await?;
            let cancel = client.cancel_token();
            // A connection that is not polled sends nothing when it is dropped.
            drop((client, connection));
            Ok(Login { stream: lent.take()?, cancel, gauge: ConnectionGauge::new(&self.config) })
        });
        tokio::time::timeout(CONNECT_TIMEOUT, login).await.map_err(|_| ConnectError::Timeout)?
    }
}

/// A stream that the other client uses until it has signed in.
#[derive(Clone)]
struct Lent(Arc<Mutex<Option<Stream>>>);

impl Lent {
    fn with<T>(&self, use_stream: impl FnOnce(&mut Option<Stream>) -> T) -> T {
        use_stream(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self) -> io::Result<Stream> {
        self.with(Option::take).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll<T>(&self, poll: impl FnOnce(Pin<&mut Stream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.with(|stream| match stream {
            Some(stream) => poll(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        })
    }
}

struct LentTls(Tls);

impl TlsConnect<Lent> for LentTls {
    type Stream = Lent;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Lent>>;

    fn connect(self, lent: Lent) -> Self::Future {
        Box::pin(async move {
            let Stream::Plain(stream) = lent.take()? else {
                return Err(io::ErrorKind::AlreadyExists.into());
            };
            let encrypted = TlsConnect::<TcpStream>::connect(self.0, stream).await?;
            lent.with(|place| *place = Some(Stream::Encrypted(Box::new(encrypted))));
            Ok(lent)
        })
    }
}

impl TlsStream for Lent {
    fn channel_binding(&self) -> ChannelBinding {
        self.with(|stream| match stream {
            Some(Stream::Encrypted(stream)) => stream.channel_binding(),
            _ => ChannelBinding::none(),
        })
    }
}

impl AsyncRead for Lent {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Lent {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream| stream.poll_shutdown(cx))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Encrypted(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Encrypted(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Encrypted(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

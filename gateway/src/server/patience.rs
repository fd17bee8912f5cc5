//! Connections that end when their client takes nothing for too long: an answer that nobody reads would keep its
//! connection, and what waits in it, for ever.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// A listener whose connections are patient, and not more than that.
pub struct PatientListener<L> {
    /// Where connections come from.
    pub listener: L,
    /// How long a client may take nothing while something is there for it.
    pub patience: Duration,
}

impl<L: Listener<Io = TcpStream>> Listener for PatientListener<L> {
    type Io = Patient;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Patient, L::Addr) {
        let (connection, address) = self.listener.accept().await;
        (Patient { connection, patience: self.patience, stalled: None }, address)
    }

    fn local_addr(&self) -> io::Result<L::Addr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when nothing could be written for a while.
pub struct Patient {
    connection: TcpStream,
    patience: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    /// Sends small pieces at once.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.connection.set_nodelay(true)
    }

    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let patience = self.patience;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        stalled.as_mut().poll(context).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.connection).poll_write_vectored(context, slices);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_left_and_a_slow_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut listener = PatientListener { listener, patience: Duration::from_millis(100) };
        let mut deaf = TcpStream::connect(address).await.expect("connected");
        let (mut connection, _) = listener.accept().await;
        let piece = vec![0; 256 * 1024];
        let error = loop {
            if let Err(error) = connection.write_all(&piece).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(connection);
        let mut taken = Vec::new();
        deaf.read_to_end(&mut taken).await.expect("the rest arrives");

        let slow = TcpStream::connect(address).await.expect("connected");
        let (mut connection, _) = listener.accept().await;
        let reading = tokio::spawn(async move {
            let mut pieces = tokio::time::interval(Duration::from_millis(20));
            let (mut slow, mut buffer, mut read) = (slow, vec![0; 512 * 1024], 0);
            loop {
                pieces.tick().await;
                match slow.read(&mut buffer).await {
                    Ok(0) | Err(_) => return read,
                    Ok(more) => read += more,
                }
            }
        });
        for _ in 0..48 {
            connection.write_all(&piece).await.expect("taken in time");
        }
        drop(connection);
        assert_eq!(reading.await.expect("no panic"), 48 * piece.len());
    }
}

//! The socket of a connection. It adds three things to hyper: a timeout for clients that read nothing, problems in
//! place of hyper's empty error responses, and a close that does not lose the last response.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Bytes;
use schemas::engine::RequestId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::phase::ConnectionPhase;
use super::refusal::RequestRefusal;
use super::refusal_log::RefusalLog;

/// How long a closing connection still reads what its client sends. Closing a socket with unread bytes resets the
/// connection, and the client may lose the response (RFC 9112, section 9.6).
const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum bytes that are read in that time.
const LINGER_BYTES_MAX: usize = 1024 * 1024;
/// Length of the `Date` header's value in bytes (RFC 9110, section 5.6.7).
const DATE_BYTES: usize = 29;

/// A connection's socket.
pub struct Socket {
    stream: TcpStream,
    peer: IpAddr,
    phase: Arc<ConnectionPhase>,
    refusal_log: Arc<RefusalLog>,
    write_idle_timeout: Duration,
    /// The timer that runs while the client reads nothing of the pending bytes.
    write_idle: Option<Pin<Box<Sleep>>>,
    /// Written in place of hyper's own response.
    replacement: Option<Bytes>,
    linger: Option<Linger>,
    received_end: bool,
}

struct Linger {
    timeout: Pin<Box<Sleep>>,
    bytes: usize,
}

impl Socket {
    /// Wraps a socket.
    pub fn new(
        stream: TcpStream,
        peer: IpAddr,
        phase: Arc<ConnectionPhase>,
        refusal_log: Arc<RefusalLog>,
        write_idle_timeout: Duration,
    ) -> Self {
        Self {
            stream,
            peer,
            phase,
            refusal_log,
            write_idle_timeout,
            write_idle: None,
            replacement: None,
            linger: None,
            received_end: false,
        }
    }

    /// Returns an error when a write has been pending for longer than the timeout.
    fn apply_write_timeout(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write_idle = None;
            return written;
        }
        let timeout = self.write_idle_timeout;
        let idle = self.write_idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        idle.as_mut().poll(context).map(|()| Err(io::Error::from(io::ErrorKind::TimedOut)))
    }

    fn write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.apply_write_timeout(context, written)
    }

    /// Writes a problem in place of hyper's own response at the end of `bytes`.
    fn write_refusal(
        &mut self,
        context: &mut Context<'_>,
        bytes: &[u8],
        (start, refusal): (usize, RequestRefusal),
    ) -> Poll<io::Result<usize>> {
        if start > 0 {
            return self.write(context, &bytes[..start]);
        }
        let mut left = self.replacement.take().unwrap_or_else(|| {
            let id = RequestId::generate();
            self.refusal_log.record_unparsed(refusal, self.peer, &id);
            refusal.to_bytes(&id)
        });
        while !left.is_empty() {
            match self.write(context, &left) {
                Poll::Ready(Ok(written)) => drop(left.split_to(written)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.replacement = Some(left);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }

    /// Finds hyper's own response to an invalid request at the end of `bytes`. Responses of handlers have more header
    /// fields. Between requests, only the rest of the last response can come before it.
    fn refusal_in(&self, bytes: &[u8]) -> Option<(usize, RequestRefusal)> {
        if self.phase.is_between_requests() { library_refusal(bytes) } else { None }
    }
}

/// Where hyper's response to a parse error begins, and the refusal for it.
fn library_refusal(bytes: &[u8]) -> Option<(usize, RequestRefusal)> {
    let date = bytes.strip_suffix(b"\r\n\r\n")?;
    let head = date.get(..date.len().checked_sub(DATE_BYTES)?)?;
    let head = head.strip_suffix(b"\r\nconnection: close\r\ncontent-length: 0\r\ndate: ")?;
    // Bytes before it are the rest of an earlier response.
    let start = head.windows(9).rposition(|text| text == b"HTTP/1.1 ")?;
    if head[start..].contains(&b'\r') {
        return None;
    }
    let status = bytes.get(start + 9..start + 12)?;
    Some((start, RequestRefusal::of_status(status)?))
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(within_head) = self.phase.expired() {
            if within_head {
                let (refusal, id) = (RequestRefusal::HEADER_TIMEOUT, RequestId::generate());
                self.refusal_log.record_unparsed(refusal, self.peer, &id);
                // The socket takes all bytes at once, because no other write is pending.
                let _ = Pin::new(&mut self.stream).poll_write(context, &refusal.to_bytes(&id));
            }
            // An end of file ends the connection.
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if buffer.filled().len() == before {
            self.received_end = true;
        } else {
            self.phase.received();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.refusal_in(bytes) {
            Some(refusal) => self.write_refusal(context, bytes, refusal),
            None => self.write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // hyper queues its own response only after other heads, in one slice.
        if let [only] = slices
            && let Some(refusal) = self.refusal_in(only)
        {
            return self.write_refusal(context, only, refusal);
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.apply_write_timeout(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.linger.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
            self.linger = Some(Linger { timeout: Box::pin(tokio::time::sleep(LINGER_TIMEOUT)), bytes: 0 });
        }
        let this = &mut *self;
        let Some(linger) = &mut this.linger else { return Poll::Ready(Ok(())) };
        let mut discarded = [0; 4096];
        while !this.received_end && linger.bytes < LINGER_BYTES_MAX {
            let mut buffer = ReadBuf::new(&mut discarded);
            match Pin::new(&mut this.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => linger.bytes += buffer.filled().len(),
                Poll::Ready(_) => this.received_end = true,
                Poll::Pending => return linger.timeout.as_mut().poll(context).map(Ok),
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::super::phase::Timeouts;
    use super::*;

    const LIBRARY: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\
                           date: Mon, 30 Nov 2026 17:41:11 GMT\r\n\r\n";

    async fn accepted(listener: &TcpListener) -> Socket {
        let timeouts =
            Timeouts { header: Duration::from_mins(1), keep_alive_timeout: Duration::from_mins(1) };
        let (stream, peer) = listener.accept().await.expect("a connection");
        let phase = Arc::new(ConnectionPhase::new(timeouts));
        Socket::new(stream, peer.ip(), phase, RefusalLog::new("test"), Duration::from_millis(100))
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_left_and_a_slow_one_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut deaf = TcpStream::connect(address).await.expect("connected");
        let mut connection = accepted(&listener).await;
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
        let mut connection = accepted(&listener).await;
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

    #[tokio::test]
    async fn an_empty_answer_of_the_library_is_replaced_behind_the_rest_of_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let mut connection = accepted(&listener).await;
        connection.write_all(format!("the end of a body{LIBRARY}").as_bytes()).await.expect("written");
        drop(connection);
        let mut taken = String::new();
        client.read_to_string(&mut taken).await.expect("text");
        let problem = taken.strip_prefix("the end of a body").expect("the earlier answer is whole");
        assert!(problem.starts_with("HTTP/1.1 400 Bad Request\r\n") && problem.ends_with('}'), "{problem}");
        assert!(problem.contains("\"code\":\"bad_request\""), "{problem}");
    }

    #[test]
    fn answers_of_handlers_are_not_taken_for_the_librarys() {
        assert_eq!(library_refusal(LIBRARY.as_bytes()), Some((0, RequestRefusal::MALFORMED)));
        let others = [
            LIBRARY.replace("400 Bad Request", "409 Conflict"),
            LIBRARY.replace("connection: close", "x-request-id: 1\r\nconnection: close"),
            LIBRARY.replace("content-length: 0", "content-length: 2"),
            LIBRARY.replace("\r\n\r\n", "\r\n\r\n{}"),
            LIBRARY[20..].to_owned(),
            String::new(),
        ];
        for other in others {
            assert_eq!(library_refusal(other.as_bytes()), None, "{other}");
        }
    }

    #[tokio::test]
    async fn the_last_answer_arrives_although_the_client_still_sends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
        let mut connection = accepted(&listener).await;
        client.write_all(&vec![0; 100_000]).await.expect("sent");
        let closing = tokio::spawn(async move {
            connection.write_all(b"too much").await.expect("written");
            connection.shutdown().await.expect("closed");
        });
        let mut taken = String::new();
        client.read_to_string(&mut taken).await.expect("no reset");
        assert_eq!(taken, "too much");
        drop(client);
        closing.await.expect("no panic");
    }
}

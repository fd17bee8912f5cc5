//! Drives one connection: sends groups as they come, and reads their answers in order.
//!
//! A group is answered to the end, whether or not its caller still waits.
//! So a dropped caller never leaves the connection in the middle of an answer.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use futures::future::BoxFuture;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_postgres::error::SqlState;

use super::answer::{ANSWER_BYTES_MAX, Answer, server_error};
use super::error::{Failure, ReadError, protocol};
use super::group::Group;
use super::login::{Login, Stream};
use super::rows::RawRows;
use super::statements::{STATEMENTS_MAX, Statements};
use crate::Connector;

/// Timeout of an answer; afterwards the connection is closed. The server ends statements earlier.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);
/// An abandoned group that runs longer than this is cancelled.
const CANCEL_DELAY: Duration = Duration::from_millis(100);
/// Maximum bytes of one message of the server. Beyond it, the connection is closed.
const MESSAGE_BYTES_MAX: usize = ANSWER_BYTES_MAX;
const READ_BUFFER_BYTES: usize = 32 * 1024;

pub(super) type Outcome = Result<Vec<RawRows>, Failure>;

/// A group on its way to a connection.
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) group: Arc<Group>,
    pub(super) reply: oneshot::Sender<Outcome>,
}

/// What a connection tells its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// A group was answered.
    Answered,
    /// Nothing was sent for the idle timeout.
    Idle,
    /// No further group is taken. The groups without an answer fail afterwards.
    Closed,
}

struct Running {
    reply: oneshot::Sender<Outcome>,
    answer: Answer,
    /// When it was sent, or when the group before it was answered.
    since: Instant,
    /// A cancellation was sent while it was on the connection, so it may hit this group.
    may_be_cancelled: bool,
}

struct Session<P> {
    statements: Statements,
    running: VecDeque<Running>,
    input: BytesMut,
    output: BytesMut,
    report: P,
}

/// Drives a connection until it breaks, or until its pool has dropped the sender and everything is answered.
pub(super) async fn drive(
    login: Login,
    connector: Connector,
    mut requests: mpsc::UnboundedReceiver<Request>,
    idle_timeout: Duration,
    report: impl Fn(Progress),
) {
    let Login { stream, cancel, gauge } = login;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut session = Session {
        statements: Statements::new(STATEMENTS_MAX),
        running: VecDeque::new(),
        input: BytesMut::with_capacity(READ_BUFFER_BYTES),
        output: BytesMut::new(),
        report,
    };
    let mut watch = tokio::time::interval(CANCEL_DELAY / 2);
    watch.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut used = Instant::now();
    let mut idle = std::pin::pin!(tokio::time::sleep(idle_timeout));
    let mut cancelling: Option<BoxFuture<'_, ()>> = None;
    let mut open = true;
    // Whether something has to be written or flushed.
    let mut unsent = false;
    let end = loop {
        if !open && session.running.is_empty() && !unsent {
            break None;
        }
        session.input.reserve(READ_BUFFER_BYTES);
        tokio::select! {
            biased;
            request = requests.recv(), if open && cancelling.is_none() => {
                used = Instant::now();
                if let Some(request) = request {
                    session.send(request);
                } else {
                    open = false;
                    frontend::terminate(&mut session.output);
                }
                while let Ok(request) = requests.try_recv() {
                    session.send(request);
                }
                unsent |= !session.output.is_empty();
            }
            sent = send(&mut writer, &mut session.output), if unsent => match sent {
                Ok(is_done) => unsent = !is_done,
                Err(error) => break Some(error),
            },
            read = reader.read_buf(&mut session.input) => match read {
                Ok(0) => break Some(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => if let Err(error) = session.receive() { break Some(error) },
                Err(error) => break Some(error),
            },
            () = async { if let Some(cancelling) = &mut cancelling { cancelling.await } }, if cancelling.is_some() => {
                cancelling = None;
            }
            _ = watch.tick(), if !session.running.is_empty() => {
                let Some(first) = session.running.front() else { continue };
                let waited = first.since.elapsed();
                if waited > ANSWER_TIMEOUT {
                    break Some(io::ErrorKind::TimedOut.into());
                }
                if waited > CANCEL_DELAY && first.reply.is_closed() && !first.may_be_cancelled {
                    for running in &mut session.running {
                        running.may_be_cancelled = true;
                    }
                    // Without an answer to the cancellation, the server ends the statement after its timeout.
                    cancelling = Some(Box::pin(async { drop(connector.cancel(&cancel).await) }));
                }
            }
            () = &mut idle, if open && session.running.is_empty() => {
                if used.elapsed() >= idle_timeout {
                    used = Instant::now();
                    (session.report)(Progress::Idle);
                }
                idle.as_mut().reset(used + idle_timeout);
            }
        }
    };
    requests.close();
    (session.report)(Progress::Closed);
    drop(gauge);
    let error = Arc::new(end.unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into()));
    let broken = || Failure { error: ReadError::Broken(Arc::clone(&error)), can_run_again: true };
    for running in session.running {
        let mut failure = broken();
        if let Some(error) = running.answer.into_error() {
            failure.error = error;
        }
        drop(running.reply.send(Err(failure)));
    }
    while let Ok(request) = requests.try_recv() {
        drop(request.reply.send(Err(broken())));
    }
}

/// Writes a part of the output, or flushes it. Returns whether everything is on its way.
async fn send(writer: &mut WriteHalf<Stream>, output: &mut BytesMut) -> io::Result<bool> {
    if output.has_remaining() {
        writer.write_buf(output).await?;
        return Ok(false);
    }
    writer.flush().await?;
    Ok(true)
}

impl<P: Fn(Progress)> Session<P> {
    /// Encodes a group, unless its caller has gone.
    fn send(&mut self, request: Request) {
        if request.reply.is_closed() {
            (self.report)(Progress::Answered);
            return;
        }
        let start = self.output.len();
        match self.encode(&request.group) {
            Ok(answer) => self.running.push_back(Running {
                reply: request.reply,
                answer,
                since: Instant::now(),
                may_be_cancelled: false,
            }),
            // A text with NUL, which the protocol cannot carry.
            Err(error) => {
                self.output.truncate(start);
                let failure = Failure { error: ReadError::broken(error), can_run_again: false };
                drop(request.reply.send(Err(failure)));
                (self.report)(Progress::Answered);
            }
        }
    }

    fn encode(&mut self, group: &Group) -> io::Result<Answer> {
        if group.statements.iter().any(|statement| statement.sql.contains('\0')) {
            return Err(protocol("a statement with NUL"));
        }
        let out = &mut self.output;
        for name in self.statements.take_closing() {
            frontend::close(b'S', &name, out)?;
        }
        let (mut statements, mut preparing) = (Vec::with_capacity(group.statements.len()), VecDeque::new());
        for statement in &group.statements {
            let (prepared, is_new) = self.statements.get(statement);
            if is_new {
                frontend::parse(&prepared.name, &statement.sql, statement.types.iter().copied(), out)?;
                frontend::describe(b'S', &prepared.name, out)?;
                preparing.push_back(Arc::clone(&prepared));
            }
            statements.push(prepared);
        }
        for (statement, prepared) in group.statements.iter().zip(&statements) {
            let binding = group.binding(statement);
            // Length, name of the portal, name of the statement, values.
            let length = 4 + 1 + prepared.name.len() + 1 + binding.len();
            out.put_u8(b'B');
            out.put_i32(i32::try_from(length).map_err(io::Error::other)?);
            out.put_u8(0);
            out.put_slice(prepared.name.as_bytes());
            out.put_u8(0);
            out.put_slice(binding);
            frontend::execute("", 0, out)?;
        }
        frontend::sync(out);
        Ok(Answer::new(statements, preparing))
    }

    /// Takes all complete messages of the input.
    fn receive(&mut self) -> io::Result<()> {
        while let Some((header, rest)) = self.input.split_first_chunk::<5>() {
            let length = i32::from_be_bytes([header[1], header[2], header[3], header[4]]);
            let length = usize::try_from(length).ok().and_then(|length| length.checked_sub(4));
            let length = length.filter(|length| *length <= MESSAGE_BYTES_MAX);
            let length = length.ok_or_else(|| protocol("a message has an impossible length"))?;
            let tag = header[0];
            let Some(body) = rest.get(..length) else {
                self.input.reserve(5 + length - self.input.len());
                return Ok(());
            };
            let is_answered = match (tag, self.running.front_mut()) {
                // Notices, settings and notifications come at any time.
                (b'N' | b'S' | b'A', _) => false,
                (tag, Some(first)) => first.answer.receive(tag, body)?,
                (b'E', None) => return Err(io::Error::other(server_error(body)?.error)),
                (_, None) => return Err(protocol("a message without a request")),
            };
            self.input.advance(5 + length);
            if is_answered {
                self.answer_first();
            }
        }
        Ok(())
    }

    fn answer_first(&mut self) {
        let Some(Running { reply, answer, may_be_cancelled, .. }) = self.running.pop_front() else { return };
        let mut outcome = answer.finish(&mut self.statements);
        if let Err(failure) = &mut outcome {
            failure.can_run_again |=
                may_be_cancelled && failure.error.state() == Some(&SqlState::QUERY_CANCELED);
        }
        // The pool first, so that the next group is on its way before the caller wakes up.
        (self.report)(Progress::Answered);
        drop(reply.send(outcome));
        if let Some(next) = self.running.front_mut() {
            next.since = Instant::now();
        }
    }
}

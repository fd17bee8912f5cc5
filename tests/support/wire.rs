//! A proxy that speaks the protocols of PostgreSQL and NATS well enough to cut a connection at any of its messages: every
//! message is a point where the client, the server or what is between may die. To the servers a process that is killed
//! is nothing but all of its connections breaking at once, so that can be had at any message as well.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a client says to NATS.
pub const NATS: &str = "nats";
/// What NATS delivers to a client: acknowledgements and other answers.
pub const NATS_ANSWERS: &str = "nats answers";

/// How long the server may take to act on a message that it does not answer at once.
const ACT: Duration = Duration::from_millis(25);

/// What becomes of the message at which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It never arrives.
    Before,
    /// It arrives, and if it asks for something, that is done and the answer lost.
    After,
    /// The client is cut off, and the message and its like up to the next Sync arrive when they are [released](Wire::release).
    Late,
}

#[derive(Debug, Default)]
struct Plan {
    whose: String,
    /// Messages until the cut; `None` when there is none to come.
    left: Option<(u32, Moment)>,
    /// Whether it is all connections that break then.
    kills: bool,
    /// Ends with the process whose connections these are; none begins afterwards.
    life: CancellationToken,
}

impl Plan {
    /// Counts a message; says how the connection ends where it ends here.
    fn count(&mut self, whose: &str) -> Option<Moment> {
        if self.whose != whose || self.life.is_cancelled() {
            return None;
        }
        let (left, moment) = self.left?;
        self.left = (left > 1).then_some((left - 1, moment));
        (left <= 1).then_some(moment)
    }
}

type Shared = Arc<Mutex<Plan>>;

pub struct Wire {
    port: u16,
    plan: Shared,
    late: Arc<Late>,
}

/// Messages that are to arrive late: whether some are held, and whether they may go.
#[derive(Default)]
struct Late {
    held: Notify,
    released: Notify,
}

impl Wire {
    /// Starts a proxy to a PostgreSQL server of this machine.
    pub async fn start(target: u16) -> Self {
        Self::listen(target, Shared::default(), false).await
    }

    /// Starts a proxy to a NATS server of this machine, for the process that has its PostgreSQL by this one.
    pub async fn start_nats(&self, target: u16) -> Self {
        Self::listen(target, Arc::clone(&self.plan), true).await
    }

    async fn listen(target: u16, plan: Shared, is_nats: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let late = Arc::new(Late::default());
        let (seen, holding) = (Arc::clone(&plan), Arc::clone(&late));
        let life = lock(&plan).life.clone();
        tokio::spawn(life.clone().run_until_cancelled_owned(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (plan, late) = (Arc::clone(&seen), Arc::clone(&holding));
                // A connection that breaks is what this is for.
                tokio::spawn(life.clone().run_until_cancelled_owned(async move {
                    if is_nats {
                        drop(carry_nats(client, target, &plan).await);
                    } else {
                        drop(carry_postgres(client, target, &plan, &late).await);
                    }
                }));
            }
        }));
        Self { port, plan, late }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts a connection at the message with this number, from 1, of those that are sent from now on: by connections of
    /// a role of the database, or [`NATS`], or [`NATS_ANSWERS`].
    pub fn arm(&self, whose: &str, message: u32, moment: Moment) {
        self.plan(whose, message, moment, false);
    }

    /// Breaks all connections at that message for good: whoever stands for another process needs another wire. What is
    /// left of the one that was killed would otherwise come back and send what it had kept.
    pub fn arm_kill(&self, whose: &str, message: u32, moment: Moment) {
        self.plan(whose, message, moment, true);
    }

    fn plan(&self, whose: &str, message: u32, moment: Moment, kills: bool) {
        let mut plan = lock(&self.plan);
        (plan.whose, plan.left, plan.kills) = (whose.to_owned(), Some((message, moment)), kills);
    }

    /// Waits until messages are held.
    pub async fn held(&self) {
        self.late.held.notified().await;
    }

    /// Lets held messages arrive.
    pub fn release(&self) {
        self.late.released.notify_one();
    }

    /// Cuts no more. Returns whether it has cut.
    pub fn disarm(&self) -> bool {
        lock(&self.plan).left.take().is_none()
    }

    /// Whether all connections were broken.
    pub fn has_killed(&self) -> bool {
        lock(&self.plan).life.is_cancelled()
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

type Halves = (BufReader<OwnedReadHalf>, OwnedWriteHalf, BufReader<OwnedReadHalf>, OwnedWriteHalf);

async fn connect(client: TcpStream, target: u16) -> std::io::Result<Halves> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    Ok((BufReader::new(from_client), to_client, BufReader::new(from_server), to_server))
}

/// The end of a connection that is cut. Where the message has arrived, its answer, or the time in which that would have
/// come, goes by, and nobody hears it.
async fn end(moment: Moment, from_server: &mut BufReader<OwnedReadHalf>, plan: &Shared) {
    if moment != Moment::Before {
        let mut unheard = [0; 1024];
        drop(tokio::time::timeout(ACT, from_server.read(&mut unheard)).await);
    }
    let plan = lock(plan);
    if plan.kills {
        plan.life.cancel();
    }
}

async fn carry_postgres(client: TcpStream, target: u16, plan: &Shared, late: &Late) -> std::io::Result<()> {
    let (mut from_client, mut to_client, mut from_server, mut to_server) = connect(client, target).await?;
    // The first message has no type: its length, the version, then names and values that end with zero bytes.
    let length = from_client.read_u32().await?;
    let mut start = vec![0; length as usize - 4];
    from_client.read_exact(&mut start).await?;
    to_server.write_u32(length).await?;
    to_server.write_all(&start).await?;
    let mut words = start[4..].split(|byte| *byte == 0);
    let role = words.find(|word| *word == b"user").and_then(|_| words.next()).unwrap_or_default();
    let role = String::from_utf8_lossy(role).into_owned();

    let mut kept = Vec::new();
    let requests = async {
        loop {
            let kind = from_client.read_u8().await?;
            let length = from_client.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            from_client.read_exact(&mut body).await?;
            let cut = if kept.is_empty() { lock(plan).count(&role) } else { Some(Moment::Late) };
            let mut message = vec![kind];
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(&body);
            match cut {
                Some(Moment::Late) => {
                    kept.extend_from_slice(&message);
                    if kind != b'S' {
                        continue;
                    }
                }
                Some(Moment::Before) => {}
                Some(Moment::After) | None => to_server.write_all(&message).await?,
            }
            if let Some(moment) = cut {
                return Ok::<_, std::io::Error>(moment);
            }
        }
    };
    let answers = tokio::io::copy(&mut from_server, &mut to_client);
    let moment = tokio::select! {
        moment = requests => moment?,
        _ = answers => return Ok(()),
    };
    if moment == Moment::Late {
        late.held.notify_one();
        drop((from_client, to_client));
        late.released.notified().await;
        to_server.write_all(&kept).await?;
    }
    end(moment, &mut from_server, plan).await;
    Ok(())
}

async fn carry_nats(client: TcpStream, target: u16, plan: &Shared) -> std::io::Result<()> {
    let (mut from_client, mut to_client, mut from_server, mut to_server) = connect(client, target).await?;
    let requests = carry_messages(&mut from_client, &mut to_server, |_| lock(plan).count(NATS));
    let answers = carry_messages(&mut from_server, &mut to_client, |message| {
        let is_delivery = message.starts_with(b"MSG") || message.starts_with(b"HMSG");
        is_delivery.then(|| lock(plan).count(NATS_ANSWERS)).flatten()
    });
    let moment = tokio::select! {
        moment = requests => moment?,
        moment = answers => {
            moment?;
            // What a client has heard has no answer to wait for.
            Moment::Before
        }
    };
    end(moment, &mut from_server, plan).await;
    Ok(())
}

/// Carries messages of NATS until one is cut.
async fn carry_messages(
    from: &mut BufReader<OwnedReadHalf>,
    to: &mut OwnedWriteHalf,
    mut count: impl FnMut(&[u8]) -> Option<Moment>,
) -> std::io::Result<Moment> {
    loop {
        let mut message = Vec::new();
        if from.read_until(b'\n', &mut message).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        // Those that carry something say last how many bytes it has; a line end follows it.
        if [&b"PUB "[..], b"HPUB ", b"MSG ", b"HMSG "].iter().any(|verb| message.starts_with(verb)) {
            let line = String::from_utf8_lossy(&message).into_owned();
            let bytes: usize = line.split_whitespace().last().and_then(|size| size.parse().ok()).unwrap_or(0);
            let head = message.len();
            message.resize(head + bytes + 2, 0);
            from.read_exact(&mut message[head..]).await?;
        }
        let cut = count(&message);
        if cut != Some(Moment::Before) {
            to.write_all(&message).await?;
        }
        if let Some(moment) = cut {
            return Ok(moment);
        }
    }
}

//! A proxy that speaks PostgreSQL's protocol well enough to cut a connection at any of its client's messages: every
//! message is a point where the client, the server or what is between may die.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long the server may take to act on a message that it does not answer at once.
const ACT: Duration = Duration::from_millis(25);

/// What becomes of the message at which a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It never arrives.
    Before,
    /// It is acted upon, and the answer is lost.
    After,
}

#[derive(Debug, Default)]
struct Plan {
    role: String,
    /// Messages until the cut; `None` when there is none to come.
    left: Option<(u32, Moment)>,
}

pub struct Wire {
    port: u16,
    plan: Arc<Mutex<Plan>>,
}

impl Wire {
    /// Starts a proxy to a PostgreSQL server of this machine.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let plan = Arc::new(Mutex::new(Plan::default()));
        let seen = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let plan = Arc::clone(&seen);
                // A connection that breaks is what this is for.
                tokio::spawn(async move { drop(carry(client, target, &plan).await) });
            }
        });
        Self { port, plan }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts at the message with this number, from 1, of those that connections of the role send from now on.
    pub fn arm(&self, role: &str, message: u32, moment: Moment) {
        *lock(&self.plan) = Plan { role: role.to_owned(), left: Some((message, moment)) };
    }

    /// Cuts no more. Returns whether it has cut.
    pub fn disarm(&self) -> bool {
        lock(&self.plan).left.take().is_none()
    }
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a message; says how the connection ends where it ends here.
fn count(plan: &Mutex<Plan>, role: &str) -> Option<Moment> {
    let mut plan = lock(plan);
    if plan.role != role {
        return None;
    }
    let (left, moment) = plan.left?;
    plan.left = (left > 1).then_some((left - 1, moment));
    (left <= 1).then_some(moment)
}

async fn carry(client: TcpStream, target: u16, plan: &Mutex<Plan>) -> std::io::Result<()> {
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    // The first message has no type: its length, the version, then names and values that end with zero bytes.
    let length = from_client.read_u32().await?;
    let mut start = vec![0; length as usize - 4];
    from_client.read_exact(&mut start).await?;
    to_server.write_u32(length).await?;
    to_server.write_all(&start).await?;
    let mut words = start[4..].split(|byte| *byte == 0);
    let role = words.find(|word| *word == b"user").and_then(|_| words.next()).unwrap_or_default();
    let role = String::from_utf8_lossy(role).into_owned();

    let requests = async {
        loop {
            let kind = from_client.read_u8().await?;
            let length = from_client.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            from_client.read_exact(&mut body).await?;
            let cut = count(plan, &role);
            if cut != Some(Moment::Before) {
                let mut message = vec![kind];
                message.extend_from_slice(&length.to_be_bytes());
                message.extend_from_slice(&body);
                to_server.write_all(&message).await?;
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
    if moment == Moment::After {
        // The server's answer, or the time in which it would have come, and nobody hears it.
        let mut unheard = [0; 1024];
        drop(tokio::time::timeout(ACT, from_server.read(&mut unheard)).await);
    }
    Ok(())
}

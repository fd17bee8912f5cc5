//! A TCP proxy in front of a server, for what only the network between can do: silence, and cuts.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;

/// What the proxy does with bytes and connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    /// Hands everything on.
    Clear,
    /// Takes connections and hands nothing on; what was under way stays under way.
    Silent,
    /// Ends every connection and takes no new one.
    Cut,
}

pub struct Proxy {
    port: u16,
    weather: watch::Sender<Weather>,
}

impl Proxy {
    /// Starts a proxy to a port of this machine.
    pub async fn start(target: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("bound").port();
        let (weather, seen) = watch::channel(Weather::Clear);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(carry(client, target, seen.clone()));
            }
        });
        Self { port, weather }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does, for connections that stand as well.
    pub fn set(&self, weather: Weather) {
        self.weather.send_replace(weather);
    }
}

async fn carry(client: TcpStream, target: u16, mut weather: watch::Receiver<Weather>) {
    // The port stays open and the proxy's end is known only by this channel, whose sender the test holds.
    if weather.wait_for(|now| *now != Weather::Silent).await.is_err() {
        return;
    }
    if *weather.borrow() == Weather::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, target)).await else { return };
    let ((client_in, client_out), (server_in, server_out)) = (client.into_split(), server.into_split());
    let mut cut = weather.clone();
    tokio::select! {
        () = pump(client_in, server_out, weather.clone()) => {}
        () = pump(server_in, client_out, weather) => {}
        _ = cut.wait_for(|now| *now == Weather::Cut) => {}
    }
}

async fn pump(
    mut from: tcp::OwnedReadHalf,
    mut to: tcp::OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if weather.wait_for(|now| *now == Weather::Clear).await.is_err()
            || to.write_all(&buffer[..read]).await.is_err()
        {
            return;
        }
    }
}

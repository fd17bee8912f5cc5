//! Fixtures of the tests in `tests/listeners`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::process::{Annals, command};
use crate::support::{Product, product};

/// Far above what an answer takes.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Where attacks come from; everything else comes from 127.0.0.1.
pub const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// A product with settings of the gateway.
pub fn start(settings: &[(&str, &str)]) -> Product {
    let mut dev = command();
    dev.args(["dev", "--ephemeral"]);
    for (name, value) in settings {
        dev.env(format!("ANNALS__GATEWAY__{name}"), value);
    }
    Product { annals: Annals::spawn(dev) }
}

/// The address of a listener, such as `gateway_url`.
pub fn address(product: &Product, listener: &str) -> SocketAddr {
    let url = reqwest::Url::parse(product.annals.text(listener)).expect("a URL");
    SocketAddr::new(Ipv4Addr::LOCALHOST.into(), url.port().expect("a port"))
}

/// A connection to the public listener from one of the machine's own addresses.
pub async fn connect(product: &Product, from: Ipv4Addr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(from.into(), 0)).expect("an address of this machine");
    socket.connect(address(product, "gateway_url")).await.expect("connected")
}

/// A client whose connections come from one of the machine's own addresses.
pub fn client_of(from: Ipv4Addr) -> reqwest::Client {
    reqwest::Client::builder().local_address(IpAddr::from(from)).build().expect("a client")
}

/// What comes until the other side closes; a reset counts as a close.
pub async fn rest_of(connection: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let reading = connection.read_to_end(&mut answer);
    drop(tokio::time::timeout(ANSWER_TIMEOUT, reading).await.expect("the connection is closed"));
    String::from_utf8(answer).expect("text")
}

/// Sends bytes on a connection of their own; what comes until it is closed.
pub async fn exchange(product: &Product, bytes: &[u8]) -> String {
    let mut connection = connect(product, Ipv4Addr::LOCALHOST).await;
    connection.write_all(bytes).await.expect("sent");
    rest_of(&mut connection).await
}

/// A metric of the product, as one line of its metrics names it; 0 where it is not there.
pub async fn metric(product: &Product, line: &str) -> f64 {
    let url = format!("{}/metrics", product.annals.text("operations_url"));
    let answer = product::client().get(url).send().await.expect("the operations listener answers");
    let metrics = answer.text().await.expect("text");
    let value = metrics.lines().find_map(|candidate| candidate.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0.0)
}

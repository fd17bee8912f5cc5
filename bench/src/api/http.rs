//! A small HTTP/1.1 client: one connection that stays open, one request at a time, bodies with a length.

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use memchr::memmem;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A server, and the token with which its requests are made.
#[derive(Clone)]
pub struct Endpoint {
    /// Host and port.
    pub address: String,
    pub token: Option<String>,
}

impl Endpoint {
    /// The bytes of a GraphQL request.
    pub fn graphql(&self, query: &str, variables: &serde_json::Value) -> Bytes {
        let body = serde_json::json!({"query": query, "variables": variables}).to_string();
        let head = self.head("POST", "/graphql");
        format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into()
    }

    /// The bytes of a GET request.
    pub fn get(&self, path: &str) -> Bytes {
        format!("{}\r\n", self.head("GET", path)).into()
    }

    fn head(&self, method: &str, path: &str) -> String {
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAccept: application/json\r\n{}",
            self.address,
            token.unwrap_or_default()
        )
    }
}

/// An open connection.
pub struct Connection {
    stream: TcpStream,
    received: BytesMut,
}

impl Connection {
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, received: BytesMut::with_capacity(64 * 1024) })
    }

    /// Sends a request and returns the body of its answer, which must be 200.
    pub async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<&[u8]> {
        self.received.clear();
        self.stream.write_all(request).await?;
        let body_start = loop {
            self.receive().await?;
            if let Some(end) = memmem::find(&self.received, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = std::str::from_utf8(&self.received[..body_start])?.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
        let length: usize = length.with_context(|| format!("no length in {head}"))?.trim().parse()?;
        while self.received.len() < body_start + length {
            self.receive().await?;
        }
        let body = &self.received[body_start..];
        anyhow::ensure!(head.starts_with("http/1.1 200"), "refused: {head}{}", String::from_utf8_lossy(body));
        Ok(body)
    }

    async fn receive(&mut self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.stream.read_buf(&mut self.received).await? > 0,
            "the server closed the connection"
        );
        Ok(())
    }
}

//! An endpoint as an integrator runs one: it takes what is posted, checks nothing, and answers as the test says.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use standardwebhooks::Webhook;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::task::AbortOnDropHandle;

use crate::support::eventually;

/// A request that arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub headers: HeaderMap,
    pub body: Bytes,
    pub event: Value,
    pub position: u64,
    /// How it was answered.
    pub status: StatusCode,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().expect("text")
    }

    /// Whether its signature fits the secret, in the eyes of the reference implementation.
    pub fn is_signed_with(&self, secret: &str) -> bool {
        Webhook::new(secret).expect("a secret").verify(&self.body, &self.headers).is_ok()
    }
}

/// How the request with this event is answered; the number counts its attempts, from 1.
pub type Answers = Box<dyn FnMut(&Value, usize) -> StatusCode + Send>;

struct Inner {
    received: Mutex<Vec<Received>>,
    answers: Mutex<Answers>,
}

/// A running endpoint.
pub struct Receiver {
    pub url: String,
    inner: Arc<Inner>,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    /// One that takes everything.
    pub async fn start() -> Self {
        Self::answering(|_, _| StatusCode::NO_CONTENT).await
    }

    pub async fn answering(answers: impl FnMut(&Value, usize) -> StatusCode + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/hooks?key=k", listener.local_addr().expect("bound"));
        Self::over(listener, url, answers)
    }

    /// One behind TLS, at the name `localhost`, with this certificate of `tests/support/tls`.
    pub async fn over_tls(certificate: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://localhost:{}/hooks", listener.local_addr().expect("bound").port());
        let listener = TlsListener { listener, acceptor: acceptor(certificate) };
        Self::over(listener, url, |_, _| StatusCode::NO_CONTENT)
    }

    fn over<L: axum::serve::Listener>(
        listener: L,
        url: String,
        answers: impl FnMut(&Value, usize) -> StatusCode + Send + 'static,
    ) -> Self
    where
        L::Addr: std::fmt::Debug,
    {
        let inner = Arc::new(Inner { received: Mutex::default(), answers: Mutex::new(Box::new(answers)) });
        let router = Router::new().fallback(take).with_state(Arc::clone(&inner));
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("serves") });
        Self { url, inner, _serving: AbortOnDropHandle::new(serving) }
    }

    /// Answers otherwise from now on.
    pub fn answer(&self, answers: impl FnMut(&Value, usize) -> StatusCode + Send + 'static) {
        *lock(&self.inner.answers) = Box::new(answers);
    }

    /// What has arrived.
    pub fn received(&self) -> Vec<Received> {
        lock(&self.inner.received).clone()
    }

    /// The positions of what has arrived, in order.
    pub fn positions(&self) -> Vec<u64> {
        lock(&self.inner.received).iter().map(|received| received.position).collect()
    }

    /// The events that have arrived, in order.
    pub fn events(&self) -> Vec<Value> {
        lock(&self.inner.received).iter().map(|received| received.event.clone()).collect()
    }

    /// Waits until the position has been taken.
    pub async fn has(&self, position: u64) {
        eventually("a delivery", || async {
            let taken = |received: &Received| received.position == position && received.status.is_success();
            lock(&self.inner.received).iter().any(taken).then_some(())
        })
        .await;
    }
}

/// Takes connections that get through the handshake.
struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (connection, address) = self.listener.accept().await.expect("it listens");
            if let Ok(stream) = self.acceptor.accept(connection).await {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// The file of this name among the certificates of the tests.
pub fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls").join(name)
}

fn acceptor(name: &str) -> TlsAcceptor {
    let chain =
        CertificateDer::pem_file_iter(certificate(&format!("{name}.pem"))).expect("the file is there");
    let chain = chain.collect::<Result<_, _>>().expect("certificates");
    let key = PrivateKeyDer::from_pem_file(certificate(&format!("{name}.key"))).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions of TLS")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("the key fits");
    TlsAcceptor::from(Arc::new(config))
}

async fn take(State(inner): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let event: Value = serde_json::from_slice(&body).expect("a CloudEvent");
    let position = event["position"].as_str().and_then(|at| at.parse().ok()).expect("a position");
    let mut received = lock(&inner.received);
    let earlier = received.iter().filter(|earlier| earlier.position == position).count();
    let status = (lock(&inner.answers))(&event, earlier + 1);
    received.push(Received { headers, body, event, position, status });
    status
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

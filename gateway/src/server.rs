//! Serves a router on a listener until told to stop.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long requests that are being answered may take after the call to stop.
const GRACE: Duration = Duration::from_secs(3);

/// Serves until `stopping` is cancelled; then takes no more connections, and returns when the requests under way are
/// answered, after three seconds at the latest.
pub async fn serve(listener: TcpListener, router: Router, stopping: CancellationToken) -> io::Result<()> {
    let listener = listener.tap_io(|connection| {
        // Small answers must not wait for more. A connection that refuses the option still works.
        if let Err(error) = connection.set_nodelay(true) {
            tracing::debug!(%error, "no TCP_NODELAY");
        }
    });
    let over = {
        let stopping = stopping.clone();
        async move {
            stopping.cancelled().await;
            tokio::time::sleep(GRACE).await;
        }
    };
    let graceful = axum::serve(listener, router).with_graceful_shutdown(stopping.cancelled_owned());
    tokio::select! {
        served = graceful.into_future() => served,
        () = over => {
            tracing::warn!("requests were still under way when the listener closed");
            Ok(())
        }
    }
}

//! What the tests stand on: real servers, started by the tests themselves.

use std::time::Duration;

pub mod nats_server;
pub mod postgres;
pub mod programs;

/// Asks again and again until there is an answer; panics when there is none within the time.
pub async fn eventually<T>(what: &str, within: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + within;
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    loop {
        pause.tick().await;
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(tokio::time::Instant::now() < deadline, "not within {within:?}: {what}");
    }
}

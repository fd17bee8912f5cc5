//! Connecting: what is set up, what is refused, and what is waited out.

use std::time::Duration;

use async_nats::jetstream::{self, stream};
use nats::{Nats, NatsConfig, NatsError};

use crate::support::deployment::Deployment;
use crate::support::nats_server::NatsServer;
use crate::support::process;
use crate::support::relay::{connect, wait_until};

fn config(server: &NatsServer) -> NatsConfig {
    NatsConfig {
        url: server.url(),
        credentials_file: None,
        tls: nats::NatsTls::default(),
        replicas: 1,
        allow_unauthenticated: true,
    }
}

#[tokio::test]
async fn connecting_sets_the_stream_up_once() {
    let server = NatsServer::start().await;
    let (one, two) = (connect(server.url()).await, connect(server.url()).await);
    assert!(one.is_connected() && two.is_connected());
    let (first, second) =
        (one.event_stream().await.expect("stands"), two.event_stream().await.expect("stands"));
    assert_eq!(first.created, second.created);
    let config = first.config;
    assert_eq!(config.subjects, ["events.>"]);
    assert_eq!(config.storage, stream::StorageType::File);
    assert_eq!((config.max_age, config.max_bytes, config.max_messages), (Duration::ZERO, -1, -1));
    assert_eq!(config.duplicate_window, Duration::from_mins(2));
    assert!(config.allow_direct);
}

#[tokio::test]
async fn a_stream_that_is_set_up_otherwise_is_refused() {
    let server = NatsServer::start().await;
    let client = async_nats::connect(server.url()).await.expect("a stock client connects");
    let other = stream::Config {
        name: "EVENTS".to_owned(),
        subjects: vec!["events.acme.>".to_owned()],
        ..stream::Config::default()
    };
    jetstream::new(client).create_stream(other).await.expect("the stream is created");
    let refused = Nats::connect(config(&server)).await.expect_err("it is not ours");
    assert!(matches!(refused, NatsError::StreamDiffers { .. }), "{refused}");
}

#[tokio::test]
async fn a_server_without_users_is_refused_unless_the_settings_accept_it() {
    let server = NatsServer::start().await;
    let strict = NatsConfig { allow_unauthenticated: false, ..config(&server) };
    let refused = Nats::connect(strict.clone()).await.expect_err("nothing to sign in with");
    assert!(matches!(refused, NatsError::NoCredentials), "{refused}");
    let url = server.url().replace("nats://", "nats://ann:secret@");
    let refused = Nats::connect(NatsConfig { url: url.clone(), ..strict }).await.expect_err("it is open");
    assert!(matches!(refused, NatsError::Open) && !refused.is_unavailable(), "{refused}");
    Nats::connect(NatsConfig { url, ..config(&server) }).await.expect("accepted for development");
}

#[test]
fn a_process_without_credentials_for_nats_does_not_start_and_says_which_setting_is_missing() {
    let deployment = Deployment::with(1, "nats://127.0.0.1:4222", "");
    let settings = deployment.settings().display().to_string();
    let served = process::run(&["--config", &settings, "serve", "--roles", "gateway"]);
    assert!(!served.status.success());
    let told = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(told.contains("nats.credentials_file") && told.contains("allow_unauthenticated"), "{told}");
    for check in [&["--config", &settings, "doctor"][..], &["--config", &settings, "config", "check"]] {
        let checked = process::run(check);
        assert_eq!(checked.status.code(), Some(9), "{checked:?}");
        let told = [checked.stdout, checked.stderr].concat();
        assert!(String::from_utf8_lossy(&told).contains("nats.credentials_file"));
    }
}

#[tokio::test]
async fn a_process_comes_up_without_a_server_and_finds_it_later() {
    let mut server = NatsServer::start().await;
    server.kill();
    let nats = Nats::connect(config(&server)).await.expect("it comes up all the same");
    assert!(!nats.is_connected());
    assert!(nats.event_stream().await.expect_err("nothing answers").is_unavailable());
    server.restart().await;
    wait_until("the connection stands", || async { nats.is_connected() }).await;
    wait_until("the stream stands", || async { nats.event_stream().await.is_ok() }).await;
}

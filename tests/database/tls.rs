//! TLS to PostgreSQL and NATS, against servers with a private authority: what each mode accepts and refuses, and that every
//! client of the product speaks it.

use std::path::Path;
use std::time::Duration;

use database::{ConnectError, TlsConfig, TlsMode};
use futures::StreamExt;
use nats::{Nats, NatsConfig, NatsTls};
use reqwest::{Method, StatusCode};
use store::{OwnerConfig, Store, StoreConfig};
use tempfile::TempDir;

use crate::support::connections::{certificate, is_encrypted, login};
use crate::support::deployment::{Answer, Deployment};
use crate::support::nats_server::NatsServer;
use crate::support::postgres::{Database, PASSWORD, event, give_to_postgres, metadata, open_tenant};
use crate::support::postgres_server::{DATABASE, PostgresServer};
use crate::support::{eventually, folder, process};

const ROLE: &str = "annals_worker";

/// A server with this certificate and its key.
async fn server(name: &str) -> (PostgresServer, TempDir) {
    let files = folder();
    let copied = |name: &str| {
        let path = files.path().join(name);
        std::fs::copy(certificate(name), &path).expect("copied");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, private).expect("the file is ours");
        give_to_postgres(&path);
        path.display().to_string()
    };
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", copied(&format!("{name}.pem"))),
        format!("ssl_key_file={}", copied(&format!("{name}.key"))),
        format!("ssl_ca_file={}", copied("client-authority.pem")),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    (PostgresServer::start(&settings).await, files)
}

/// Makes the server take connections as these lines of `pg_hba.conf` say.
async fn admit(server: &PostgresServer, lines: &str) {
    let path = server.data().join("pg_hba.conf");
    std::fs::write(&path, lines).expect("written");
    server.connect().await.batch_execute("select pg_reload_conf()").await.expect("reloads");
}

fn tls(mode: TlsMode, authority: Option<&str>) -> TlsConfig {
    TlsConfig { mode, ca_file: authority.map(certificate), ..TlsConfig::default() }
}

fn with_client_certificate(config: TlsConfig) -> TlsConfig {
    TlsConfig {
        certificate_file: Some(certificate("client.pem")),
        key_file: Some(certificate("client.key")),
        ..config
    }
}

fn chain(error: &ConnectError) -> String {
    store::Causes(error).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_of_tls_verifies_what_it_says_and_none_falls_back() {
    let (server, _files) = server("localhost").await;
    let connect = async |host: &str, tls: TlsConfig| {
        let connection = database::connect(&login(host, server.port(), ROLE, tls)).await?;
        Ok::<_, ConnectError>(is_encrypted(&connection).await)
    };
    let (ours, others) = (Some("authority.pem"), Some("stranger.pem"));
    for (host, config, encrypted) in [
        ("localhost", tls(TlsMode::VerifyFull, ours), true),
        ("127.0.0.1", tls(TlsMode::Require, ours), true),
        ("127.0.0.1", tls(TlsMode::Require, None), true),
        ("127.0.0.1", tls(TlsMode::Off, None), false),
    ] {
        let connected = connect(host, config.clone()).await;
        assert_eq!(connected.expect("connects"), encrypted, "{host} {config:?}");
    }
    for (host, config, reason) in [
        ("localhost", tls(TlsMode::VerifyFull, others), "UnknownIssuer"),
        ("localhost", tls(TlsMode::VerifyFull, None), "UnknownIssuer"),
        ("127.0.0.1", tls(TlsMode::VerifyFull, ours), "not valid for name"),
        ("127.0.0.1", tls(TlsMode::Require, others), "UnknownIssuer"),
    ] {
        let refused = connect(host, config.clone()).await.expect_err("it is not the server that was meant");
        assert!(chain(&refused).contains(reason), "{host} {config:?}: {}", chain(&refused));
    }

    let plain = PostgresServer::start(&[]).await;
    for mode in [TlsMode::Require, TlsMode::VerifyFull] {
        let config = login("localhost", plain.port(), ROLE, tls(mode, ours));
        let refused = database::connect(&config).await.err().expect("the server speaks no TLS");
        assert!(chain(&refused).contains("server does not support TLS"), "{}", chain(&refused));
    }
    let off = login("localhost", plain.port(), ROLE, tls(TlsMode::Off, None));
    assert!(!is_encrypted(&database::connect(&off).await.expect("connects")).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_is_shown_to_a_server_that_asks_for_it() {
    let (server, _files) = server("localhost").await;
    let asks = format!(
        "host all postgres all scram-sha-256\nhostssl all {ROLE} all scram-sha-256 clientcert=verify-ca\n"
    );
    admit(&server, &asks).await;
    let without = tls(TlsMode::VerifyFull, Some("authority.pem"));
    let refused = database::connect(&login("localhost", server.port(), ROLE, without.clone())).await;
    assert!(refused.is_err(), "it has no certificate");
    let with = with_client_certificate(without);
    let connection = database::connect(&login("localhost", server.port(), ROLE, with.clone())).await;
    let connection = connection.expect("the certificate is taken");
    let subject = "select client_dn from pg_stat_ssl where pid = pg_backend_pid()";
    let shown: String = connection.client.query_one(subject, &[]).await.expect("reads").get(0);
    assert_eq!(shown, "/CN=annals");
    // One of another authority.
    let other = TlsConfig {
        certificate_file: Some(certificate("stranger.pem")),
        key_file: Some(certificate("stranger.key")),
        ..with
    };
    assert!(database::connect(&login("localhost", server.port(), ROLE, other)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_cannot_be_used_are_named() {
    let missing = TlsConfig { ca_file: Some("/nowhere/ca.pem".into()), ..tls(TlsMode::VerifyFull, None) };
    let no_certificates =
        TlsConfig { ca_file: Some(certificate("client.key")), ..tls(TlsMode::VerifyFull, None) };
    let half = TlsConfig { key_file: None, ..with_client_certificate(tls(TlsMode::Require, None)) };
    for (config, named) in
        [(missing, "/nowhere/ca.pem"), (no_certificates, "client.key"), (half, "go together")]
    {
        let refused = database::connect(&login("localhost", 1, ROLE, config)).await.err().expect("refused");
        assert!(matches!(refused, ConnectError::Tls(_)) && !refused.is_transient());
        assert!(chain(&refused).contains(named), "{}", chain(&refused));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_are_cancelled_and_notifications_heard_over_tls() {
    let (server, _files) = server("localhost").await;
    admit(&server, "hostssl all all all scram-sha-256\nhost all postgres all scram-sha-256\n").await;
    let config = login("localhost", server.port(), ROLE, tls(TlsMode::VerifyFull, Some("authority.pem")));
    let connector = database::Connector::new(&config).expect("the files read");
    let (connection, mut listener) =
        (connector.connect().await.expect("connects"), connector.listen("news").await.expect("listens"));
    let token = connection.client.cancel_token();
    let observer = server.connect().await;
    observer.batch_execute("select pg_advisory_lock(7)").await.expect("locks");
    let waiting = connection.client.batch_execute("select pg_advisory_lock_shared(7)");
    let cancelling = async {
        eventually("it waits", || async {
            let waits =
                "select from pg_stat_activity where query like 'select pg_advisory_lock_shared%' and state = 'active'";
            observer.query_opt(waits, &[]).await.expect("reads")
        })
        .await;
        connector.cancel(&token).await.expect("the request is sent");
    };
    let (ended, ()) = tokio::join!(waiting, cancelling);
    assert_eq!(
        ended.expect_err("cancelled").code().map(|state| state.code().to_owned()),
        Some("57014".to_owned())
    );
    // A statement that is sent afterwards is not hit.
    connection.client.batch_execute("notify news, 'hello'").await.expect("it runs");
    let heard = listener.next().await.expect("goes on").expect("a notification");
    assert_eq!(heard.payload(), "hello");
}

/// A server that refuses plain text and clients without a certificate, to everybody but the test's own superuser.
const TLS_ONLY: &str = "hostssl annals all all scram-sha-256 clientcert=verify-ca\nhost postgres postgres all scram-sha-256\n\
                        host replication all all reject\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_client_of_the_product_speaks_tls_to_postgresql_and_nats() {
    let (server, _files) = server("localhost").await;
    std::fs::write(server.data().join("pg_hba.conf"), TLS_ONLY).expect("written");
    let observer = server.connect_to("postgres").await;
    observer.batch_execute("select pg_reload_conf()").await.expect("reloads");
    let broker = NatsServer::start_over_tls("localhost").await;
    let more = format!(
        "tls_ca_file = \"{}\"\ntls_certificate_file = \"{}\"\ntls_key_file = \"{}\"\n",
        certificate("authority.pem").display(),
        certificate("client.pem").display(),
        certificate("client.key").display(),
    );
    let mut deployment =
        Deployment::with(server.port(), &broker.url(), &format!("allow_unauthenticated = true\n{more}"));
    deployment.tls = TlsConfig {
        mode: TlsMode::Require,
        ca_file: Some(certificate("authority.pem")),
        certificate_file: Some(certificate("client.pem")),
        key_file: Some(certificate("client.key")),
    };
    set_in_database(
        &deployment.settings(),
        &format!("host = \"localhost\"\nowner_password = \"{PASSWORD}\"\ntls = \"verify-full\"\n{more}"),
    );
    let settings = deployment.settings().display().to_string();
    for command in [&["migrate"][..], &["projection", "compact"]] {
        let output = process::run(&[&["--config", &settings], command].concat());
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // It finds fault with servers of tests, which do not sync, and with nothing else.
    let doctor = process::run(&["--config", &settings, "--output", "jsonl", "doctor"]);
    let checks = String::from_utf8(doctor.stdout).expect("text");
    for line in checks.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")) {
        assert!(line["ok"] == true || line["name"] == "postgresql", "{line}");
    }
    let serving = deployment.serve("gateway,relay,projections,sagas,sealer,webhooks");
    serving.started().await;
    eventually("it is ready", || async {
        (serving.probe("/readyz").await == Some(StatusCode::OK)).then_some(())
    })
    .await;
    let tenant = deployment.tenant(&serving, "acme").await;
    let events = Answer::of(serving.request(Method::GET, "/v1/events").bearer_auth(&tenant.token)).await;
    assert_eq!(events.status, StatusCode::OK, "{events:?}");
    let plain = "select count(*) from pg_stat_activity a join pg_stat_ssl s on s.pid = a.pid
                 where a.usename like 'annals%' and not s.ssl";
    assert_eq!(observer.query_one(plain, &[]).await.expect("reads").get::<_, i64>(0), 0);
    let encrypted =
        "select count(distinct a.usename) from pg_stat_activity a join pg_stat_ssl s on s.pid = a.pid
                     where a.usename like 'annals%' and s.ssl";
    assert!(observer.query_one(encrypted, &[]).await.expect("reads").get::<_, i64>(0) >= 5);
}

/// Puts lines into the section `[database]` of a settings file.
fn set_in_database(settings: &Path, lines: &str) {
    let text = std::fs::read_to_string(settings).expect("the settings are there");
    std::fs::write(settings, text.replacen("[database]\n", &format!("[database]\n{lines}"), 1))
        .expect("written");
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_is_trusted_by_its_authority_and_name_and_never_over_plain_text() {
    let server = NatsServer::start_over_tls("localhost").await;
    let connect = async |url: String, authority: Option<&str>, client: bool| {
        let file = |name| client.then(|| certificate(name));
        let tls = NatsTls {
            ca_file: authority.map(certificate),
            certificate_file: file("client.pem"),
            key_file: file("client.key"),
        };
        let config =
            NatsConfig { url, credentials_file: None, tls, replicas: 1, allow_unauthenticated: true };
        Nats::connect(config).await.expect("goes on in the background").is_connected()
    };
    let ours = Some("authority.pem");
    let by_address = server.url().replace("localhost", "127.0.0.1");
    assert!(connect(server.url(), ours, true).await);
    let (other_authority, other_name, no_certificate) = tokio::join!(
        connect(server.url(), Some("stranger.pem"), true),
        connect(by_address, ours, true),
        connect(server.url(), ours, false),
    );
    assert_eq!([other_authority, other_name, no_certificate], [false; 3]);

    let plain = NatsServer::start().await;
    let (files, scheme, neither) = tokio::join!(
        connect(plain.url(), ours, false),
        connect(plain.url().replace("nats://", "tls://"), None, false),
        connect(plain.url(), None, false),
    );
    assert_eq!([files, scheme, neither], [false, false, true]);
}

/// The store by itself, with what only tests of it reach.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_appends_and_reads_over_tls() {
    let (server, _files) = server("localhost").await;
    let tls = tls(TlsMode::VerifyFull, Some("authority.pem"));
    let owner = OwnerConfig {
        host: "localhost".to_owned(),
        port: server.port(),
        database: DATABASE.to_owned(),
        user: "postgres".to_owned(),
        password: PASSWORD.to_owned(),
        tls: tls.clone(),
    };
    admit(&server, "hostssl all all all scram-sha-256\n").await;
    store::migrate::run(&owner, PASSWORD, &[]).await.expect("migrates");
    let keys = Database::create().await;
    let config = StoreConfig {
        host: owner.host,
        port: owner.port,
        database: owner.database,
        tls,
        idle_timeout: Duration::from_mins(1),
        ..keys.store_config()
    };
    let store = Store::connect(config.clone()).await.expect("connects");
    let tenant = open_tenant(&store, "acme").await;
    let stream = schemas::engine::StreamName::new("crm.customer", schemas::engine::ids::new_id());
    let append = store::StreamAppend::new(
        stream,
        store::ExpectedVersion::NoStream,
        vec![event("crm.customer.closed.v1", "{}")],
        metadata(),
    );
    assert_eq!(tenant.append(append).await.expect("appends").position, 1);
    assert_eq!(tenant.head().await.expect("reads").position, 1);
    let plain = StoreConfig { tls: TlsConfig::default(), ..config };
    assert!(Store::connect(plain).await.is_err(), "the server takes no plain text");
}

//! A deployment of `annals serve` processes over servers that the test holds, and what tests do with it over HTTP.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use access::Principal;
use commands::{CommandContext, Decider, Executor, User, register_user};
use gateway::auth::{Audience, Grant, SigningKey, Tokens};
use keyring::{Keyring, RootKey, RootKeys};
use nix::sys::signal::Signal;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use schemas::engine::{Email, Name, TenantSlug, ids};
use schemas::identity::role::Role;
use schemas::identity::tenant::Tier;
use serde_json::{Value, json};
use store::{DeploymentKey, Store, StoreConfig};
use tempfile::TempDir;
use uuid::Uuid;

use super::key_stores::{KeyStoreKind, TestKeys};
use super::postgres::{PASSWORD as DATABASE_PASSWORD, free_port};
use super::postgres_server::DATABASE;
use super::process::{self, PROGRAM};
use super::product::PASSWORD;
use super::{eventually, programs, unique};

/// Longer than the product may take to answer, so that a hang shows as one.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The command that registers the operator.
const OPERATOR: Uuid = Uuid::from_u128(0x0198_c0de_0000_7000_8000_0000_0000_0001);

/// What all processes of a deployment share.
pub struct Deployment {
    folder: TempDir,
    key: DeploymentKey,
    keys: TestKeys,
    roots: RootKeys,
    database_port: u16,
    platform_token: String,
    client: Client,
    /// How the test itself connects to the database.
    pub tls: store::TlsConfig,
}

impl Deployment {
    /// A deployment over a migrated database and a NATS server without users, which need not be up.
    pub fn new(database_port: u16, nats_url: &str) -> Self {
        Self::with(database_port, nats_url, "allow_unauthenticated = true\n")
    }

    /// The same with more lines in the section `[nats]`.
    pub fn with(database_port: u16, nats_url: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = TestKeys::in_folder(&folder.path().join("keys"));
        Self::over(folder, database_port, nats_url, more, keys)
    }

    /// The same with keys in one of the stores.
    pub async fn with_keys(database_port: u16, nats_url: &str, kind: KeyStoreKind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let keys = TestKeys::create(kind, &folder.path().join("keys")).await;
        Self::over(folder, database_port, nats_url, "allow_unauthenticated = true\n", keys)
    }

    fn over(folder: TempDir, database_port: u16, nats_url: &str, more: &str, keys: TestKeys) -> Self {
        let (key, root) = (DeploymentKey::generate(), RootKey::generate());
        let pem = SigningKey::generate_pem().expect("a key");
        let pem_file = folder.path().join("signing-key.pem");
        std::fs::write(&pem_file, &pem).expect("the key is written");
        let settings = format!(
            "[database]\nport = {database_port}\nname = \"{DATABASE}\"\n\
             runtime_password = \"{DATABASE_PASSWORD}\"\npool_size = 6\n\
             [nats]\nurl = \"{nats_url}\"\n{more}\
             [identity]\nsigning_key_file = \"{}\"\naccess_token_lifetime_seconds = 3600\n\
             [audit]\nsigning_key_file = \"{}\"\nstate_folder = \"{}\"\n\
             [privacy]\n{}root_key = \"{}\"\nkey_lease_seconds = 1\n\
             [secrets]\ndeployment_key = \"{}\"\n\
             [log]\nlevel = \"info,annals::access=warn,async_nats=warn,tokio_postgres=warn\"\n",
            pem_file.display(),
            pem_file.display(),
            folder.path().join("audit").display(),
            keys.settings(),
            root.to_hex(),
            key.to_hex(),
        );
        std::fs::write(folder.path().join("annals.toml"), settings).expect("the settings are written");
        let tokens = Tokens::new(
            SigningKey::from_pem(&pem).expect("a key"),
            "annals".to_owned(),
            Duration::from_hours(1),
        );
        let grant = Grant {
            user_id: ids::derived_id(OPERATOR, User::CATEGORY),
            tenant: ids::PLATFORM,
            tenant_slug: TenantSlug::parse("platform").expect("a slug"),
            tier: Tier::Enterprise,
            email: "operator@platform.example".to_owned(),
            name: "Operator".to_owned(),
            roles: vec![Role::PlatformAdmin],
            audiences: vec![Audience::Public],
        };
        let platform_token = tokens.issue(&grant).expect("signed").access_token;
        let client = Client::builder().timeout(CLIENT_TIMEOUT).build().expect("a client");
        Self {
            folder,
            key,
            keys,
            roots: root.into(),
            database_port,
            platform_token,
            client,
            tls: store::TlsConfig::default(),
        }
    }

    /// Its settings file.
    pub fn settings(&self) -> PathBuf {
        self.folder.path().join("annals.toml")
    }

    /// Starts a process with these roles, without waiting for it.
    pub fn serve(&self, roles: &str) -> Process {
        let log = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.log", unique("serve")));
        drop(File::create(&log).expect("the log can be written"));
        let mut process = Process {
            child: None,
            roles: roles.to_owned(),
            settings: self.settings(),
            ports: [free_port(), free_port(), free_port()],
            log,
            client: self.client.clone(),
        };
        process.spawn();
        process
    }

    /// The deployment's keys of personal data.
    pub fn keyring(&self) -> Keyring {
        self.keys.open(self.roots.clone(), Duration::from_secs(1))
    }

    /// The store of the keys.
    pub fn keys(&self) -> &TestKeys {
        &self.keys
    }

    /// What wraps the keys.
    pub fn roots(&self) -> &RootKeys {
        &self.roots
    }

    /// Gives the processes that are started from now on these root keys, in hexadecimal; returns the one that they had.
    pub fn change_root_key(&mut self, root: &str, previous: Option<&str>) -> String {
        let text = std::fs::read_to_string(self.settings()).expect("the settings are there");
        let had = text.lines().find_map(|line| line.strip_prefix("root_key = ")).expect("a root key");
        let kept = text.lines().filter(|line| !line.starts_with("previous_root_key = "));
        let mut lines: Vec<String> = kept.map(str::to_owned).collect();
        let place = lines.iter().position(|line| line.starts_with("root_key = ")).expect("a root key");
        lines[place] = format!("root_key = \"{root}\"");
        let key = |text: &str| RootKey::from_hex(text).expect("a key");
        if let Some(previous) = previous {
            lines.insert(place, format!("previous_root_key = \"{previous}\""));
        }
        std::fs::write(self.settings(), lines.join("\n")).expect("the settings are written");
        self.roots = RootKeys::new(key(root), previous.map(key));
        had.trim_matches('"').to_owned()
    }

    /// A store over the same database: what the test does in the place of the product.
    pub async fn store(&self) -> Store {
        let config = StoreConfig {
            host: "127.0.0.1".to_owned(),
            port: self.database_port,
            database: DATABASE.to_owned(),
            runtime_password: DATABASE_PASSWORD.to_owned(),
            key: self.key.clone(),
            keyring: Some(self.keyring()),
            append_workers: 1,
            pool_size: 4,
            tls: self.tls.clone(),
            idle_timeout: std::time::Duration::from_mins(1),
        };
        Store::connect(config).await.expect("the store connects")
    }

    /// Registers the operator whose token the deployment has. A repeat changes nothing.
    async fn register_operator(&self) {
        let executor = Executor::new(self.store().await, 1024 * 1024);
        let context = CommandContext::new(ids::PLATFORM, Principal::system("test")).with_command_id(OPERATOR);
        let email = Email::parse("operator@platform.example").expect("an address");
        let name = Name::parse("Operator").expect("a name");
        let registered =
            register_user(&executor, &context, email, name, vec![Role::PlatformAdmin], None::<bytes::Bytes>);
        registered.await.expect("the operator is registered");
    }

    /// Makes a tenant with open registration, and signs its administrator in.
    pub async fn tenant(&self, process: &Process, slug: &str) -> Account {
        self.register_operator().await;
        let email = format!("admin@{slug}.example");
        let body = json!({
            "slug": slug, "name": slug, "tier": "pro", "registration": "open",
            "admin": {"email": email, "password": PASSWORD, "name": "Admin"},
        });
        let create = || {
            let request = process.request(Method::POST, "/v1/tenants").bearer_auth(&self.platform_token);
            request.header("Idempotency-Key", ids::derived_id(ids::PLATFORM.0, slug).to_string()).json(&body)
        };
        done(StatusCode::CREATED, create).await;
        self.login(process, slug).await
    }

    /// Signs the administrator of a tenant in.
    pub async fn login(&self, process: &Process, slug: &str) -> Account {
        let body = json!({"email": format!("admin@{slug}.example"), "password": PASSWORD});
        let login =
            || process.request(Method::POST, "/v1/auth/login").header("X-Tenant-ID", slug).json(&body);
        let answer = done(StatusCode::OK, login).await;
        let token = answer.body["access_token"].as_str().expect("a token").to_owned();
        Account { slug: slug.to_owned(), token }
    }
}

/// Sends a request until it has this status; a busy machine may need several attempts.
async fn done(wanted: StatusCode, request: impl Fn() -> RequestBuilder) -> Answer {
    eventually("a request of the preparation", || async {
        let answer = Answer::of(request()).await;
        assert!(answer.status == wanted || answer.is_unavailable(), "{answer:?}");
        (answer.status == wanted).then_some(answer)
    })
    .await
}

/// A tenant and the token of its administrator.
#[derive(Debug, Clone)]
pub struct Account {
    pub slug: String,
    pub token: String,
}

/// One `annals serve`. It ends with the value, or with the thread that started it.
pub struct Process {
    child: Option<Child>,
    roles: String,
    settings: PathBuf,
    /// Public, operations, admin: the same after a restart.
    ports: [u16; 3],
    log: PathBuf,
    client: Client,
}

impl Process {
    /// Starts it again after its end.
    pub fn spawn(&mut self) {
        let log = File::options().append(true).open(&self.log).expect("the log is there");
        let mut command = programs::command(Path::new(PROGRAM), false, "KILL");
        process::clean(&mut command);
        command.arg("--config").arg(&self.settings);
        command.args(["serve", "--roles", &self.roles]);
        for (name, port) in ["PUBLIC", "OPERATIONS", "ADMIN"].into_iter().zip(self.ports) {
            command.env(format!("ANNALS__GATEWAY__{name}_ADDRESS"), format!("127.0.0.1:{port}"));
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the binary runs"));
    }

    /// The roles that it plays.
    pub fn roles(&self) -> &str {
        &self.roles
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it was started").id()
    }

    /// Whether it runs.
    pub fn is_running(&self) -> bool {
        self.child.as_ref().is_some_and(|child| process::is_running(child.id()))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        if self.is_running() {
            process::send(self.pid(), signal);
        }
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            drop(child.kill());
            child.wait().expect("it is our child");
        }
    }

    /// Waits until it serves. It does not end by itself.
    pub async fn started(&self) {
        eventually("the process serves", || async {
            assert!(
                self.is_running(),
                "the process with the role {} has ended: {}",
                self.roles,
                self.logged()
            );
            (self.probe("/livez").await == Some(StatusCode::OK)).then_some(())
        })
        .await;
    }

    /// The status of a path of the operations listener, where it answers.
    pub async fn probe(&self, path: &str) -> Option<StatusCode> {
        self.operations(path).await.map(|(status, _)| status)
    }

    /// Status and body of a path of the operations listener, where it answers.
    pub async fn operations(&self, path: &str) -> Option<(StatusCode, String)> {
        let answer =
            self.client.get(format!("http://127.0.0.1:{}{path}", self.ports[1])).send().await.ok()?;
        let status = answer.status();
        Some((status, answer.text().await.ok()?))
    }

    /// The address of a path of the public listener.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports[0])
    }

    /// A request to the public listener.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, self.url(path))
    }

    /// What it logged.
    pub fn logged(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a request came to.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    /// JSON, or null where it is none.
    pub body: Value,
    pub retry_after: Option<u64>,
    pub took: Duration,
}

impl Answer {
    /// Sends a request that must be answered.
    pub async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.expect("the product answers")
    }

    /// Sends a request to a process that may die meanwhile.
    pub async fn try_of(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let begun = Instant::now();
        let answer = request.send().await?;
        let status = answer.status();
        let header = answer.headers().get("retry-after");
        let retry_after = header.and_then(|value| value.to_str().ok()?.parse().ok());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Ok(Self { status, body, retry_after, took: begun.elapsed() })
    }

    /// Whether it says `unavailable`, in the form of REST or of GraphQL.
    pub fn is_unavailable(&self) -> bool {
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            let code = self.body["errors"][0]["extensions"]["code"].as_str();
            return self.body["code"] == "unavailable"
                && self.retry_after.is_some()
                && code.is_none_or(|code| code == "UNAVAILABLE");
        }
        self.status == StatusCode::OK && self.body["errors"][0]["extensions"]["code"] == "UNAVAILABLE"
    }
}

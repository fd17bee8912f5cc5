//! `annals dev`: runs everything on this machine without preparation: private servers, migrations, a demo tenant, all
//! roles.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use keyring::RootKey;
use serde::Serialize;
use store::DeploymentKey;
use tokio::sync::oneshot;

use crate::failure::Failure;
use crate::{logging, signals};
use devserver::demo::{self, Demo, DemoSetup};
use devserver::{self, DataFolder, Servers, SuperviseError};
use settings::{RequiredSettings, Secret, Settings};
use terminal::Exit;
use terminal::json_line;
use wiring::{self, Prepared, ProcessRole, Running};

/// Time for the roles to finish their work. The servers get the rest of five seconds to stop.
const ROLES_STOP_TIMEOUT: Duration = Duration::from_millis(1800);

/// `annals dev ...`
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct Dev {
    /// Keep the data here [default: ~/.local/share/annals/dev, for root /var/lib/annals/dev]
    #[arg(long, value_name = "DIR", conflicts_with = "ephemeral")]
    data_dir: Option<PathBuf>,
    /// Keep the data in a temporary folder that is deleted at the end
    #[arg(long)]
    ephemeral: bool,
    /// Listen on any free ports, not on 8080, 8081 and 8082 (PostgreSQL 5433, NATS 4223)
    #[arg(long)]
    random_ports: bool,
    /// When ready, print one line of JSON on standard output, and nothing else there
    #[arg(long)]
    json: bool,
    /// The folder with the PostgreSQL programs [default: found in PATH and the usual folders]
    #[arg(long, value_name = "DIR", env = "ANNALS_POSTGRES_BIN")]
    postgres_bin: Option<PathBuf>,
    /// The nats-server program [default: found in PATH, beside this program and in the usual folders]
    #[arg(long, value_name = "FILE", env = "ANNALS_NATS_SERVER")]
    nats_server: Option<PathBuf>,
    /// Stop when standard input ends: for test runners, which cannot always send a signal
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

/// The output of `--json`, which is the contract of `annals dev`.
#[derive(Serialize)]
struct Ready {
    gateway_url: String,
    operations_url: String,
    admin_url: String,
    graphql_url: String,
    database_url: String,
    nats_url: String,
    nats_credentials: Option<PathBuf>,
    tenant: &'static str,
    access_token: String,
    admin_token: String,
    data_dir: PathBuf,
    pid: u32,
}

impl Dev {
    /// Runs until a signal. Await it on the main thread: the servers end with the thread that started them.
    pub async fn run(self, config: Option<&Path>) -> Result<Exit, Failure> {
        let mut settings = Settings::load_development(config)?;
        logging::start(&settings.log.level, settings.log.format)?;
        reject_exposed_address(&settings)?;
        let mut stop = StopRequests::listen(self.stop_with_stdin)?;

        let folder = match &self.data_dir {
            Some(path) => DataFolder::open(Some(path)),
            None if self.ephemeral => DataFolder::temporary(),
            None => DataFolder::open(None),
        };
        let folder = folder.map_err(supervisor_failure)?;
        let options = devserver::Options {
            postgres_bin: self.postgres_bin.clone(),
            nats_server: self.nats_server.clone(),
            random_ports: self.random_ports,
        };
        let started = tokio::select! {
            servers = Servers::start(&folder, &options) => servers.map_err(supervisor_failure),
            // Servers that have started meanwhile end with this process.
            () = stop.requested() => return Ok(Exit::Ok),
        };
        let mut servers = match started {
            Ok(servers) => servers,
            Err(failure) => {
                folder.close();
                return Err(failure);
            }
        };
        let done = self.run_roles(&mut settings, &folder, &mut servers, &mut stop).await;
        // A second request skips the graceful stop.
        let is_first_request = stop.count < 2;
        tokio::select! {
            () = servers.stop(), if is_first_request => {}
            () = stop.requested(), if is_first_request => servers.kill(),
            else => servers.kill(),
        }
        folder.close();
        done
    }

    async fn run_roles(
        &self,
        settings: &mut Settings,
        folder: &DataFolder,
        servers: &mut Servers,
        stop: &mut StopRequests,
    ) -> Result<Exit, Failure> {
        configure_for_servers(settings, folder, servers, self.random_ports)?;
        let starting = async {
            wiring::migrate(settings).await?;
            let prepared = Prepared::connect(settings, &ProcessRole::ALL).await?;
            let demo = prepare_demo(&prepared, folder).await?;
            Ok::<_, anyhow::Error>((Box::pin(prepared.start()).await?, demo))
        };
        let (mut running, demo) = tokio::select! {
            started = starting => started.map_err(with_port_hint)?,
            error = servers.keep_running() => return Err(supervisor_failure(error)),
            () = stop.requested() => return Ok(Exit::Ok),
        };
        write_settings(settings, folder, &running)?;
        let ready = ready(settings, folder, &running, &demo)?;
        if self.json {
            let mut out = io::stdout().lock();
            json_line(&mut out, &ready)?;
            out.flush()?;
        } else {
            banner(&ready)?;
        }
        let done = tokio::select! {
            error = running.failed() => Err(error.into()),
            error = servers.keep_running() => Err(supervisor_failure(error)),
            () = stop.requested() => Ok(Exit::Ok),
        };
        tokio::select! {
            stopped = tokio::time::timeout(ROLES_STOP_TIMEOUT, running.stop()) => {
                if stopped.is_err() {
                    tracing::warn!("the roles did not stop in time");
                }
            }
            () = stop.requested() => {}
        }
        done
    }
}

async fn prepare_demo(prepared: &Prepared, folder: &DataFolder) -> anyhow::Result<Demo> {
    let gateway = prepared.gateway().context("tokens are issued where the role gateway is")?;
    let (passwords, tokens) = (gateway.passwords(), gateway.tokens());
    DemoSetup { executor: prepared.executor(), passwords, tokens }.prepare(folder).await
}

/// A signal, or the end of standard input with `--stop-with-stdin`.
struct StopRequests {
    signals: signals::StopSignal,
    stdin_ended: Option<oneshot::Receiver<()>>,
    count: u32,
}

impl StopRequests {
    fn listen(with_stdin: bool) -> io::Result<Self> {
        let stdin_ended = with_stdin.then(|| {
            let (ended, receiver) = oneshot::channel();
            // A thread of its own: a read from standard input cannot be cancelled, so it must not block a task.
            std::thread::spawn(move || {
                let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
                let _ = ended.send(());
            });
            receiver
        });
        Ok(Self { signals: signals::StopSignal::listen()?, stdin_ended, count: 0 })
    }

    async fn requested(&mut self) {
        let stdin_ends = async {
            match &mut self.stdin_ended {
                Some(ended) => drop(ended.await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.signals.requested() => {}
            () = stdin_ends => self.stdin_ended = None,
        }
        self.count += 1;
    }
}

/// Refuses addresses that other machines can reach, because the password of the demo tenant's administrator is public.
fn reject_exposed_address(settings: &Settings) -> Result<(), Failure> {
    let address = settings.gateway.public_address;
    if !demo::is_exposed(address) {
        return Ok(());
    }
    Err(Failure::usage(anyhow::anyhow!(
        "`gateway.public_address` is {address}, and everybody knows the password of the administrator that `annals dev` \
         makes; keep it on a loopback address such as 127.0.0.1:8080, or run `annals init` and `annals serve`"
    )))
}

/// Adds a hint to the error for a port in use, because another option solves it.
fn with_port_hint(error: anyhow::Error) -> anyhow::Error {
    let taken = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    if taken.into_iter().any(|cause| cause.kind() == io::ErrorKind::AddrInUse) {
        return anyhow::anyhow!("{error:#}; stop what listens there, or use --random-ports");
    }
    error
}

/// The messages of the supervisor are complete, so they get no context.
fn supervisor_failure(error: SuperviseError) -> Failure {
    Failure::new(Exit::Failed, error)
}

/// Sets the addresses of the private servers and the secrets of the folder in the settings.
fn configure_for_servers(
    settings: &mut Settings,
    folder: &DataFolder,
    servers: &Servers,
    random_ports: bool,
) -> Result<(), Failure> {
    let secret =
        |name: &str, generate: &dyn Fn() -> Secret| folder.secret(name, generate).map_err(supervisor_failure);
    let (superuser_file, _) = secret("superuser.password", &devserver::random_password)?;
    let (runtime_file, _) = secret("runtime.password", &devserver::random_password)?;
    let (key_file, _) = secret("deployment.key", &|| Secret::new(DeploymentKey::generate().to_hex()))?;
    let pem = gateway::auth::SigningKey::generate_pem().map_err(anyhow::Error::from)?;
    let (signing_key_file, _) = secret("signing-key.pem", &|| Secret::new(pem.as_str()))?;

    let pem = gateway::auth::SigningKey::generate_pem().map_err(anyhow::Error::from)?;
    let (audit_key_file, _) = secret("audit-key.pem", &|| Secret::new(pem.as_str()))?;
    (settings.audit.signing_key, settings.audit.signing_key_file) = (None, Some(audit_key_file));
    settings.audit.state_folder = Some(folder.path().join("audit"));
    let (root_key_file, _) = secret("root.key", &|| Secret::new(RootKey::generate().to_hex()))?;
    (settings.privacy.root_key, settings.privacy.root_key_file) = (None, Some(root_key_file));
    settings.privacy.keys_folder = Some(folder.path().join("keys"));
    settings.privacy.keys_url = None;

    let database = &mut settings.database;
    "127.0.0.1".clone_into(&mut database.host);
    database.port = servers.postgres_port();
    devserver::DATABASE.clone_into(&mut database.name);
    "off".clone_into(&mut database.tls);
    (database.tls_ca_file, database.tls_certificate_file, database.tls_key_file) = (None, None, None);
    devserver::SUPERUSER.clone_into(&mut database.owner_user);
    (database.owner_password, database.owner_password_file) = (None, Some(superuser_file));
    (database.runtime_password, database.runtime_password_file) = (None, Some(runtime_file));
    settings.nats.url = Secret::new(servers.nats_url());
    settings.nats.replicas = 1;
    let files = devserver::NatsFiles::write(folder).map_err(supervisor_failure)?;
    let nats = &mut settings.nats;
    nats.credentials_file = Some(files.application);
    nats.system_credentials_file = Some(files.system);
    (nats.tls_ca_file, nats.tls_certificate_file, nats.tls_key_file) = (None, None, None);
    (nats.edge_account, nats.public_url) = (Some(files.edge_account), None);
    (nats.edge_signing_seed, nats.edge_signing_seed_file) = (None, Some(files.edge_signing));
    (nats.operator_signing_seed, nats.operator_signing_seed_file) = (None, Some(files.operator_signing));
    (settings.secrets.deployment_key, settings.secrets.deployment_key_file) = (None, Some(key_file));
    (settings.identity.signing_key, settings.identity.signing_key_file) = (None, Some(signing_key_file));
    if random_ports {
        let gateway = &mut settings.gateway;
        for address in
            [&mut gateway.public_address, &mut gateway.operations_address, &mut gateway.admin_address]
        {
            address.set_port(0);
        }
    }
    match settings.problems(RequiredSettings::ALL).into_iter().next() {
        Some(problem) => Err(problem.into()),
        None => Ok(()),
    }
}

/// Writes an `annals.toml` with which the other commands reach these servers.
fn write_settings(settings: &Settings, folder: &DataFolder, running: &Running) -> Result<(), Failure> {
    let database = &settings.database;
    let addresses = running.addresses();
    let mut table = toml::Table::new();
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        section.as_table_mut().expect("sections are tables").insert(key.to_owned(), value);
    };
    let path = |path: &Option<PathBuf>| {
        let path = path.as_deref().map(|path| path.display().to_string());
        toml::Value::from(path.unwrap_or_default())
    };
    set("database", "host", database.host.as_str().into());
    set("database", "port", i64::from(database.port).into());
    set("database", "name", database.name.as_str().into());
    set("database", "owner_user", database.owner_user.as_str().into());
    set("database", "owner_password_file", path(&database.owner_password_file));
    set("database", "runtime_password_file", path(&database.runtime_password_file));
    let nats = &settings.nats;
    set("nats", "url", nats.url.reveal().into());
    set("nats", "credentials_file", path(&nats.credentials_file));
    set("nats", "edge_account", nats.edge_account.as_deref().unwrap_or_default().into());
    set("nats", "edge_signing_seed_file", path(&nats.edge_signing_seed_file));
    set("nats", "operator_signing_seed_file", path(&nats.operator_signing_seed_file));
    set("nats", "system_credentials_file", path(&nats.system_credentials_file));
    set("gateway", "public_address", addresses.public.to_string().into());
    set("gateway", "operations_address", addresses.operations.to_string().into());
    set("gateway", "admin_address", addresses.admin.to_string().into());
    set("identity", "signing_key_file", path(&settings.identity.signing_key_file));
    set("audit", "signing_key_file", path(&settings.audit.signing_key_file));
    set("audit", "state_folder", path(&settings.audit.state_folder));
    set("privacy", "keys_folder", path(&settings.privacy.keys_folder));
    set("privacy", "root_key_file", path(&settings.privacy.root_key_file));
    set("secrets", "deployment_key_file", path(&settings.secrets.deployment_key_file));
    let text = format!("# Written by `annals dev` at each start. Changes here are lost.\n\n{table}");
    folder.write("annals.toml", &text).map_err(supervisor_failure)?;
    Ok(())
}

fn database_url(password: &Secret, port: u16) -> String {
    format!(
        "postgres://{}:{}@127.0.0.1:{port}/{}",
        devserver::SUPERUSER,
        password.reveal(),
        devserver::DATABASE
    )
}

fn ready(settings: &Settings, folder: &DataFolder, running: &Running, demo: &Demo) -> Result<Ready, Failure> {
    let addresses = running.addresses();
    let url = |address: std::net::SocketAddr| format!("http://localhost:{}", address.port());
    let gateway_url = url(addresses.public);
    let database = &settings.database;
    Ok(Ready {
        graphql_url: format!("{gateway_url}/graphql"),
        gateway_url,
        operations_url: url(addresses.operations),
        admin_url: url(addresses.admin),
        database_url: database_url(&database.owner_password()?, database.port),
        nats_url: settings.nats.url.reveal().to_owned(),
        nats_credentials: settings.nats.credentials_file.clone(),
        tenant: demo::TENANT_SLUG,
        access_token: demo.access_token.clone(),
        admin_token: demo.admin_token.clone(),
        data_dir: folder.path().to_owned(),
        pid: std::process::id(),
    })
}

fn banner(ready: &Ready) -> io::Result<()> {
    let Ready {
        gateway_url, graphql_url, operations_url, admin_url, database_url, nats_url, data_dir, ..
    } = ready;
    let credentials = ready.nats_credentials.as_deref().unwrap_or(data_dir).display();
    let data_dir = data_dir.display();
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "
  annals is running. Ctrl-C stops it.

  public       {gateway_url}
  GraphQL      {graphql_url}  (GraphiQL in a browser)
  operations   {operations_url}/readyz
  admin        {admin_url}
  PostgreSQL   {database_url}
  NATS         {nats_url}  (credentials: {credentials})
  data folder  {data_dir}

  Tenant `{}`: anybody may register. Its administrator is {}, password `{}`.
  A token of that administrator, good for 12 hours:

  {}
",
        demo::TENANT_SLUG,
        demo::ADMIN_EMAIL,
        demo::ADMIN_PASSWORD,
        ready.access_token
    )?;
    out.flush()
}

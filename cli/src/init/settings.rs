//! The settings file of a new deployment, the SQL that creates its database, and the next steps for its operator.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use postgres_protocol::password::scram_sha_256;
use url::Url;

/// The name of the settings file.
pub(super) const SETTINGS_FILE: &str = "annals.toml";

/// The address of PostgreSQL, and the names of the database and its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Database {
    host: String,
    port: u16,
    name: String,
    owner: String,
}

/// The addresses of NATS servers, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Servers(String);

/// How annals authenticates to NATS.
pub(super) enum Credentials {
    /// With an existing credentials file.
    Existing(PathBuf),
    /// With the generated file of the application in the folder `nats`.
    Generated {
        /// The public key of the integrators' account.
        edge_account: String,
    },
}

/// Parses `postgres://owner@host:port/name`.
pub(super) fn database(text: &str) -> Result<Database, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if !["postgres", "postgresql"].contains(&url.scheme()) {
        return Err("must start with postgres://".to_owned());
    }
    if url.password().is_some() {
        return Err(
            "must hold no password: every user of the machine sees the arguments of a process".to_owned()
        );
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("must hold nothing behind the name of the database".to_owned());
    }
    let host = url.host_str().map(|host| host.trim_matches(['[', ']'])).filter(|host| !host.is_empty());
    let name = url.path().trim_start_matches('/');
    let database = Database {
        host: host.ok_or("must name a host")?.to_owned(),
        port: url.port().unwrap_or(5432),
        name: if name.is_empty() { "annals" } else { name }.to_owned(),
        owner: if url.username().is_empty() { "annals_migrator" } else { url.username() }.to_owned(),
    };
    for word in [&database.name, &database.owner] {
        if !is_identifier(word) {
            return Err(format!("`{word}` must be lower-case letters, digits and underscores, at most 63"));
        }
    }
    if database.owner.starts_with("annals_") && database.owner != "annals_migrator" {
        return Err(format!(
            "the owner may not be called `{}`: `annals migrate` makes such roles",
            database.owner
        ));
    }
    Ok(database)
}

/// Whether a name needs no quotes in SQL.
fn is_identifier(word: &str) -> bool {
    let begins = word.starts_with(|first: char| first.is_ascii_lowercase() || first == '_');
    let rest = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
    begins && word.len() <= 63 && word.chars().all(rest)
}

/// Parses `nats://host:port,...`.
pub(super) fn servers(text: &str) -> Result<Servers, String> {
    for address in text.split(',') {
        let url = Url::parse(address.trim()).map_err(|error| error.to_string())?;
        if !["nats", "tls"].contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
            return Err("each address must be nats://host:port or tls://host:port".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(
                "must hold no user and password: every user of the machine sees the arguments of a process; \
                        use a credentials file, or write them into `nats.url` of the settings file"
                    .to_owned(),
            );
        }
    }
    Ok(Servers(text.to_owned()))
}

impl Database {
    /// The SQL that a superuser runs once. It contains a verifier of the password, so that no log contains the password
    /// itself.
    pub(super) fn create_sql(&self, password: &str) -> String {
        let Self { name, owner, .. } = self;
        let verifier = scram_sha_256(password.as_bytes());
        format!(
            "-- Makes the owner of the database and the database. Run once, by a superuser of PostgreSQL.\n\
             create role {owner} login createrole password '{verifier}';\n\
             create database {name} owner {owner};\n"
        )
    }
}

/// The values of the settings file.
pub(super) struct Layout {
    pub folder: PathBuf,
    pub host: String,
    pub deployment: String,
    pub database: Database,
    pub servers: Servers,
    pub credentials: Credentials,
}

impl Layout {
    /// The path of the settings file.
    pub(super) fn settings_file(&self) -> PathBuf {
        self.folder.join(SETTINGS_FILE)
    }

    /// The text of the settings file.
    pub(super) fn settings(&self) -> String {
        let file = |name: &str| toml_string(&self.folder.join(name).display().to_string());
        let Database { host, port, name, owner } = &self.database;
        let issuer = match self.host.as_str() {
            "localhost" => "http://localhost:8080".to_owned(),
            host => format!("https://{host}"),
        };
        format!(
            "# The settings of this deployment. `annals init` wrote them once; change them as you need.\n\
             # config.default.toml documents every setting. A setting that is not here has its default.\n\
             # Secrets are in files of their own, which only their owner may read. Back up the folders secrets, nats, keys\n\
             # and audit, apart from the database: they cannot be made again.\n\n\
             [database]\n\
             host = {db_host}\n\
             port = {port}\n\
             name = {name}\n\
             # The login that owns the database. Only `annals migrate` needs its password.\n\
             owner_user = {owner}\n\
             owner_password_file = {owner_file}\n\
             # The password of the roles that `annals serve` works with. `annals migrate` sets it.\n\
             runtime_password_file = {runtime_file}\n\n\
             [nats]\n\
             url = {servers}\n\
             # 3 on a cluster of three servers or more, which goes on when one of them dies.\n\
             replicas = 1\n\
             {credentials}\n\
             [gateway]\n\
             # REST, GraphQL and event streams, as plain HTTP: put a proxy that ends TLS in front.\n\
             public_address = \"0.0.0.0:8080\"\n\
             # Probes and metrics.\n\
             operations_address = \"0.0.0.0:8081\"\n\
             # The admin API. Keep it on the loopback interface.\n\
             admin_address = \"127.0.0.1:8082\"\n\
             # The host that clients see; <tenant>.<public_host> names a tenant.\n\
             public_host = {public_host}\n\
             # The origins of other web pages that may use this gateway, separated by commas.\n\
             cors_allowed_origins = \"\"\n\n\
             [identity]\n\
             # The `iss` claim of access tokens.\n\
             issuer = {issuer}\n\
             # Signs access tokens. The role gateway needs it.\n\
             signing_key_file = {token_file}\n\n\
             [audit]\n\
             # Begins the origin of every checkpoint. It must never change.\n\
             deployment = {deployment}\n\
             # Signs checkpoints. The role sealer needs it; keep it where no administrator of the database can read it.\n\
             signing_key_file = {audit_file}\n\
             # Where the sealer keeps what it has signed. Not on the disk of the database.\n\
             state_folder = {audit_folder}\n\n\
             [privacy]\n\
             # The keys of personal data. Every role but relay and sealer needs them.\n\
             keys_folder = {keys_folder}\n\
             # Wraps all keys in that folder. If it is lost, all personal data are lost.\n\
             root_key_file = {root_file}\n\n\
             [secrets]\n\
             # The root of every keyed hash. If it is lost, no e-mail address is found any more.\n\
             deployment_key_file = {deployment_file}\n",
            db_host = toml_string(host),
            name = toml_string(name),
            owner = toml_string(owner),
            owner_file = file("secrets/database-owner.password"),
            runtime_file = file("secrets/database-runtime.password"),
            servers = toml_string(&self.servers.0),
            credentials = self.credentials(),
            public_host = toml_string(&self.host),
            issuer = toml_string(&issuer),
            token_file = file("secrets/token-signing.pem"),
            deployment = toml_string(&self.deployment),
            audit_file = file("secrets/audit-signing.pem"),
            audit_folder = file("audit"),
            keys_folder = file("keys"),
            root_file = file("secrets/root.key"),
            deployment_file = file("secrets/deployment.key"),
        )
    }

    fn credentials(&self) -> String {
        let file = |path: &Path| toml_string(&path.display().to_string());
        match &self.credentials {
            Credentials::Existing(path) => format!(
                "# How annals signs in. Without an account for integrators, `edge_account`, none get credentials.\n\
                 credentials_file = {}\n",
                file(path)
            ),
            Credentials::Generated { edge_account } => {
                let own = |name: &str| file(&self.folder.join("nats").join(name));
                format!(
                    "# How annals signs in.\n\
                     credentials_file = {}\n\
                     # The account of integrators and what signs their credentials.\n\
                     edge_account = {}\n\
                     edge_signing_seed_file = {}\n\
                     # For the role relay alone: it tells NATS which credentials were revoked.\n\
                     operator_signing_seed_file = {}\n\
                     system_credentials_file = {}\n",
                    own("application.creds"),
                    toml_string(edge_account),
                    own("edge-signing.seed"),
                    own("operator-signing.seed"),
                    own("system.creds"),
                )
            }
        }
    }

    /// The manual steps that remain, in order.
    pub(super) fn next_steps(&self) -> String {
        let (settings, folder) = (self.settings_file(), self.folder.display().to_string());
        let annals = format!("annals --config {}", settings.display());
        let Database { host, port, .. } = &self.database;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let nats = match &self.credentials {
            Credentials::Existing(_) => "Start NATS, 2.12 or later, with JetStream.".to_owned(),
            Credentials::Generated { .. } => format!(
                "Have nats-server, 2.12 or later, include {folder}/nats/nats-server.conf; add listen, server_name and\n     \
                 jetstream. Then move operator.seed, system.seed, application.seed and edge.seed of {folder}/nats\n     \
                 to a place that is offline."
            ),
        };
        let mut steps = String::new();
        let mut step = |number: usize, what: &str, commands: &[String]| {
            let _ = writeln!(steps, "  {number}. {what}");
            for command in commands {
                let _ = writeln!(steps, "       {command}");
            }
        };
        step(
            1,
            "Make the owner of the database and the database, as a superuser of PostgreSQL, 15 or later:",
            &[format!(
                "psql \"postgres://postgres@{host}:{port}/postgres\" -v ON_ERROR_STOP=1 -f \
                 {folder}/secrets/create-database.sql"
            )],
        );
        step(2, &nats, &[]);
        step(3, "Make the tables:", &[format!("{annals} migrate")]);
        step(
            4,
            "Make the first operator of the platform and the first tenant with its administrator:",
            &[
                format!("{annals} admin create --email you@example.com"),
                format!("{annals} tenant create acme --admin admin@acme.example"),
            ],
        );
        step(5, "Check everything, and serve:", &[format!("{annals} doctor"), format!("{annals} serve")]);
        format!(
            "\nWhat to do next, as the user that `annals serve` will run as:\n\n{steps}\n\
             Back up {folder} now: what its keys protect is lost without them.\n"
        )
    }
}

/// A text as a TOML string.
fn toml_string(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_postgresql_is_read_and_holds_no_password() {
        let read = database("postgres://owner@db.internal:5433/facts").expect("complete");
        let wanted = Database {
            host: "db.internal".to_owned(),
            port: 5433,
            name: "facts".to_owned(),
            owner: "owner".to_owned(),
        };
        assert_eq!(read, wanted);
        let short = database("postgres://[::1]").expect("the rest has defaults");
        assert_eq!(
            (&*short.host, short.port, &*short.name, &*short.owner),
            ("::1", 5432, "annals", "annals_migrator")
        );
        for wrong in [
            "db.internal",
            "mysql://owner@db.internal/annals",
            "postgres://owner:secret@db.internal/annals",
            "postgres://owner@db.internal/annals?sslmode=require",
            "postgres://owner@db.internal/a'; drop role postgres; --",
            "postgres://o%27x@db.internal/annals",
            "postgres://annals_owner@db.internal/annals",
            "postgres:///annals",
        ] {
            assert!(database(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_of_nats_hold_no_secret() {
        assert!(servers("nats://a:4222,tls://b:4222").is_ok());
        for wrong in
            ["a:4222", "http://a", "nats://user:secret@a:4222", "nats://token@a:4222", "nats://a:4222,b"]
        {
            assert!(servers(wrong).is_err(), "{wrong}");
        }
    }
}

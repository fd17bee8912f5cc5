//! The location and login of a database of keys.

use database::{DatabaseConfig, Password, TlsConfig};

use crate::KeyringError;

/// The default role, if the URL names none.
const USER_DEFAULT: &str = "annals_keys";

/// A PostgreSQL database for keys only.
#[derive(Debug, Clone)]
pub struct KeyDatabase {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) name: String,
    pub(crate) user: String,
    pub(crate) password: Password,
    pub(crate) tls: TlsConfig,
}

impl KeyDatabase {
    /// Parses `postgres://[user@]host[:port]/database`. Password and TLS settings are given apart.
    ///
    /// # Errors
    /// [`KeyringError::Config`] when the URL has another form, parameters or a password.
    pub fn new(url: &str, password: &str, tls: TlsConfig) -> Result<Self, KeyringError> {
        let wrong = |problem: &str| KeyringError::Config(problem.to_owned());
        let has_scheme = ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
        if !has_scheme || url.contains('?') {
            return Err(wrong("must be postgres://[user@]host[:port]/database, without parameters"));
        }
        let config: tokio_postgres::Config =
            url.parse().map_err(|_| wrong("must be a URL of a PostgreSQL database"))?;
        if config.get_password().is_some() {
            return Err(wrong("must not hold a password; it belongs into privacy.keys_password"));
        }
        let [tokio_postgres::config::Host::Tcp(host)] = config.get_hosts() else {
            return Err(wrong("must name one host"));
        };
        let name = config.get_dbname().filter(|name| !name.is_empty());
        Ok(Self {
            host: host.clone(),
            port: config.get_ports().first().copied().unwrap_or(5432),
            name: name.ok_or_else(|| wrong("must name a database"))?.to_owned(),
            user: config.get_user().filter(|user| !user.is_empty()).unwrap_or(USER_DEFAULT).to_owned(),
            password: password.into(),
            tls,
        })
    }

    /// The connection settings of a role.
    pub(crate) fn login(&self, user: &str, password: &str, options: &str) -> DatabaseConfig {
        DatabaseConfig {
            host: self.host.clone(),
            port: self.port,
            name: self.name.clone(),
            user: user.to_owned(),
            password: password.into(),
            application_name: "annals_keys".to_owned(),
            options: options.to_owned(),
            tls: self.tls.clone(),
        }
    }
}

impl std::fmt::Display for KeyDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {}:{}", self.name, self.host, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_host_one_database_and_no_password() {
        let read = |url: &str| KeyDatabase::new(url, "secret", TlsConfig::default());
        let full = read("postgres://keeper@keys.internal:5433/keys").expect("reads");
        assert_eq!(full.to_string(), "keys at keys.internal:5433");
        assert_eq!(full.user, "keeper");
        let short = read("postgresql://keys.internal/keys").expect("reads");
        assert_eq!((short.port, short.user.as_str()), (5432, USER_DEFAULT));
        for wrong in [
            "",
            "keys",
            "mysql://a/b",
            "postgres://a",
            "postgres:///keys",
            "postgres://a,b/keys",
            "postgres://user:word@a/keys",
            "postgres://a/keys?sslmode=disable",
            "host=a dbname=keys",
        ] {
            let error = read(wrong).expect_err(wrong).to_string();
            assert!(error.starts_with("must ") && !error.contains("word@"), "{error}");
        }
        assert!(!format!("{full:?}").contains("secret"));
    }
}

//! The settings of a connection: server, login and encryption.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// The settings of one login to one database.
#[derive(Debug, Clone)]
pub struct DatabaseConfig {
    /// Host name or address. Under [`TlsMode::VerifyFull`] the server's certificate must name it.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Database name.
    pub name: String,
    /// The role that signs in.
    pub user: String,
    /// Its password.
    pub password: Password,
    /// The name under which `pg_stat_activity` lists the connection.
    pub application_name: String,
    /// Settings of the session, as `-c name=value -c ...`.
    pub options: String,
    /// How the connection is encrypted.
    pub tls: TlsConfig,
}

/// A password. `Debug` does not print it.
#[derive(Clone, Default)]
pub struct Password(String);

impl Password {
    /// The password itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Password {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Password {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The encryption of connections. The files are PEM, and are read by [`Connector::new`](crate::Connector::new).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Whether to encrypt, and what to verify.
    pub mode: TlsMode,
    /// The trusted certificate authorities; `None` for those of the system.
    pub ca_file: Option<PathBuf>,
    /// The client's certificate chain, for servers that ask for one.
    pub certificate_file: Option<PathBuf>,
    /// The private key of the client's certificate.
    pub key_file: Option<PathBuf>,
}

/// Whether to encrypt, and what to verify. No mode falls back to plain text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// Plain text.
    #[default]
    Off,
    /// Encrypted. With a CA file, one of its authorities must have issued the server's certificate.
    /// The host name is not compared. Without a CA file, any certificate is accepted.
    /// These are the rules of libpq's `sslmode=require`.
    Require,
    /// Encrypted. A trusted authority must have issued the server's certificate, and it must name the host.
    VerifyFull,
}

/// The text is not a [`TlsMode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be off, require or verify-full")]
pub struct UnknownTlsMode;

impl FromStr for TlsMode {
    type Err = UnknownTlsMode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            "verify-full" => Ok(Self::VerifyFull),
            _ => Err(UnknownTlsMode),
        }
    }
}

impl fmt::Display for TlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Require => "require",
            Self::VerifyFull => "verify-full",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_modes_read_as_they_are_written() {
        for mode in [TlsMode::Off, TlsMode::Require, TlsMode::VerifyFull] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert_eq!("prefer".parse::<TlsMode>(), Err(UnknownTlsMode));
    }

    #[test]
    fn a_password_is_not_printed() {
        assert_eq!(format!("{:?}", Password::from("secret")), "***");
    }
}

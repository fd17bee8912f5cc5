//! The TLS client: rustls with aws-lc-rs. No mode falls back to plain text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::{Causes, TlsConfig, TlsMode};

/// Invalid TLS settings.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM of the expected kind.
    #[error("{path} cannot be read as {what}")]
    File {
        /// The path of the file.
        path: PathBuf,
        /// The expected content.
        what: &'static str,
        /// The error of the parser.
        #[source]
        source: pem::Error,
    },
    /// A certificate file without certificates.
    #[error("{0} holds no certificate")]
    NoCertificate(PathBuf),
    /// A client certificate without its key, or a key without its certificate.
    #[error("a client certificate and its key go together; set both or neither")]
    Incomplete,
    /// No file of certificate authorities is configured, and the system has none.
    #[error("the system has no certificate authorities; name a file of them")]
    NoSystemAuthorities,
    /// The certificate does not match the key, or an authority is malformed.
    #[error("the certificates cannot be used")]
    Rustls(#[from] rustls::Error),
}

/// The TLS client for these settings. With [`TlsMode::Off`] no file is read, and the result is not used.
pub(crate) fn client(config: &TlsConfig) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let builder = match (config.mode, &config.ca_file) {
        (TlsMode::Off, _) => {
            return Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth());
        }
        (TlsMode::VerifyFull, Some(file)) => builder.with_root_certificates(authorities(file)?),
        (TlsMode::VerifyFull, None) => builder.with_root_certificates(system_authorities()?),
        (TlsMode::Require, file) => {
            let authorities = file.as_deref().map(authorities).transpose()?;
            let verifier = Arc::new(AnyServerName { authorities, provider });
            builder.dangerous().with_custom_certificate_verifier(verifier)
        }
    };
    match (&config.certificate_file, &config.key_file) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key, "a private key"))?;
            Ok(builder.with_client_auth_cert(certificates(certificate)?, key)?)
        }
        (None, None) => Ok(builder.with_no_client_auth()),
        _ => Err(TlsError::Incomplete),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = || unreadable(path, "certificates");
    let read: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(unreadable())?.collect();
    let certificates = read.map_err(unreadable())?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(certificates) }
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        store.add(certificate)?;
    }
    Ok(store)
}

fn system_authorities() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(error = %Causes(error), "some of the system's certificate authorities cannot be read");
    }
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() { Err(TlsError::NoSystemAuthorities) } else { Ok(store) }
}

fn unreadable(path: &Path, what: &'static str) -> impl FnOnce(pem::Error) -> TlsError {
    move |source| TlsError::File { path: path.to_owned(), what, source }
}

/// The verifier of the mode `require`: checks the chain if authorities are configured, but not the host name.
#[derive(Debug)]
struct AnyServerName {
    authorities: Option<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyServerName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(authorities) = &self.authorities {
            let algorithms = self.provider.signature_verification_algorithms.all;
            let certificate = ParsedCertificate::try_from(end_entity)?;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                authorities,
                intermediates,
                now,
                algorithms,
            )?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

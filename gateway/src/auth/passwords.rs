//! Passwords: the rule for new ones, and their Argon2id hashes (RFC 9106) as PHC strings. Hashes are computed on
//! blocking threads that tenants share fairly.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use argon2::password_hash::phc::{Output, ParamsString, PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use bytes::Bytes;
use fairness::{Limits, WorkError, Workers};
use rand::Rng;
use schemas::engine::{InvalidValue, TenantId};
use unicode_normalization::UnicodeNormalization;

const HASH_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// Maximum length of a password in bytes. A longer one never matches; see [`Password::for_sign_in`].
const PASSWORD_BYTES_MAX: usize = 512;

/// The cost of a hash, and the limits of the pool that computes hashes.
#[derive(Debug, Clone)]
pub struct HashingConfig {
    /// Work memory of one hash in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub iterations: u32,
    /// Hashes computed at a time, each on a thread. With two or more, one tenant uses at most half of them, and one is
    /// reserved for tenants that use none.
    pub threads: usize,
    /// Maximum queued hashes of one tenant. A further request gets 503.
    pub max_queued_per_tenant: usize,
    /// Maximum wait for a thread. A request that waits longer gets 503.
    pub max_wait: Duration,
}

/// A password of 8 to 128 characters and at most 512 bytes. Its debug output hides the text.
#[derive(Clone)]
pub struct Password(Arc<str>);

impl Password {
    /// Checks the rule for new passwords.
    ///
    /// # Errors
    /// `password_too_short` or `password_too_long`.
    pub fn parse(text: &str) -> Result<Self, InvalidValue> {
        if text.len() > PASSWORD_BYTES_MAX {
            return Err(InvalidValue::new("password_too_long", "must have at most 128 characters"));
        }
        let text = &*normalised(text);
        let characters = text.chars().count();
        if characters < 8 {
            return Err(InvalidValue::new("password_too_short", "must have at least 8 characters"));
        }
        if characters > 128 || text.len() > PASSWORD_BYTES_MAX {
            return Err(InvalidValue::new("password_too_long", "must have at most 128 characters"));
        }
        Ok(Self(text.into()))
    }

    /// A password that a user enters to sign in. Any text is accepted. A text that is too long for every rule is cut to
    /// one byte above the maximum: it then costs as much as any other attempt and never matches.
    pub fn for_sign_in(text: &str) -> Self {
        let mut end = text.len().min(PASSWORD_BYTES_MAX + 1);
        while !text.is_char_boundary(end) {
            end += 1;
        }
        Self(normalised(&text[..end]).into())
    }
}

/// Normalises the text to NFKC, so that different encodings of the same characters match (NIST SP 800-63B, section
/// 3.1.1.2).
fn normalised(text: &str) -> String {
    text.nfkc().collect()
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Why a password was not hashed or verified.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The queue is full, or no thread was free in time.
    #[error("password hashing is overloaded")]
    Overloaded(#[source] WorkError),
    /// A stored hash is not a PHC string of this product.
    #[error("stored password hash is malformed")]
    Malformed,
    /// Argon2 does not accept the configured cost.
    #[error("argon2 refuses its settings")]
    Settings(#[source] argon2::Error),
}

/// Hashes and verifies passwords. Cheap to clone.
#[derive(Clone)]
pub struct Passwords {
    workers: Workers<TenantId, Vec<Block>>,
    params: Params,
    dummy_hash: Arc<str>,
}

impl Passwords {
    /// Checks the settings and starts the threads.
    ///
    /// # Errors
    /// [`PasswordError::Settings`] when Argon2 does not accept the cost.
    pub fn start(config: &HashingConfig) -> Result<Self, PasswordError> {
        let params = Params::new(config.memory_kib, config.iterations, 1, Some(HASH_BYTES))
            .map_err(PasswordError::Settings)?;
        let workers =
            Workers::new(Limits::half_per_key(config.threads, config.max_queued_per_tenant), config.max_wait);
        // A random hash that no password matches.
        let dummy_hash = encode(&params, &random::<SALT_BYTES>(), &random::<HASH_BYTES>())?.into();
        Ok(Self { workers, params, dummy_hash })
    }

    /// Hashes a new password with a new salt. Returns a PHC string. `tenant` is used for the fair queue.
    ///
    /// # Errors
    /// [`PasswordError::Overloaded`] when the tenant's queue is full, or no thread is free in time.
    pub async fn hash(&self, tenant: TenantId, password: Password) -> Result<Bytes, PasswordError> {
        let params = self.params.clone();
        let hashed = self
            .workers
            .run(tenant, move |memory| {
                let salt = random::<SALT_BYTES>();
                let output = digest(&params, &password, &salt, memory)?;
                encode(&params, &salt, &output)
            })
            .await;
        hashed.map_err(PasswordError::Overloaded)?.map(Bytes::from)
    }

    /// Whether the password matches the hash. Without a hash (no user has the address) it verifies a dummy hash, so
    /// that the response time does not reveal which addresses exist.
    ///
    /// # Errors
    /// [`PasswordError::Overloaded`] when the tenant's queue is full, or no thread is free in time.
    /// [`PasswordError::Malformed`] when the stored hash is not an Argon2id hash of this product.
    pub async fn verify(
        &self,
        tenant: TenantId,
        password: Password,
        hash: Option<&[u8]>,
    ) -> Result<bool, PasswordError> {
        let stored = match hash {
            Some(hash) => Arc::from(std::str::from_utf8(hash).map_err(|_| PasswordError::Malformed)?),
            None => self.dummy_hash.clone(),
        };
        let compared = self.workers.run(tenant, move |memory| compare(&stored, &password, memory)).await;
        compared.map_err(PasswordError::Overloaded)?
    }
}

fn compare(stored: &str, password: &Password, memory: &mut Vec<Block>) -> Result<bool, PasswordError> {
    let parsed = PasswordHash::new(stored).map_err(|_| PasswordError::Malformed)?;
    let params = Params::try_from(&parsed).map_err(|_| PasswordError::Malformed)?;
    let (Some(salt), Some(expected)) = (parsed.salt, parsed.hash) else {
        return Err(PasswordError::Malformed);
    };
    if parsed.algorithm != Algorithm::Argon2id.ident() || expected.len() != HASH_BYTES {
        return Err(PasswordError::Malformed);
    }
    let output = digest(&params, password, &salt, memory)?;
    let equal = aws_lc_rs::constant_time::verify_slices_are_equal(&output, expected.as_bytes()).is_ok();
    Ok(equal && password.0.len() <= PASSWORD_BYTES_MAX)
}

fn digest(
    params: &Params,
    password: &Password,
    salt: &[u8],
    memory: &mut Vec<Block>,
) -> Result<[u8; HASH_BYTES], PasswordError> {
    // The memory is reused between hashes: new pages for each hash cost a tenth of its time.
    if memory.len() < params.block_count() {
        memory.resize(params.block_count(), Block::default());
    }
    let mut output = [0; HASH_BYTES];
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params.clone())
        .hash_password_into_with_memory(password.0.as_bytes(), salt, &mut output, memory)
        .map_err(PasswordError::Settings)?;
    Ok(output)
}

fn encode(params: &Params, salt: &[u8], output: &[u8]) -> Result<String, PasswordError> {
    let encoded = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(params).map_err(|_| PasswordError::Malformed)?,
        salt: Some(Salt::new(salt).map_err(|_| PasswordError::Malformed)?),
        hash: Some(Output::new(output).map_err(|_| PasswordError::Malformed)?),
    };
    Ok(encoded.to_string())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::rng().fill_bytes(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use uuid::Uuid;

    use super::*;

    const TENANT: TenantId = TenantId(Uuid::from_u128(1));
    const OTHER: TenantId = TenantId(Uuid::from_u128(2));

    fn test_config() -> HashingConfig {
        HashingConfig {
            memory_kib: 64,
            iterations: 2,
            threads: 1,
            max_queued_per_tenant: 2,
            max_wait: Duration::from_secs(3),
        }
    }

    fn password(text: &str) -> Password {
        Password::parse(text).expect("fits the rule")
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let passwords = Passwords::start(&test_config()).expect("threads");
        let hash = passwords.hash(TENANT, password("correct horse")).await.expect("hashed");
        assert!(hash.starts_with(b"$argon2id$v=19$m=64,t=2,p=1$"));
        assert!(passwords.verify(TENANT, password("correct horse"), Some(&hash)).await.expect("compared"));
        assert!(!passwords.verify(TENANT, password("wrong battery"), Some(&hash)).await.expect("compared"));
        assert!(!passwords.verify(TENANT, password("correct horse"), None).await.expect("compared"));
        assert!(passwords.verify(TENANT, password("correct horse"), Some(b"plain")).await.is_err());
    }

    #[tokio::test]
    async fn a_hash_of_another_cost_still_fits_and_reused_memory_changes_nothing() {
        let dear = Passwords::start(&HashingConfig { memory_kib: 256, iterations: 1, ..test_config() })
            .expect("threads");
        let cheap = Passwords::start(&test_config()).expect("threads");
        let hash = dear.hash(TENANT, password("correct horse")).await.expect("hashed");
        for _ in 0..3 {
            assert!(cheap.verify(TENANT, password("correct horse"), Some(&hash)).await.expect("compared"));
            cheap.hash(TENANT, password("something else")).await.expect("hashed");
        }
        // The verifier of the argon2 library must agree.
        let text = std::str::from_utf8(&hash).expect("text");
        let parsed = PasswordHash::new(text).expect("a PHC string");
        argon2::PasswordVerifier::verify_password(&Argon2::default(), b"correct horse", &parsed)
            .expect("fits");
    }

    #[tokio::test]
    async fn waiting_is_bounded_for_each_tenant() {
        let passwords = Passwords::start(&test_config()).expect("valid settings");
        let flood = join_all((0..20).map(|_| passwords.hash(TENANT, password("correct horse"))));
        let other = join_all((0..2).map(|_| passwords.hash(OTHER, password("correct horse"))));
        let (flood, other) = futures::join!(flood, other);
        let refused =
            flood.iter().filter(|hashed| matches!(hashed, Err(PasswordError::Overloaded(_)))).count();
        assert!(refused > 0, "twenty at once do not fit one thread and a queue of two");
        assert!(other.iter().all(Result::is_ok), "the queue of one tenant is not another's");
    }

    #[test]
    fn a_password_has_eight_to_128_characters_and_never_shows() {
        for bad in ["short", "1234567", &"x".repeat(129), &"😀".repeat(129)] {
            assert!(Password::parse(bad).is_err(), "{bad}");
        }
        for good in ["12345678", &"x".repeat(128), &"😀".repeat(128), "pass word with spaces"] {
            assert!(Password::parse(good).is_ok(), "{good}");
        }
        assert_eq!(format!("{:?}", password("correct horse")), "Password(..)");
    }

    #[tokio::test]
    async fn a_cut_attempt_is_never_right() {
        let passwords = Passwords::start(&test_config()).expect("threads");
        let longest = "x".repeat(PASSWORD_BYTES_MAX + 1);
        let hash = passwords.hash(TENANT, Password(longest.as_str().into())).await.expect("hashed");
        let attempt = Password::for_sign_in(&"x".repeat(10_000));
        assert!(!passwords.verify(TENANT, attempt, Some(&hash)).await.expect("compared"));
    }
}

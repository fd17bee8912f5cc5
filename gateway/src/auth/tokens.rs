//! Access tokens: JWT (RFC 7519) signed with Ed25519, short-lived, verified without a database.
//!
//! A token says what was true when it was issued: a user who is deactivated, or whose roles change, keeps what the token
//! says until it expires. The lifetime (15 minutes by default) bounds that; nobody signs in anew meanwhile.

use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use aws_lc_rs::digest;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Header, Validation};
use moka::sync::Cache;
use schemas::engine::{TenantId, TenantSlug, clock, ids};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::Tier;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::keys::SigningKey;

/// Tokens verified a moment ago are known for at most so long.
const VERIFIED_TOKENS_TTL: Duration = Duration::from_mins(1);
const VERIFIED_TOKENS_CAPACITY: u64 = 100_000;
/// Far above what the product issues, far below what hurts to hash.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Which of the product's doors a token opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// The public listener.
    #[serde(rename = "annals")]
    Public,
    /// The admin listener.
    #[serde(rename = "annals-operations")]
    Operations,
}

/// What a token says: who, in which tenant, with which rights, for which doors.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are the claims")]
pub struct Grant {
    pub user_id: Uuid,
    pub tenant: TenantId,
    pub tenant_slug: TenantSlug,
    pub tier: Tier,
    pub email: String,
    pub name: String,
    pub roles: Vec<Role>,
    pub audiences: Vec<Audience>,
}

impl Grant {
    /// The scopes that the roles bring, each once.
    pub fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = self.roles.iter().flat_map(|role| role.scopes()).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// What a service's token says. The token follows from it: the same grant gives the same token.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "the fields are the claims")]
pub struct ServiceGrant {
    pub id: Uuid,
    pub tenant: TenantId,
    pub tenant_slug: TenantSlug,
    pub tier: Tier,
    pub name: String,
    pub scopes: Vec<Scope>,
    pub issued_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
}

/// A token as it stands in a login's answer.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token itself.
    pub access_token: String,
    /// How long it is good for.
    pub expires_in: Duration,
}

/// The claims of a token that has been verified.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the claims are those of RFC 7519 and of the public contract")]
pub struct Claims {
    pub iss: String,
    pub aud: Vec<Audience>,
    pub sub: Uuid,
    pub tid: TenantId,
    pub tenant: TenantSlug,
    pub email: String,
    pub name: String,
    pub roles: Vec<Role>,
    #[serde(deserialize_with = "known_scopes")]
    pub scopes: Vec<Scope>,
    pub subscription_tier: Tier,
    pub iat: i64,
    pub exp: i64,
    pub jti: Uuid,
}

impl Claims {
    /// Whether they are a service's or an auditor's token, which is issued for months and may be taken back; its id is
    /// that of its stream. A user's has an id of its own.
    pub fn is_service(&self) -> bool {
        self.jti == self.sub
    }

    /// Who calls with the token, and with which rights.
    pub fn principal(&self) -> Principal {
        let scopes = self.scopes.clone();
        if self.is_service() {
            Principal::Service { id: self.sub, scopes }
        } else {
            Principal::User { id: self.sub, roles: self.roles.clone(), scopes }
        }
    }

    /// When the token ends.
    pub fn expires_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// The scopes that this program knows. A newer one may have issued others, which give no right here.
fn known_scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Scope>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().filter_map(|name| Scope::parse(name).ok()).collect())
}

/// Why a token is not accepted. Clients see one answer for all of these.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not one of ours, or changed on the way.
    #[error("token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Longer than any token of ours.
    #[error("token is too long")]
    TooLong,
    /// Its time is over.
    #[error("token has expired")]
    Expired,
    /// It opens another door.
    #[error("token is for another audience")]
    Audience,
}

/// Issues tokens and verifies them.
pub struct Tokens {
    key: SigningKey,
    issuer: String,
    lifetime: Duration,
    validation: Validation,
    verified: Cache<[u8; 32], Arc<Claims>>,
}

impl Tokens {
    /// Tokens of this issuer, signed with this key, good for `lifetime`.
    pub fn new(key: SigningKey, issuer: String, lifetime: Duration) -> Self {
        // The algorithm is pinned: whatever the token's header says, anything but EdDSA is refused. Expiry and audience
        // are checked below, on our own clock and also for tokens that the cache knows.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[&issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let verified =
            Cache::builder().max_capacity(VERIFIED_TOKENS_CAPACITY).time_to_live(VERIFIED_TOKENS_TTL).build();
        Self { key, issuer, lifetime, validation, verified }
    }

    /// A token with the usual lifetime.
    pub fn issue(&self, grant: &Grant) -> Result<IssuedToken, TokenError> {
        self.issue_for(grant, self.lifetime)
    }

    /// A token with a lifetime of its own, as `annals dev` prints one.
    pub fn issue_for(&self, grant: &Grant, lifetime: Duration) -> Result<IssuedToken, TokenError> {
        let now = clock::now().timestamp();
        let claims = Claims {
            iss: self.issuer.clone(),
            aud: grant.audiences.clone(),
            sub: grant.user_id,
            tid: grant.tenant,
            tenant: grant.tenant_slug.clone(),
            email: grant.email.clone(),
            name: grant.name.clone(),
            roles: grant.roles.clone(),
            scopes: grant.scopes(),
            subscription_tier: grant.tier,
            iat: now,
            exp: now + lifetime.as_secs() as i64,
            jti: ids::random_id(),
        };
        Ok(IssuedToken { access_token: self.sign(&claims)?, expires_in: lifetime })
    }

    /// A service's token, for the public listener. One that reads what auditors read is an auditor's, so that its accesses
    /// are recorded.
    pub fn issue_service(&self, grant: &ServiceGrant) -> Result<String, TokenError> {
        let audits = grant.scopes.contains(&Scope::AuditRead);
        self.sign(&Claims {
            iss: self.issuer.clone(),
            aud: vec![Audience::Public],
            sub: grant.id,
            tid: grant.tenant,
            tenant: grant.tenant_slug.clone(),
            email: String::new(),
            name: grant.name.clone(),
            roles: vec![if audits { Role::Auditor } else { Role::Integrator }],
            scopes: grant.scopes.clone(),
            subscription_tier: grant.tier,
            iat: grant.issued_at.timestamp(),
            exp: grant.expires_at.timestamp(),
            jti: grant.id,
        })
    }

    fn sign(&self, claims: &Claims) -> Result<String, TokenError> {
        let header = Header { kid: Some(self.key.id.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.key.private).map_err(TokenError::Invalid)
    }

    /// The claims of a token that is ours, unchanged, in time and for this door.
    pub fn verify(&self, token: &str, audience: Audience) -> Result<Arc<Claims>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let mut token_digest = [0; 32];
        token_digest.copy_from_slice(digest::digest(&digest::SHA256, token.as_bytes()).as_ref());
        let claims = if let Some(claims) = self.verified.get(&token_digest) {
            claims
        } else {
            let decoded = jsonwebtoken::decode::<Claims>(token, &self.key.public, &self.validation)
                .map_err(TokenError::Invalid)?;
            Arc::new(decoded.claims)
        };
        if claims.expires_at() <= clock::now() {
            return Err(TokenError::Expired);
        }
        if !claims.aud.contains(&audience) {
            return Err(TokenError::Audience);
        }
        self.verified.insert(token_digest, claims.clone());
        Ok(claims)
    }

    /// The public keys with which others verify tokens.
    pub fn jwks(&self) -> serde_json::Value {
        self.key.jwks()
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::EncodingKey;
    use schemas::engine::ids::PLATFORM;
    use serde_json::json;

    use super::*;

    const ISSUER: &str = "annals-test";

    fn tokens() -> Tokens {
        let key = SigningKey::from_pem(&SigningKey::generate_pem().expect("a key")).expect("readable");
        Tokens::new(key, ISSUER.to_owned(), Duration::from_mins(15))
    }

    fn grant() -> Grant {
        Grant {
            user_id: ids::new_id(),
            tenant: PLATFORM,
            tenant_slug: TenantSlug::parse("demo").expect("valid"),
            tier: Tier::Free,
            email: "ada@example.com".to_owned(),
            name: "Ada".to_owned(),
            roles: vec![Role::TenantAdmin, Role::Member],
            audiences: vec![Audience::Public],
        }
    }

    #[test]
    fn a_token_says_what_it_was_issued_for() {
        let tokens = tokens();
        let grant = grant();
        let issued = tokens.issue(&grant).expect("signed");
        for _ in 0..2 {
            let claims = tokens.verify(&issued.access_token, Audience::Public).expect("ours");
            assert_eq!((claims.sub, claims.tid, &claims.roles), (grant.user_id, grant.tenant, &grant.roles));
            assert_eq!(claims.scopes, grant.scopes());
            assert_eq!(claims.exp - claims.iat, 900);
            assert!(!claims.is_service());
        }
    }

    #[test]
    fn a_service_has_its_scopes_and_no_others_and_its_token_comes_out_the_same_again() {
        let tokens = tokens();
        let now = clock::now();
        let grant = ServiceGrant {
            id: ids::new_id(),
            tenant: PLATFORM,
            tenant_slug: TenantSlug::parse("demo").expect("valid"),
            tier: Tier::Free,
            name: "loyalty".to_owned(),
            scopes: vec![Scope::EventsRead],
            issued_at: now,
            expires_at: now + chrono::Days::new(1),
        };
        let token = tokens.issue_service(&grant).expect("signed");
        assert_eq!(tokens.issue_service(&grant).expect("signed"), token);
        let claims = tokens.verify(&token, Audience::Public).expect("ours");
        assert_eq!((&claims.roles, &claims.scopes), (&vec![Role::Integrator], &grant.scopes));
        assert!(claims.is_service());
        assert!(tokens.verify(&token, Audience::Operations).is_err());
        let audits = ServiceGrant { scopes: vec![Scope::AuditRead], ..grant };
        let token = tokens.issue_service(&audits).expect("signed");
        let claims = tokens.verify(&token, Audience::Public).expect("ours");
        assert_eq!(claims.roles, [Role::Auditor]);
        assert!(claims.is_service());
    }

    #[test]
    fn an_expired_token_is_refused() {
        let tokens = tokens();
        let issued = tokens.issue_for(&grant(), Duration::ZERO).expect("signed");
        assert!(matches!(tokens.verify(&issued.access_token, Audience::Public), Err(TokenError::Expired)));
    }

    #[test]
    fn a_token_opens_its_own_door_only() {
        let tokens = tokens();
        let issued = tokens.issue(&grant()).expect("signed");
        for _ in 0..2 {
            let refused = tokens.verify(&issued.access_token, Audience::Operations);
            assert!(matches!(refused, Err(TokenError::Audience)));
            assert!(tokens.verify(&issued.access_token, Audience::Public).is_ok());
        }
    }

    #[test]
    fn foreign_and_changed_tokens_are_refused() {
        let (ours, theirs) = (tokens(), tokens());
        let foreign = theirs.issue(&grant()).expect("signed").access_token;
        assert!(ours.verify(&foreign, Audience::Public).is_err());

        let token = ours.issue(&grant()).expect("signed").access_token;
        let mut parts: Vec<&str> = token.split('.').collect();
        let theirs_claims: Vec<&str> = foreign.split('.').collect();
        parts[1] = theirs_claims[1];
        assert!(ours.verify(&parts.join("."), Audience::Public).is_err());
        for bad in ["", "a.b.c", &token[..token.len() - 4], &"x".repeat(TOKEN_BYTES_MAX + 1)] {
            assert!(ours.verify(bad, Audience::Public).is_err());
        }
    }

    #[test]
    fn another_algorithm_or_issuer_is_refused_even_with_right_claims() {
        let tokens = tokens();
        let token = tokens.issue(&grant()).expect("signed").access_token;
        let claims = tokens.verify(&token, Audience::Public).expect("ours");

        // The public key taken for a shared secret is the classic forgery.
        let x = tokens.jwks()["keys"][0]["x"].as_str().expect("text").to_owned();
        let forged = jsonwebtoken::encode(
            &Header::new(Algorithm::HS256),
            &*claims,
            &EncodingKey::from_secret(x.as_bytes()),
        )
        .expect("encoded");
        assert!(tokens.verify(&forged, Audience::Public).is_err());

        let unsigned = {
            use base64::Engine;
            let encode = |value: serde_json::Value| {
                base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(value.to_string())
            };
            format!("{}.{}.", encode(json!({"alg": "none"})), encode(json!(&*claims)))
        };
        assert!(tokens.verify(&unsigned, Audience::Public).is_err());

        let elsewhere = Claims { iss: "elsewhere".to_owned(), ..(*claims).clone() };
        let foreign = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &elsewhere, &tokens.key.private)
            .expect("encoded");
        assert!(tokens.verify(&foreign, Audience::Public).is_err());
    }
}

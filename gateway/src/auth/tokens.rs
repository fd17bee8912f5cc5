//! Access tokens: JWTs (RFC 7519), signed with Ed25519, short-lived, verified without a database.
//!
//! A token holds what was true when it was issued. When a user is deactivated or gets other roles, its tokens keep the
//! old rights until they expire. The lifetime (15 minutes by default) limits that.

use std::sync::Arc;
use std::time::Duration;

use access::Principal;
use chrono::{DateTime, Utc};
use jsonwebtoken::{Algorithm, Header, Validation};
use schemas::engine::{TenantId, TenantSlug, clock, ids};
use schemas::identity::role::Role;
use schemas::identity::scope::Scope;
use schemas::identity::tenant::Tier;
use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

use super::keys::SigningKey;
use super::verified_tokens::{TokenDigest, VerifiedTokens};

/// Maximum length of a token in bytes. The product issues shorter ones, and hashing this much is cheap.
const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// The listener that a token is valid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// The public listener.
    #[serde(rename = "annals")]
    Public,
    /// The admin listener.
    #[serde(rename = "annals-operations")]
    Operations,
}

/// The content of a user's token.
#[derive(Debug, Clone, PartialEq)]
pub struct Grant {
    /// The user's id.
    pub user_id: Uuid,
    /// The id of the user's tenant.
    pub tenant: TenantId,
    /// The slug of the tenant.
    pub tenant_slug: TenantSlug,
    /// The tier that the tenant pays for.
    pub tier: Tier,
    /// The user's e-mail address.
    pub email: String,
    /// The user's name.
    pub name: String,
    /// The user's roles. The scopes follow from them.
    pub roles: Vec<Role>,
    /// The listeners that the token is valid for.
    pub audiences: Vec<Audience>,
}

impl Grant {
    /// The scopes of all roles, sorted and without duplicates.
    pub fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = self.roles.iter().flat_map(|role| role.scopes()).cloned().collect();
        scopes.sort_unstable();
        scopes.dedup();
        scopes
    }
}

/// The content of a service's token. The same grant always gives the same token.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceGrant {
    /// The id of the token and of its stream.
    pub id: Uuid,
    /// The id of the tenant.
    pub tenant: TenantId,
    /// The slug of the tenant.
    pub tenant_slug: TenantSlug,
    /// The tier that the tenant pays for.
    pub tier: Tier,
    /// The service's name.
    pub name: String,
    /// The scopes of the service.
    pub scopes: Vec<Scope>,
    /// When it was issued; the claim has whole seconds.
    pub issued_at: DateTime<Utc>,
    /// When it expires; the claim has whole seconds.
    pub expires_at: DateTime<Utc>,
}

/// A token as a login returns it.
#[derive(Debug, Clone)]
pub struct IssuedToken {
    /// The token itself.
    pub access_token: String,
    /// Its lifetime.
    pub expires_in: Duration,
}

/// The claims of a verified token.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claims {
    /// The issuer.
    pub iss: String,
    /// The listeners that the token is valid for.
    pub aud: Vec<Audience>,
    /// The id of the user or of the service's token.
    pub sub: Uuid,
    /// The id of the tenant.
    pub tid: TenantId,
    /// The slug of the tenant.
    pub tenant: TenantSlug,
    /// The e-mail address; empty for a service.
    pub email: String,
    /// The name of the user or the service.
    pub name: String,
    /// The roles.
    pub roles: Vec<Role>,
    /// The scopes that this version of the product knows.
    #[serde(deserialize_with = "known_scopes")]
    pub scopes: Vec<Scope>,
    /// The tier that the tenant pays for.
    pub subscription_tier: Tier,
    /// When it was issued, in seconds since the Unix epoch.
    pub iat: i64,
    /// When it expires, in seconds since the Unix epoch.
    pub exp: i64,
    /// The id of the token.
    pub jti: Uuid,
}

impl Claims {
    /// Whether the token belongs to a service or an auditor. Such a token is valid for months and can be revoked. Its
    /// id is the id of its stream.
    pub fn is_service(&self) -> bool {
        self.jti == self.sub
    }

    /// The caller with its rights.
    pub fn principal(&self) -> Principal {
        let scopes = self.scopes.clone();
        if self.is_service() {
            Principal::Service { id: self.sub, scopes }
        } else {
            Principal::User { id: self.sub, roles: self.roles.clone(), scopes }
        }
    }

    /// When the token expires.
    pub fn expires_at(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.exp, 0).unwrap_or(DateTime::<Utc>::MIN_UTC)
    }
}

/// Drops unknown scopes. A newer version of the product may have issued them; they give no rights here.
fn known_scopes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Scope>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    Ok(names.iter().filter_map(|name| Scope::parse(name).ok()).collect())
}

/// Why a token is refused. Clients get the same answer for all reasons.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The signature or the format is wrong.
    #[error("token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Longer than `TOKEN_BYTES_MAX`.
    #[error("token is too long")]
    TooLong,
    /// The token has expired.
    #[error("token has expired")]
    Expired,
    /// The token is for another listener.
    #[error("token is for another audience")]
    Audience,
}

/// Issues and verifies tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<TokensState>);

struct TokensState {
    key: SigningKey,
    issuer: String,
    lifetime: Duration,
    validation: Validation,
    /// Those of this key and issuer: another key has another cache.
    verified: VerifiedTokens,
}

impl Tokens {
    /// `issuer` is the claim `iss`; `lifetime` is the usual lifetime of a token.
    pub fn new(key: SigningKey, issuer: String, lifetime: Duration) -> Self {
        // The algorithm is fixed: a token whose header names another one than EdDSA is refused. Expiry and audience are
        // checked in `verify`, because that check also covers cached tokens and uses the product's clock.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.set_issuer(&[&issuer]);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        let verified = VerifiedTokens::new();
        Self(Arc::new(TokensState { key, issuer, lifetime, validation, verified }))
    }

    /// Issues a token with the usual lifetime.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the claims cannot be signed.
    pub fn issue(&self, grant: &Grant) -> Result<IssuedToken, TokenError> {
        self.issue_for(grant, self.0.lifetime)
    }

    /// Issues a token with another lifetime, for example for `annals dev`.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the claims cannot be signed.
    pub fn issue_for(&self, grant: &Grant, lifetime: Duration) -> Result<IssuedToken, TokenError> {
        let now = clock::now().timestamp();
        let claims = Claims {
            iss: self.0.issuer.clone(),
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

    /// Issues a service's token for the public listener. A token with scopes of auditors gets the role auditor, so that
    /// its reads are recorded.
    ///
    /// # Errors
    /// [`TokenError::Invalid`] when the claims cannot be signed.
    pub fn issue_service(&self, grant: &ServiceGrant) -> Result<String, TokenError> {
        let audits = grant.scopes.contains(&Scope::AuditRead);
        self.sign(&Claims {
            iss: self.0.issuer.clone(),
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
        let header = Header { kid: Some(self.0.key.id.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, claims, &self.0.key.private).map_err(TokenError::Invalid)
    }

    /// Verifies a token and returns its claims.
    ///
    /// # Errors
    /// [`TokenError`] when the token is invalid, has expired or is for another audience.
    pub fn verify(&self, token: &str, audience: Audience) -> Result<Arc<Claims>, TokenError> {
        self.verify_at(token, audience, clock::now())
    }

    fn verify_at(
        &self,
        token: &str,
        audience: Audience,
        now: DateTime<Utc>,
    ) -> Result<Arc<Claims>, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::TooLong);
        }
        let digest = TokenDigest::of(token);
        let known = self.0.verified.get(&digest);
        let is_known = known.is_some();
        let claims = if let Some(claims) = known {
            claims
        } else {
            let decoded = jsonwebtoken::decode::<Claims>(token, &self.0.key.public, &self.0.validation)
                .map_err(TokenError::Invalid)?;
            Arc::new(decoded.claims)
        };
        // Also for a known token: it may have expired since, and another listener may have verified it.
        if claims.expires_at() <= now {
            return Err(TokenError::Expired);
        }
        if !claims.aud.contains(&audience) {
            return Err(TokenError::Audience);
        }
        if !is_known {
            self.0.verified.insert(digest, token.len(), &claims);
        }
        Ok(claims)
    }

    /// The public keys that other programs use to verify tokens.
    pub fn jwks(&self) -> serde_json::Value {
        self.0.key.jwks()
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
    fn a_known_token_is_refused_once_it_has_expired() {
        let tokens = tokens();
        let token = tokens.issue(&grant()).expect("signed").access_token;
        let claims = tokens.verify(&token, Audience::Public).expect("ours");
        assert!(tokens.0.verified.get(&TokenDigest::of(&token)).is_some());
        let verify_at = |now| tokens.verify_at(&token, Audience::Public, now);
        let end = claims.expires_at();
        assert_eq!(*verify_at(end - chrono::TimeDelta::milliseconds(1)).expect("valid"), *claims);
        assert!(matches!(verify_at(end), Err(TokenError::Expired)));
    }

    #[test]
    fn another_key_or_issuer_knows_no_token_of_this_one() {
        let pem = SigningKey::generate_pem().expect("a key");
        let with = |pem: &str, issuer: &str| {
            let key = SigningKey::from_pem(pem).expect("readable");
            Tokens::new(key, issuer.to_owned(), Duration::from_mins(15))
        };
        let before = with(&pem, ISSUER);
        let token = before.issue(&grant()).expect("signed").access_token;
        before.verify(&token, Audience::Public).expect("ours");
        assert!(
            with(&SigningKey::generate_pem().expect("a key"), ISSUER)
                .verify(&token, Audience::Public)
                .is_err()
        );
        assert!(with(&pem, "elsewhere").verify(&token, Audience::Public).is_err());
        assert!(with(&pem, ISSUER).verify(&token, Audience::Public).is_ok());
    }

    #[test]
    fn refused_tokens_are_not_kept() {
        let (ours, theirs) = (tokens(), tokens());
        let foreign = theirs.issue(&grant()).expect("signed").access_token;
        let expired = ours.issue_for(&grant(), Duration::ZERO).expect("signed").access_token;
        for token in [foreign, expired, "a.b.c".to_owned()] {
            assert!(ours.verify(&token, Audience::Public).is_err());
            assert!(ours.0.verified.get(&TokenDigest::of(&token)).is_none());
        }
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

        // The classic forgery signs with the public key as if it were a shared secret.
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
        let foreign = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &elsewhere, &tokens.0.key.private)
            .expect("encoded");
        assert!(tokens.verify(&foreign, Audience::Public).is_err());
    }
}

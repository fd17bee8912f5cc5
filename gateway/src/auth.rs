//! Authentication: passwords, signing keys, access tokens, and the caller of a request.

pub mod caller;
pub mod event_subscriber;
pub mod keys;
pub mod passwords;
pub mod service_tokens;
pub mod tickets;
pub mod tokens;
mod verified_tokens;

pub use caller::{Authenticator, Caller, Operator};
pub use event_subscriber::EventSubscriber;
pub use keys::{KeyError, SigningKey};
pub use passwords::{HashingConfig, Password, PasswordError, Passwords};
pub use service_tokens::ServiceTokens;
pub use tokens::{Audience, Claims, Grant, IssuedToken, ServiceGrant, TokenError, Tokens};

//! Who is asking: passwords, signing keys, access tokens, and the signed-in caller of a request.

pub mod caller;
pub mod keys;
pub mod passwords;
pub mod services;
pub mod tickets;
pub mod tokens;
pub mod watcher;

pub use caller::{Caller, Operator};
pub use keys::{KeyError, SigningKey};
pub use passwords::{HashingConfig, Password, PasswordError, Passwords};
pub use services::ServiceTokens;
pub use tokens::{Audience, Claims, Grant, Issued, ServiceGrant, TokenError, Tokens};
pub use watcher::Watcher;

//! The reasons for which the server ends a stream: stable codes for clients.

/// Why the server closes a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client read too slowly.
    SlowConsumer,
    /// The access token has expired.
    TokenExpired,
    /// The token was revoked.
    TokenRevoked,
    /// The tenant is suspended.
    TenantUnknown,
    /// The tenant's log was replaced. Positions of the old log are not valid in the new one.
    LogReplaced,
    /// This process stops. The client can connect to another one.
    Stopping,
    /// An internal error.
    Internal,
}

impl DisconnectReason {
    /// The code as text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowConsumer => "slow_consumer",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::TenantUnknown => "tenant_unknown",
            Self::LogReplaced => "log_replaced",
            Self::Stopping => "stopping",
            Self::Internal => "internal",
        }
    }

    /// The close code of a WebSocket (RFC 6455, section 7.4): a registered one where it fits, otherwise 4000 plus the
    /// HTTP status.
    pub fn websocket(self) -> u16 {
        match self {
            Self::SlowConsumer => 1013,
            Self::TokenExpired | Self::TokenRevoked => 4401,
            Self::TenantUnknown => 4404,
            Self::LogReplaced => 4410,
            Self::Stopping => 1012,
            Self::Internal => 1011,
        }
    }

    /// Whether the client can resume from the position that the stream has reached.
    pub fn resumes(self) -> bool {
        self != Self::LogReplaced
    }
}

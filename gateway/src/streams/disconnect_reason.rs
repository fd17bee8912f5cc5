//! Why a stream ends without its client having left: the stable codes that clients act on.

/// Why a stream is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// The client took what waited for it too slowly.
    SlowConsumer,
    /// The token that the stream was opened with has expired.
    TokenExpired,
    /// The token was taken back.
    TokenRevoked,
    /// The tenant is on hold.
    TenantUnknown,
    /// The tenant's log is another one: positions of the old one mean nothing in it.
    LogReplaced,
    /// This process stops; another one goes on.
    Stopping,
    /// A fault of ours.
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

    /// The close code of a WebSocket (RFC 6455, section 7.4): registered ones where they fit, else 4000 and the HTTP status.
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

    /// Whether the position that the stream had reached is of use to whoever comes back.
    pub fn resumes(self) -> bool {
        self != Self::LogReplaced
    }
}

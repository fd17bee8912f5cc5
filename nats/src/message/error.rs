//! Why a message of the stream is rejected.

/// Why a message is not accepted as one of the relay's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A header is missing.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header has an invalid value.
    #[error("header {0} does not read")]
    Invalid(&'static str),
    /// The subject does not match the tenant and type in the headers.
    #[error("the subject does not match the headers")]
    SubjectDiffers,
    /// The message has no MAC.
    #[error("there is no MAC")]
    NoMac,
    /// The MAC has an unknown version or key.
    #[error("the MAC is of an unknown version or key")]
    UnknownKey,
    /// The MAC does not match the message.
    #[error("the MAC is not that of the message")]
    MacDiffers,
    /// The headers are not in the format of NATS.
    #[error("the headers do not read")]
    Malformed,
}

impl MessageError {
    /// The value of the metric label `reason`.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Missing(_) | Self::Invalid(_) | Self::SubjectDiffers => "unreadable",
            Self::NoMac => "no_mac",
            Self::UnknownKey => "unknown_key",
            Self::MacDiffers => "mac_differs",
            Self::Malformed => "malformed",
        }
    }
}

//! The catalogue of error codes, with HTTP status, GraphQL code and title.

use std::fmt::Write;

/// The properties of one code.
struct Entry {
    code: &'static str,
    status: u16,
    title: &'static str,
    meaning: &'static str,
}

macro_rules! error_codes {
    ($($variant:ident = $code:literal, $status:literal, $title:literal, $meaning:literal;)+) => {
        /// The stable error code of a refused request or command. Clients act on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $(#[doc = $meaning] $variant,)+
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            fn entry(self) -> Entry {
                match self {
                    $(Self::$variant => {
                        Entry { code: $code, status: $status, title: $title, meaning: $meaning }
                    })+
                }
            }
        }
    };
}

error_codes! {
    BadRequest = "bad_request", 400, "Bad request",
        "The request is malformed, or names no tenant.";
    LimitExceeded = "limit_exceeded", 400, "Limit exceeded",
        "A GraphQL document is too deep, too large or asks for too much.";
    CursorInvalid = "cursor_invalid", 400, "Cursor not valid",
        "A cursor was not made by this list, or for another order.";
    ConsistencyTimeout = "consistency_timeout", 503, "Read model behind",
        "The read model did not reach the position of the consistency token in time.";
    Unauthenticated = "unauthenticated", 401, "Not signed in",
        "No access token, or one that is not accepted.";
    InvalidCredentials = "invalid_credentials", 401, "Wrong e-mail or password",
        "E-mail address and password do not belong to a user that may sign in.";
    Forbidden = "forbidden", 403, "Not allowed",
        "The caller lacks the role or scope.";
    TenantMismatch = "tenant_mismatch", 403, "Different tenants named",
        "Token, header and subdomain name different tenants.";
    ReservedContext = "reserved_context", 403, "Reserved context",
        "The name belongs to the product. Names of other services begin with `ext.`.";
    NotFound = "not_found", 404, "Not found",
        "There is nothing of this name in the tenant.";
    TenantUnknown = "tenant_unknown", 404, "Unknown tenant",
        "There is no such tenant, or it is suspended.";
    MethodNotAllowed = "method_not_allowed", 405, "Method not allowed",
        "The address exists, but not for this method.";
    RequestTimeout = "request_timeout", 408, "Request timeout",
        "The request line and header fields did not arrive in time.";
    EmailTaken = "email_taken", 409, "E-mail address taken",
        "Another user of the tenant has the address.";
    SlugTaken = "slug_taken", 409, "Tenant name taken",
        "Another tenant has, or had, the name.";
    NameTaken = "name_taken", 409, "Name taken",
        "Another entry of the list has the name.";
    ValueTaken = "value_taken", 409, "Value taken",
        "Another entry of the tenant has a value that must be unique.";
    VersionConflict = "version_conflict", 409, "Version conflict",
        "The aggregate or stream is at another version than expected. `actual_version` names it.";
    CommandIdReused = "command_id_reused", 409, "Idempotency key used before",
        "The idempotency key came with another request before.";
    AnswerExpired = "answer_expired", 409, "Answer expired",
        "The request was carried out before, and its answer, which held a secret, is kept no longer.";
    EventIdTaken = "event_id_taken", 409, "Event id used before",
        "An event of the tenant has the id.";
    EventTypeVersionGap = "event_type_version_gap", 409, "Not the next version",
        "The versions of an event type follow each other without a gap.";
    SchemaIncompatible = "schema_incompatible", 409, "A new version is needed",
        "The new schema refuses data that the one before took.";
    LogReplaced = "log_replaced", 410, "The log was replaced",
        "The position belongs to a log that another one has replaced.";
    TooLarge = "too_large", 413, "Too large",
        "The body, or an event, is larger than its limit.";
    UriTooLong = "uri_too_long", 414, "Address too long",
        "The address of the request is longer than its limit.";
    UnsupportedMediaType = "unsupported_media_type", 415, "Unsupported media type",
        "The body's content type, character set or encoding is not supported.";
    Invalid = "invalid", 422, "Invalid input",
        "Fields are missing, unknown or not valid, or a rule refused the command. `errors` lists the fields.";
    RateLimited = "rate_limited", 429, "Too many requests",
        "The caller has used up a limit. `Retry-After` says when to try again.";
    LockedOut = "locked_out", 429, "Locked out",
        "Too many failed sign-ins. `Retry-After` says when to try again.";
    HeadersTooLarge = "headers_too_large", 431, "Header fields too large",
        "The request line and header fields have more bytes or fields than their limit.";
    Internal = "internal", 500, "Internal error",
        "A fault of the server. Its log has the cause under the request id.";
    Unavailable = "unavailable", 503, "Temporarily unavailable",
        "A server that is needed does not answer, or too much waits. `Retry-After` says when to try again.";
    KeyMissing = "key_missing", 503, "Key missing",
        "A key of personal data is not in the key store although it was not destroyed. An operator must act.";
    UserExists = "user_exists", 422, "User exists",
        "The id belongs to a user already.";
    UserUnknown = "user_unknown", 422, "User unknown",
        "There is no such user.";
    UserDeactivated = "user_deactivated", 422, "User deactivated",
        "The user is deactivated.";
    UserErased = "user_erased", 422, "User erased",
        "The user is erased, or about to be.";
    RolesEmpty = "roles_empty", 422, "No roles",
        "A user has at least one role.";
    RoleNotAllowed = "role_not_allowed", 422, "Role not allowed",
        "The tenant does not have this role.";
    SelfAdminChange = "self_admin_change", 422, "Own administration",
        "An administrator is removed by another administrator only.";
    TenantExists = "tenant_exists", 422, "Tenant exists",
        "The id belongs to a tenant already.";
    SlugReserved = "slug_reserved", 422, "Slug reserved",
        "The name is reserved for the product.";
    CountryInvalid = "country_invalid", 422, "Country not valid",
        "A country has two upper-case letters (ISO 3166-1 alpha-2).";
    CustomerExists = "customer_exists", 422, "Customer exists",
        "The id belongs to a customer already.";
    CustomerUnknown = "customer_unknown", 422, "Customer unknown",
        "There is no such customer.";
    CustomerClosed = "customer_closed", 422, "Customer closed",
        "The customer is closed.";
    SchemaInvalid = "schema_invalid", 422, "Schema not valid",
        "The JSON Schema of an event type is not valid, or too expensive.";
    ServiceTokenExists = "service_token_exists", 422, "Service token exists",
        "The id belongs to a service token already.";
    ServiceTokenUnknown = "service_token_unknown", 422, "Service token unknown",
        "There is no such service token.";
    ScopesInvalid = "scopes_invalid", 422, "Scopes not valid",
        "A service token has at least one scope and a limited number of them.";
    ExpiresDaysInvalid = "expires_days_invalid", 422, "Lifetime not valid",
        "A service token ends after a limited time.";
    AuditorReadOnly = "auditor_read_only", 422, "Auditors only read",
        "A token that reads proofs has no scope that changes anything.";
    ErasureNotRequested = "erasure_not_requested", 422, "Erasure not requested",
        "The erasure of this person was not requested.";
    SubjectIsAdmin = "subject_is_admin", 422, "Person is an administrator",
        "An administrator gives up the role before it is erased.";
    SubjectErased = "subject_erased", 422, "Person erased",
        "The person that the data are about is erased.";
}

impl ErrorCode {
    /// The code in REST.
    pub fn as_str(self) -> &'static str {
        self.entry().code
    }

    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        self.entry().status
    }

    /// A short sentence for people.
    pub fn title(self) -> &'static str {
        self.entry().title
    }

    /// The code in GraphQL.
    pub fn graphql(self) -> String {
        self.as_str().to_ascii_uppercase()
    }

    /// The code among GraphQL's top-level errors, which are fewer: `extensions.code`.
    pub fn graphql_top_level(self) -> &'static str {
        match self {
            Self::Unauthenticated | Self::InvalidCredentials => "UNAUTHENTICATED",
            Self::Forbidden | Self::TenantMismatch | Self::ReservedContext => "FORBIDDEN",
            Self::LimitExceeded => "LIMIT_EXCEEDED",
            Self::CursorInvalid => "CURSOR_INVALID",
            Self::ConsistencyTimeout => "CONSISTENCY_TIMEOUT",
            Self::RateLimited | Self::LockedOut => "RATE_LIMITED",
            Self::Unavailable | Self::KeyMissing => "UNAVAILABLE",
            Self::Internal => "INTERNAL",
            _ => "BAD_REQUEST",
        }
    }
}

/// The catalogue as `docs/errors.md` shows it.
pub fn render_error_codes() -> String {
    let mut page = String::from(
        "# Error codes\n\n\
         The catalogue in `access/src/codes.rs` makes this page; `UPDATE_DOCS=1 cargo test -p access` writes it anew.\n\
         REST answers carry the code in `code`, GraphQL in `userErrors` in upper case, or in `extensions.code`.\n\n\
         | code | status | GraphQL `extensions.code` | title | meaning |\n\
         | --- | --- | --- | --- | --- |\n",
    );
    for code in ErrorCode::ALL {
        let Entry { code: name, status, title, meaning } = code.entry();
        let top_level = code.graphql_top_level();
        // Writing to a string cannot fail.
        let _ = writeln!(page, "| `{name}` | {status} | `{top_level}` | {title} | {meaning} |");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_code_is_listed_once() {
        let names: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(names.len(), ErrorCode::ALL.len());
        for code in ErrorCode::ALL {
            assert!((400..600).contains(&code.status()), "{}", code.as_str());
        }
    }

    #[test]
    fn the_page_of_error_codes_is_the_catalogue() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, render_error_codes()).expect("the page can be written");
        }
        let page = std::fs::read_to_string(path).expect("the page is there");
        assert_eq!(page, render_error_codes(), "run UPDATE_DOCS=1 cargo test -p access");
    }
}

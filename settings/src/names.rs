//! Checks the two public names: the gateway's host and the deployment's name in checkpoints. Also lists renamed
//! settings.

/// Settings that were renamed in version 0.2.0: old name and new name.
const RENAMED: [(&str, &str); 27] = [
    ("audit.folder", "audit.state_folder"),
    ("audit.previous_key", "audit.previous_signing_key"),
    ("audit.previous_key_file", "audit.previous_signing_key_file"),
    ("audit.seal_every_seconds", "audit.seal_interval_seconds"),
    ("database.append_lanes", "database.append_workers"),
    ("database.idle_seconds", "database.idle_timeout_seconds"),
    ("gateway.explorer", "gateway.graphiql"),
    ("gateway.heartbeat_seconds", "gateway.heartbeat_interval_seconds"),
    ("gateway.keep_alive_seconds", "gateway.keep_alive_timeout_seconds"),
    ("gateway.slow_follower_seconds", "gateway.slow_consumer_timeout_seconds"),
    ("gateway.streams", "gateway.max_streams"),
    ("gateway.web_origins", "gateway.cors_allowed_origins"),
    ("identity.access_token_minutes", "identity.access_token_lifetime_seconds"),
    ("identity.argon2_wait_ms", "identity.argon2_max_wait_ms"),
    ("identity.argon2_waiting_per_tenant", "identity.argon2_max_queued_per_tenant"),
    ("saga.first_delay_ms", "saga.initial_delay_ms"),
    ("saga.longest_delay_ms", "saga.max_delay_ms"),
    ("secrets.key", "secrets.deployment_key"),
    ("secrets.key_file", "secrets.deployment_key_file"),
    ("webhooks.allow_private", "webhooks.allow_private_addresses"),
    ("webhooks.first_delay_ms", "webhooks.initial_delay_ms"),
    ("webhooks.longest_delay_ms", "webhooks.max_delay_ms"),
    ("webhooks.most_dead_letters", "webhooks.max_dead_letters_per_endpoint"),
    ("webhooks.requests", "webhooks.max_concurrent_requests"),
    ("webhooks.requests_a_tenant", "webhooks.max_concurrent_requests_per_tenant"),
    ("webhooks.retry_for_seconds", "webhooks.max_retry_seconds"),
    ("webhooks.timeout_seconds", "webhooks.request_timeout_seconds"),
];

/// The new name of the setting `old`.
pub fn new_name(old: &str) -> Option<&'static str> {
    RENAMED.iter().find(|(name, _)| *name == old).map(|(_, new)| *new)
}

const HOST_LENGTH_MAX: usize = 253;
const LABEL_LENGTH_MAX: usize = 63;
const DEPLOYMENT_LENGTH_MAX: usize = 200;

/// The problem of a public host: it must be a domain name in lower case (RFC 1123), as in the header `Host`.
pub fn host_problem(host: &str) -> Option<&'static str> {
    let label = |label: &str| {
        let inner = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '-';
        (1..=LABEL_LENGTH_MAX).contains(&label.len())
            && label.chars().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > HOST_LENGTH_MAX || !host.split('.').all(label) {
        return Some("must be a domain name in lower case, without scheme and port, such as api.example.com");
    }
    // The last label must not be a number, so that no name looks like an IP address.
    let number = host.rsplit('.').next().is_some_and(|last| last.chars().all(|digit| digit.is_ascii_digit()));
    number.then_some("must be a domain name: tenants are subdomains of it, which an address has none of")
}

/// The problem of a deployment's name. Key names of signed notes (C2SP) start with it, so it may not contain spaces or
/// plus signs.
pub fn deployment_problem(name: &str) -> Option<&'static str> {
    let refused = |letter: char| letter.is_whitespace() || letter.is_control() || letter == '+';
    (name.is_empty() || name.len() > DEPLOYMENT_LENGTH_MAX || name.contains(refused))
        .then_some("must have 1 to 200 bytes and neither spaces nor plus signs, such as annals.example.com")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_setting_has_its_new_name_among_the_settings() {
        let known: toml::Table = crate::DEFAULTS.parse().expect("TOML");
        let is_known = |name: &str| {
            let (section, key) = name.split_once('.').expect("a section");
            known[section].as_table().is_some_and(|table| table.contains_key(key))
        };
        for (old, new) in RENAMED {
            assert!(is_known(new) && !is_known(old), "{old} -> {new}");
        }
    }

    #[test]
    fn a_host_is_a_domain_name_as_clients_send_it() {
        for good in ["localhost", "api.example.com", "xn--bcher-kva.example", "a-1.b2"] {
            assert_eq!(host_problem(good), None, "{good}");
        }
        let long = ["a"; 130].join(".");
        let label = "a".repeat(64);
        for wrong in [
            "",
            ".",
            "api.example.com.",
            "api..example",
            "API.example.com",
            "https://api.example.com",
            "api.example.com:8080",
            "-a.example",
            "a-.example",
            "bücher.example",
            "192.0.2.7",
            "[::1]",
            "a b",
            "a_b",
            &long,
            &label,
        ] {
            assert!(host_problem(wrong).is_some(), "{wrong}");
        }
    }

    #[test]
    fn a_deployments_name_fits_into_signed_notes() {
        for good in ["annals.localhost", "example.com/annals", "Acme"] {
            assert_eq!(deployment_problem(good), None, "{good}");
        }
        let long = "a".repeat(201);
        for wrong in ["", "a b", "a+b", "a\nb", "a\u{a0}b", "a\0", &long] {
            assert!(deployment_problem(wrong).is_some(), "{wrong:?}");
        }
    }
}

//! How settings are read, and the errors for invalid ones.

use super::*;

fn with_environment(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
    let pairs: Vec<_> = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Settings::from_layers(None, None, pairs.into_iter())
}

fn with_file(text: &str) -> Result<Settings, SettingsError> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), text).expect("it can be written");
    Settings::from_layers(None, Some(file.path()), std::iter::empty())
}

#[test]
fn the_defaults_set_everything() {
    let settings = with_environment(&[]).expect("the defaults are complete");
    assert_eq!(settings.identity.argon2_memory_kib, 19_456);
    assert_eq!(settings.gateway.public_address.port(), 8080);
}

#[test]
fn the_environment_overrides_a_file_and_a_file_the_defaults() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), "[database]\nhost = \"file\"\nname = \"file\"\n").expect("it can be written");
    let environment = [("ANNALS__DATABASE__HOST".to_owned(), "environment".to_owned())];
    let settings = Settings::from_layers(None, Some(file.path()), environment.into_iter()).expect("valid");
    assert_eq!((&*settings.database.host, &*settings.database.name), ("environment", "file"));
    assert_eq!(settings.database.port, 5432);
}

#[test]
fn the_environment_holds_numbers_and_flags_as_text() {
    let settings = with_environment(&[
        ("ANNALS__IDENTITY__ARGON2_MEMORY_KIB", "64"),
        ("ANNALS__GATEWAY__GRAPHIQL", "true"),
        ("ANNALS__DATABASE__RUNTIME_PASSWORD", "007"),
    ])
    .expect("valid");
    assert_eq!(settings.identity.argon2_memory_kib, 64);
    assert!(settings.gateway.graphiql);
    assert_eq!(settings.database.runtime_password().expect("set").reveal(), "007");
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let error = with_file("[identity]\nargon2_memry_kib = 1\n").expect_err("unknown").to_string();
    assert!(error.contains("`identity.argon2_memry_kib`"), "{error}");
    assert!(error.contains("did you mean `identity.argon2_memory_kib`?"), "{error}");
    let error = with_environment(&[("ANNALS__IDENTITY__NONSENSE", "1")]).expect_err("unknown").to_string();
    assert!(error.contains("`identity.nonsense`") && error.contains("ANNALS__IDENTITY__NONSENSE"), "{error}");
    assert!(with_file("[nonsense]\na = 1\n").is_err());
    assert!(with_file("nonsense = 1\n").is_err());
    assert!(with_file("[nonsense]\n").is_err());
}

#[test]
fn a_wrong_value_is_refused_by_name() {
    let error = with_environment(&[("ANNALS__DATABASE__PORT", "many")]).expect_err("no port").to_string();
    assert!(error.contains("database.port"), "{error}");
    let error = with_file("[log]\nformat = \"xml\"\n").expect_err("no format").to_string();
    assert!(error.contains("format"), "{error}");
}

#[test]
fn several_nats_servers_and_their_replicas_are_checked() {
    let problem = |url: &str, replicas: &str| {
        let pairs = [
            ("ANNALS__NATS__URL", url),
            ("ANNALS__NATS__REPLICAS", replicas),
            ("ANNALS__NATS__ALLOW_UNAUTHENTICATED", "true"),
        ];
        with_environment(&pairs).expect("readable").nats.problem().map(|problem| problem.to_string())
    };
    assert_eq!(problem("nats://a:4222, tls://b:4222,nats://c:4222", "3"), None);
    let told = |url, replicas| problem(url, replicas).expect("is refused");
    assert!(told("nats://a:4222,b:4222", "1").contains("nats.url"));
    assert!(told("nats://a:4222", "2").contains("nats.replicas"));
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let gateway = |host: &str, origins: &str| {
        let pairs =
            [("ANNALS__GATEWAY__PUBLIC_HOST", host), ("ANNALS__GATEWAY__CORS_ALLOWED_ORIGINS", origins)];
        with_environment(&pairs).expect("readable").gateway
    };
    assert!(gateway("", "").problem().is_none());
    assert!(gateway("", "https://app.example.com, http://localhost:3000").problem().is_none());
    for wrong in [
        "*",
        "null",
        "app.example.com",
        "https://app.example.com/",
        "https://App.example.com",
        "https://app.example.com:443",
        "https://app.example.com/page",
        "ws://app.example.com",
    ] {
        let told = gateway("", &format!("https://fine.example.com,{wrong}")).problem();
        assert!(told.is_some_and(|told| told.to_string().contains(&format!("`{wrong}`"))), "{wrong}");
    }
    let development = "http://localhost:3000,http://localhost:5173";
    assert_eq!(gateway("localhost", development).loopback_origin(), None);
    assert_eq!(gateway("api.example.com", development).loopback_origin(), Some("http://localhost:3000"));
    assert_eq!(gateway("api.example.com", "https://app.example.com").loopback_origin(), None);
}

#[test]
fn a_secret_is_given_once() {
    let error = with_file("[database]\nruntime_password = \"a\"\nruntime_password_file = \"b\"\n")
        .expect("readable")
        .database
        .runtime_password()
        .expect_err("twice");
    assert_eq!(
        error.to_string(),
        "`database.runtime_password` and `database.runtime_password_file` are both set; give one of them"
    );
}

#[test]
fn a_secret_file_may_end_with_a_line_break() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file can be made");
    std::fs::write(file.path(), "hunter2\n").expect("it can be written");
    let path = file.path().to_str().expect("a plain path").to_owned();
    let settings = with_environment(&[("ANNALS__DATABASE__RUNTIME_PASSWORD_FILE", &path)]).expect("valid");
    assert_eq!(settings.database.runtime_password().expect("set").reveal(), "hunter2");
}

#[test]
fn settings_print_no_secret() {
    let settings = with_environment(&[
        ("ANNALS__DATABASE__RUNTIME_PASSWORD", "hunter2"),
        ("ANNALS__SECRETS__DEPLOYMENT_KEY", "c0ffee"),
    ])
    .expect("valid");
    let printed = format!("{settings:?}");
    assert!(!printed.contains("hunter2") && !printed.contains("c0ffee"), "{printed}");
}

#[test]
fn every_setting_is_documented_and_read() {
    let settings = with_environment(&[]).expect("the defaults are complete");
    let problems: Vec<String> =
        settings.problems(RequiredSettings::ALL).iter().map(ToString::to_string).collect();
    let key = "; `annals init` makes it";
    let folder = "; name a folder outside PostgreSQL's data and backups, as `annals init` does";
    assert_eq!(
        problems,
        [
            format!("`database.runtime_password` is not set{key}, and `annals migrate` sets it"),
            format!("`secrets.deployment_key` is not set{key}"),
            format!("`identity.signing_key` is not set{key}"),
            format!("`privacy.keys_folder` is not set{folder}, or a database in `privacy.keys_url`"),
            format!("`privacy.root_key` is not set{key}"),
            format!("`audit.signing_key` is not set{key}"),
            format!("`audit.state_folder` is not set{folder}"),
            "`nats.credentials_file` is not set, and `nats.url` holds no user: NATS without credentials is refused \
             (`nats.allow_unauthenticated = true` accepts it, for development only)"
                .to_owned(),
        ]
    );
}

#[test]
fn a_process_is_asked_for_what_its_roles_need() {
    let settings = with_environment(&[
        ("ANNALS__DATABASE__RUNTIME_PASSWORD", "hunter2"),
        ("ANNALS__SECRETS__DEPLOYMENT_KEY", "c0ffee"),
        ("ANNALS__NATS__ALLOW_UNAUTHENTICATED", "true"),
    ])
    .expect("valid");
    let missing = |needs: RequiredSettings| -> Vec<String> {
        let problems = settings.problems(needs);
        problems
            .iter()
            .map(|problem| match problem {
                SettingsError::Missing(name) => (*name).to_owned(),
                other => other.to_string(),
            })
            .collect()
    };
    let none = RequiredSettings::default();
    assert_eq!(missing(none), [""; 0]);
    assert_eq!(missing(RequiredSettings { tokens: true, ..none }), ["identity.signing_key"]);
    assert_eq!(
        missing(RequiredSettings { personal_data: true, ..none }),
        ["privacy.keys_folder", "privacy.root_key"]
    );
    assert_eq!(
        missing(RequiredSettings { checkpoints: true, ..none }),
        ["audit.signing_key", "audit.state_folder"]
    );
}

#[test]
fn names_that_others_see_are_checked() {
    let settings = with_environment(&[
        ("ANNALS__GATEWAY__PUBLIC_HOST", "https://api.example.com"),
        ("ANNALS__AUDIT__DEPLOYMENT", "example com"),
    ])
    .expect("readable");
    let problems = settings.problems(RequiredSettings::ALL);
    for key in ["gateway.public_host", "audit.deployment"] {
        let named =
            |problem: &SettingsError| matches!(problem, SettingsError::Invalid { key: it, .. } if *it == key);
        assert!(problems.iter().any(named), "{key}: {problems:?}");
    }
}

#[test]
fn files_for_tls_go_with_a_mode_that_uses_them() {
    let problem = |pairs: &[(&str, &str)]| {
        let settings = with_environment(pairs).expect("readable");
        settings.database.problem().map(|problem| problem.to_string())
    };
    let (mode, ca) = ("ANNALS__DATABASE__TLS", "ANNALS__DATABASE__TLS_CA_FILE");
    let certificate = ("ANNALS__DATABASE__TLS_CERTIFICATE_FILE", "client.pem");
    assert_eq!(problem(&[(mode, "verify-full"), (ca, "ca.pem")]), None);
    assert_eq!(problem(&[(mode, "off")]), None);
    let told = |pairs: &[(&str, &str)]| problem(pairs).expect("is refused");
    assert!(told(&[(mode, "prefer")]).contains("must be off, require or verify-full"));
    assert!(told(&[(ca, "ca.pem")]).contains("`database.tls` is off"));
    assert!(told(&[(mode, "require"), certificate]).contains("database.tls_key_file"));
}

#[test]
fn nats_without_credentials_is_refused_unless_a_setting_allows_it() {
    let problem = |pairs: &[(&str, &str)]| {
        let nats = with_environment(pairs).expect("readable").nats;
        nats.problem().map(|problem| problem.to_string())
    };
    let refused = problem(&[("ANNALS__NATS__URL", "nats://a:4222")]).expect("is refused");
    assert!(refused.contains("nats.credentials_file") && refused.contains("nats.url"), "{refused}");
    assert_eq!(problem(&[("ANNALS__NATS__URL", "nats://ann:pw@a:4222")]), None);
    assert_eq!(problem(&[("ANNALS__NATS__ALLOW_UNAUTHENTICATED", "true")]), None);
}

#[test]
fn proxies_are_networks() {
    let problem = |networks: &str| {
        let pairs = [("ANNALS__GATEWAY__TRUSTED_PROXIES", networks)];
        with_environment(&pairs).expect("readable").gateway.problem().map(|problem| problem.to_string())
    };
    assert_eq!(problem("10.0.0.0/8, 192.0.2.7,2001:db8::/32"), None);
    let told = problem("10.0.0.0/8,proxy.internal").expect("is refused");
    assert!(told.contains("gateway.trusted_proxies") && told.contains("`proxy.internal`"), "{told}");
}

#[test]
fn a_host_of_the_network_is_behind_tls() {
    let behind = |host: &str| {
        with_environment(&[("ANNALS__GATEWAY__PUBLIC_HOST", host)]).expect("readable").gateway.is_behind_tls()
    };
    assert!(behind("api.example.com"));
    for local in ["", "localhost", "annals.localhost", "127.0.0.1", "10.0.0.7"] {
        assert!(!behind(local), "{local}");
    }
}

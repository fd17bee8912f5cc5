//! The listeners of a process. Every process has the operations listener; a gateway has all three.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use gateway::{ListenerSettings, TrustedProxies};
use tokio::net::TcpListener;

use settings::Settings;

/// The addresses that the listeners are bound to.
#[derive(Debug, Clone, Copy)]
pub struct Addresses {
    /// REST, GraphQL and event streams. Without a gateway it is that of the operations listener.
    pub public: SocketAddr,
    /// Probes and metrics.
    pub operations: SocketAddr,
    /// The admin API. Without a gateway it is that of the operations listener.
    pub admin: SocketAddr,
}

/// The listeners. They are bound before anything else, so that a port in use is reported at once.
pub(super) struct Listeners {
    pub(super) public: Option<Listener>,
    pub(super) operations: Listener,
    pub(super) admin: Option<Listener>,
}

pub(super) struct Listener {
    pub(super) socket: TcpListener,
    pub(super) settings: ListenerSettings,
}

/// Maximum connections of the operations listener and of the admin listener, each.
const PRIVATE_CONNECTIONS_MAX: usize = 128;
/// File descriptors reserved for probes, for when the process has none left.
const OPERATIONS_DESCRIPTORS_RESERVED: usize = 8;

impl Listeners {
    pub(super) async fn bind(
        settings: &Settings,
        gateway: bool,
        open_files_max: usize,
    ) -> anyhow::Result<Self> {
        let settings = &settings.gateway;
        let public = ListenerSettings {
            name: "public",
            max_connections: settings
                .max_connections
                .min(crate::limits::connections_max_within(open_files_max)),
            max_connections_per_address: settings.max_connections_per_address,
            header_timeout: Duration::from_secs(settings.header_timeout_seconds),
            keep_alive_timeout: Duration::from_secs(settings.keep_alive_timeout_seconds),
            trusted_proxies: TrustedProxies::parse(&settings.trusted_proxies)?,
            always_https: settings.is_behind_tls(),
            reserved_descriptors: 0,
        };
        if gateway && public.max_connections < settings.max_connections {
            let (open_files_max, lowered) = (open_files_max, public.max_connections);
            tracing::warn!(
                open_files_max,
                lowered,
                "`gateway.max_connections` is lowered to what the limit of open files allows"
            );
        }
        // There is no proxy in front of these: their clients are machines of the same network.
        let private = |name| ListenerSettings {
            name,
            max_connections: PRIVATE_CONNECTIONS_MAX,
            max_connections_per_address: PRIVATE_CONNECTIONS_MAX / 2,
            trusted_proxies: TrustedProxies::default(),
            always_https: false,
            ..public.clone()
        };
        let operations = ListenerSettings {
            reserved_descriptors: OPERATIONS_DESCRIPTORS_RESERVED,
            ..private("operations")
        };
        let admin = private("admin");
        Ok(Self {
            operations: Listener::bind(settings.operations_address, operations).await?,
            admin: if gateway { Some(Listener::bind(settings.admin_address, admin).await?) } else { None },
            public: if gateway { Some(Listener::bind(settings.public_address, public).await?) } else { None },
        })
    }

    pub(super) fn addresses(&self) -> anyhow::Result<Addresses> {
        let operations = self.operations.socket.local_addr()?;
        let address = |listener: &Option<Listener>| {
            listener.as_ref().map_or(Ok(operations), |listener| listener.socket.local_addr())
        };
        Ok(Addresses { public: address(&self.public)?, operations, admin: address(&self.admin)? })
    }
}

impl Listener {
    async fn bind(address: SocketAddr, settings: ListenerSettings) -> anyhow::Result<Self> {
        let socket = TcpListener::bind(address).await;
        Ok(Self { socket: socket.with_context(|| format!("cannot listen on {address}"))?, settings })
    }
}

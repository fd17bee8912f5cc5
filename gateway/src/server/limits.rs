//! Limits the connections of a listener: in total, and for each client address, so that one address cannot use all of
//! them.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::TrustedProxies;

/// Counts the open connections of one listener.
pub struct ConnectionLimits {
    listener: &'static str,
    total_max: usize,
    per_address_max: usize,
    /// Trusted proxies are exempt from the limit by address, because they carry the connections of many clients.
    proxies: TrustedProxies,
    open: Mutex<OpenConnections>,
}

#[derive(Default)]
struct OpenConnections {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// Why a connection is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefusal {
    /// The client address has reached its limit.
    Address,
    /// The listener has reached its limit.
    Total,
}

impl ConnectionRefusal {
    /// The reason as a metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Total => "total",
        }
    }
}

/// Counts as one open connection until it is dropped.
pub struct ConnectionPermit {
    limits: Arc<ConnectionLimits>,
    /// `None` for a trusted proxy.
    address: Option<IpAddr>,
}

impl ConnectionLimits {
    /// Creates a counter with no open connections.
    pub fn new(
        listener: &'static str,
        total_max: usize,
        per_address_max: usize,
        proxies: TrustedProxies,
    ) -> Arc<Self> {
        Arc::new(Self { listener, total_max, per_address_max, proxies, open: Mutex::default() })
    }

    /// Counts a connection, or returns the limit that is reached. The limit by address is checked first, so a client at
    /// its limit does not learn whether the listener is full.
    pub fn acquire(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, ConnectionRefusal> {
        let address = (!self.proxies.contains(peer)).then(|| counted_address(peer));
        let mut open = self.open();
        let held = address.and_then(|address| open.by_address.get(&address)).copied().unwrap_or(0);
        if address.is_some() && held >= self.per_address_max {
            return Err(ConnectionRefusal::Address);
        }
        if open.total >= self.total_max {
            return Err(ConnectionRefusal::Total);
        }
        open.total += 1;
        if let Some(address) = address {
            open.by_address.insert(address, held + 1);
        }
        metrics::gauge!("annals_connections", "listener" => self.listener).set(open.total as f64);
        Ok(ConnectionPermit { limits: Arc::clone(self), address })
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        // No code panics while it holds the lock.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut open = self.limits.open();
        open.total -= 1;
        if let Some(address) = self.address
            && let Some(held) = open.by_address.get_mut(&address)
        {
            *held -= 1;
            if *held == 0 {
                open.by_address.remove(&address);
            }
        }
        metrics::gauge!("annals_connections", "listener" => self.limits.listener).set(open.total as f64);
    }
}

/// The key by which an address is counted. An IPv6 client can choose addresses in a /64 network, so the network is
/// counted.
pub(crate) fn counted_address(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn one_address_cannot_take_all_and_gets_its_share_back() {
        let limits = ConnectionLimits::new("test", 3, 2, TrustedProxies::default());
        let acquire = |text: &str| limits.acquire(address(text)).map_err(ConnectionRefusal::as_str);
        let held = [acquire("192.0.2.1").expect("the first"), acquire("192.0.2.1").expect("the second")];
        assert_eq!(acquire("192.0.2.1").err(), Some("address"));
        assert_eq!(acquire("::ffff:192.0.2.1").err(), Some("address"), "the same address, mapped");
        let other = acquire("192.0.2.2").expect("another address");
        assert_eq!(acquire("192.0.2.3").err(), Some("total"));
        drop(other);
        drop(held);
        assert!(acquire("192.0.2.1").is_ok());
        assert!(limits.open().by_address.is_empty(), "addresses without connections are not remembered");
    }

    #[test]
    fn addresses_of_one_ipv6_network_count_together() {
        let limits = ConnectionLimits::new("test", 10, 1, TrustedProxies::default());
        let _held = limits.acquire(address("2001:db8:1:2::1")).expect("the first");
        assert!(limits.acquire(address("2001:db8:1:2:ffff::9")).is_err());
        assert!(limits.acquire(address("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn a_trusted_proxy_brings_the_connections_of_many() {
        let proxies = TrustedProxies::parse(&["10.0.0.0/8"]).expect("a network");
        let limits = ConnectionLimits::new("test", 3, 1, proxies);
        let held: Vec<_> = (0..3).filter_map(|_| limits.acquire(address("10.1.1.1")).ok()).collect();
        assert_eq!(held.len(), 3);
        assert_eq!(limits.acquire(address("10.1.1.1")).err(), Some(ConnectionRefusal::Total));
    }
}

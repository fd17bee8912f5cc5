//! Finds the client of a request: the peer of its connection, or the address that a trusted proxy reports.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::{HeaderMap, HeaderName};
use ipnet::IpNet;

const FORWARDED_FOR_HEADER: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO_HEADER: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The client's address, as an extension of every request. With trusted proxies it is the address that they report, so
/// limits and logs name the client and not the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// The networks of the proxies whose `X-Forwarded-*` headers are trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

/// A network that is not in CIDR notation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no address and no network such as 10.0.0.0/8")]
pub struct InvalidNetwork(String);

impl TrustedProxies {
    /// Parses addresses and networks in CIDR notation.
    ///
    /// # Errors
    /// [`InvalidNetwork`] names the first text that is neither an address nor a network.
    pub fn parse<T: AsRef<str>>(networks: &[T]) -> Result<Self, InvalidNetwork> {
        let network = |text: &T| {
            let text = text.as_ref();
            let single = || text.parse::<IpAddr>().map(IpNet::from);
            text.parse::<IpNet>().or_else(|_| single()).map_err(|_| InvalidNetwork(text.to_owned()))
        };
        networks.iter().map(network).collect::<Result<_, _>>().map(Self)
    }

    /// Whether an address belongs to a trusted proxy.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }

    /// The client of a connection. `X-Forwarded-For` is read from the right, because each proxy appends the address of
    /// its peer. The first address that is not a trusted proxy is the client. Addresses to the left of it are not
    /// verified.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> ClientAddress {
        let mut client = peer.to_canonical();
        for value in headers.get_all(FORWARDED_FOR_HEADER).iter().rev() {
            for hop in value.to_str().unwrap_or_default().rsplit(',') {
                if !self.contains(client) {
                    return ClientAddress(client);
                }
                // The entry is not an address, so the last known proxy is used as the client.
                let Some(before) = hop_address(hop.trim()) else { return ClientAddress(client) };
                client = before;
            }
        }
        ClientAddress(client)
    }

    /// Whether a trusted proxy reports that the client used HTTPS.
    pub(super) fn is_https(&self, peer: IpAddr, headers: &HeaderMap) -> bool {
        let last = headers.get_all(FORWARDED_PROTO_HEADER).iter().next_back();
        let scheme = last.and_then(|value| value.to_str().ok()).and_then(|value| value.rsplit(',').next());
        scheme.is_some_and(|scheme| scheme.trim().eq_ignore_ascii_case("https")) && self.contains(peer)
    }
}

/// Parses an address with or without a port.
fn hop_address(text: &str) -> Option<IpAddr> {
    let bracketed =
        text.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(address, _port)| address);
    let address = text.parse::<IpAddr>().ok();
    let address = address.or_else(|| bracketed?.parse::<Ipv6Addr>().ok().map(IpAddr::from));
    let address = address.or_else(|| text.rsplit_once(':')?.0.parse().ok().filter(IpAddr::is_ipv4));
    address.map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a header value"));
        }
        headers
    }

    fn client(peer: &str, forwarded: &[&str]) -> String {
        let proxies = TrustedProxies::parse(&["10.0.0.0/8", "2001:db8::1"]).expect("networks");
        let lines: Vec<_> = forwarded.iter().map(|value| ("x-forwarded-for", *value)).collect();
        proxies.client(peer.parse().expect("an address"), &headers(&lines)).0.to_string()
    }

    #[test]
    fn the_client_is_the_first_hop_from_the_right_that_is_no_proxy() {
        assert_eq!(client("10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, 203.0.113.7, 10.2.3.4"]), "203.0.113.7");
        assert_eq!(client("10.0.0.1", &["1.1.1.1", "203.0.113.7,10.2.3.4"]), "203.0.113.7");
        assert_eq!(client("::ffff:10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(client("2001:db8::1", &["[2001:db8:7::9]:4711"]), "2001:db8:7::9");
        assert_eq!(client("10.0.0.1", &["203.0.113.7:4711"]), "203.0.113.7");
    }

    #[test]
    fn a_header_that_no_proxy_of_ours_wrote_is_not_believed() {
        assert_eq!(client("203.0.113.7", &["1.1.1.1"]), "203.0.113.7");
        assert_eq!(client("2001:db8::2", &["1.1.1.1"]), "2001:db8::2");
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["1.1.1.1, unknown"]), "10.0.0.1");
        assert_eq!(client("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3");
    }

    #[test]
    fn only_a_trusted_proxy_may_say_that_the_client_came_by_https() {
        let proxies = TrustedProxies::parse(&["10.0.0.1"]).expect("an address");
        let https = |peer: &str, lines: &[(&'static str, &str)]| {
            proxies.is_https(peer.parse().expect("an address"), &headers(lines))
        };
        assert!(https("10.0.0.1", &[("x-forwarded-proto", "https")]));
        assert!(https("10.0.0.1", &[("x-forwarded-proto", "http, HTTPS")]));
        assert!(!https("10.0.0.2", &[("x-forwarded-proto", "https")]));
        assert!(!https("10.0.0.1", &[("x-forwarded-proto", "https, http")]));
        assert!(!https("10.0.0.1", &[]));
    }

    #[test]
    fn what_is_no_network_is_refused_by_name() {
        for wrong in ["", "proxy.internal", "10.0.0.0/33", "10.0.0.1:80"] {
            assert_eq!(TrustedProxies::parse(&[wrong]), Err(InvalidNetwork(wrong.to_owned())));
        }
    }
}

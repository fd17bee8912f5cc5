//! Checks where events may be delivered to. A tenant chooses the address, so it must not lead into the product's
//! network.
//! The resolver below returns only public addresses, and the client connects to what it returns. So a later change of
//! the name's DNS records cannot bypass the check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use schemas::engine::InvalidValue;

/// Maximum bytes of a URL.
const URL_BYTES_MAX: usize = 2_048;

/// Parses and checks the URL of an endpoint. Names are checked when they are resolved.
///
/// # Errors
/// [`InvalidValue`] with the code `url_invalid`.
pub fn parse(text: &str, allow_private_addresses: bool) -> Result<Url, InvalidValue> {
    let invalid = |why: &str| Err(InvalidValue::new("url_invalid", why.to_owned()));
    if text.len() > URL_BYTES_MAX {
        return invalid("must have at most 2048 characters");
    }
    let Ok(url) = Url::parse(text) else { return invalid("must be an absolute URL") };
    match url.scheme() {
        "https" => {}
        "http" if allow_private_addresses => {}
        _ => return invalid("must start with https://"),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return invalid("must not hold a user or a password");
    }
    if url.fragment().is_some() {
        return invalid("must not have a fragment");
    }
    if !allow_private_addresses && literal(&url).is_some_and(|address| !is_public(address)) {
        return Err(InvalidValue::new("url_private", "must lead to a public address"));
    }
    Ok(url)
}

/// The IP address of a URL that has one instead of a name. Such a URL is never resolved.
pub(crate) fn literal(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// A name has no public address.
#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
pub(crate) struct NotPublic;

/// Resolves names to public addresses.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resolver {
    pub(crate) allow_private_addresses: bool,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private_addresses = self.allow_private_addresses;
        Box::pin(async move {
            // The client replaces the port by that of the URL.
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let found: Vec<SocketAddr> =
                found.filter(|address| allow_private_addresses || is_public(address.ip())).collect();
            if found.is_empty() {
                return Err(NotPublic.into());
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is public by IANA's special-purpose registries, and not the address of a cloud's metadata
/// service.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    const SPECIAL_PURPOSE_RANGES: [(Ipv4Addr, u32); 15] = [
        (Ipv4Addr::UNSPECIFIED, 8),
        (Ipv4Addr::new(10, 0, 0, 0), 8),
        (Ipv4Addr::new(100, 64, 0, 0), 10),
        (Ipv4Addr::new(127, 0, 0, 0), 8),
        (Ipv4Addr::new(168, 63, 129, 16), 32), // a cloud's metadata service
        (Ipv4Addr::new(169, 254, 0, 0), 16),
        (Ipv4Addr::new(172, 16, 0, 0), 12),
        (Ipv4Addr::new(192, 0, 0, 0), 24),
        (Ipv4Addr::new(192, 0, 2, 0), 24),
        (Ipv4Addr::new(192, 88, 99, 0), 24),
        (Ipv4Addr::new(192, 168, 0, 0), 16),
        (Ipv4Addr::new(198, 18, 0, 0), 15),
        (Ipv4Addr::new(198, 51, 100, 0), 24),
        (Ipv4Addr::new(203, 0, 113, 0), 24),
        (Ipv4Addr::new(224, 0, 0, 0), 3), // multicast, reserved, broadcast
    ];
    let within = |(net, bits): (Ipv4Addr, u32)| (address.to_bits() ^ net.to_bits()) >> (32 - bits) == 0;
    !SPECIAL_PURPOSE_RANGES.into_iter().any(within)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    const SPECIAL_PURPOSE_RANGES: [(Ipv6Addr, u32); 4] = [
        (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23), // protocol assignments, Teredo among them
        (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
        (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16), // 6to4, which carries an IPv4 address
        (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
    ];
    let within = |(net, bits): (Ipv6Addr, u32)| (address.to_bits() ^ net.to_bits()) >> (128 - bits) == 0;
    // Global unicast is 2000::/3; loopback, unique-local, link-local, multicast, IPv4-mapped and NAT64 are outside.
    within((Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3)) && !SPECIAL_PURPOSE_RANGES.into_iter().any(within)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_are_public() {
        for public in [
            "1.1.1.1",
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "192.0.1.1",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
        ] {
            assert!(is_public(public.parse().expect("an address")), "{public}");
        }
        for special in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "168.63.129.16",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::7f00:1",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:2::1",
            "2001:10::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!is_public(special.parse().expect("an address")), "{special}");
        }
    }

    #[test]
    fn an_endpoint_is_https_at_a_name_or_a_public_address() {
        let code = |text: &str| parse(text, false).map(|_| ()).map_err(|problem| problem.code);
        assert_eq!(code("https://hooks.example.com:8443/a?b=c"), Ok(()));
        assert_eq!(code("https://1.1.1.1/"), Ok(()));
        // Names are looked at when they are resolved.
        assert_eq!(code("https://localhost/"), Ok(()));
        for invalid in [
            "http://hooks.example.com/",
            "ftp://hooks.example.com/",
            "https://user:password@hooks.example.com/",
            "https://user@hooks.example.com/",
            "https://hooks.example.com/#here",
            "/hooks",
            "https://",
            "",
        ] {
            assert_eq!(code(invalid), Err("url_invalid"), "{invalid}");
        }
        assert_eq!(
            code(&format!("https://hooks.example.com/{}", "x".repeat(URL_BYTES_MAX))),
            Err("url_invalid")
        );
        // Every way to write 127.0.0.1 and its like.
        for private in [
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/",
            "https://１２７.0.0.1/",
        ] {
            assert_eq!(code(private), Err("url_private"), "{private}");
        }
        assert!(parse("http://127.0.0.1:9000/", true).is_ok());
    }

    #[tokio::test]
    async fn names_of_this_machine_resolve_only_where_that_is_allowed() {
        let resolve = |allow_private_addresses| {
            Resolver { allow_private_addresses }.resolve("localhost".parse().expect("a name"))
        };
        assert!(resolve(true).await.expect("resolves").count() > 0);
        let refused = resolve(false).await.err().expect("refused");
        assert!(refused.downcast_ref::<NotPublic>().is_some(), "{refused}");
    }
}

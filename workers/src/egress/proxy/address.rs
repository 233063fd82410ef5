//! Which addresses belong to the public internet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address belongs to the public internet. What is not known to be public is not.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    /// The platform's agent of one cloud: a public address that means the host itself.
    const WIRE_SERVER: Ipv4Addr = Ipv4Addr::new(168, 63, 129, 16);
    let special = match address.octets() {
        [0 | 10 | 127, ..] => true,
        [100, 64..=127, ..] => true, // carrier-grade NAT, and the metadata service of one cloud
        [169, 254, ..] => true,      // link-local, and the metadata service of most
        [172, 16..=31, ..] => true,  //
        [192, 0, 0 | 2, _] => true,  // protocol assignments, documentation
        [192, 88, 99, _] => true,    // relays to IPv6
        [192, 168, ..] => true,      //
        [198, 18 | 19, ..] => true,  // benchmarks
        [198, 51, 100, _] => true,   // documentation
        [203, 0, 113, _] => true,    // documentation
        [224..=255, ..] => true,     // multicast, reserved, broadcast
        _ => false,
    };
    !special && address != WIRE_SERVER
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    // Only 2000::/3 is given out. Loopback, unspecified, IPv4 in any dress, NAT64, ULA, link-local and multicast lie outside.
    let given_out = matches!(address.segments()[0], 0x2000..=0x3fff);
    let special = match address.segments() {
        [0x2001, 0..=0x01ff, ..] => true, // protocol assignments, tunnels
        [0x2001, 0x0db8, ..] => true,     // documentation
        [0x2002, ..] => true,             // IPv4 in another dress
        [0x3fff, 0..=0x0fff, ..] => true, // documentation
        _ => false,
    };
    given_out && !special
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        let private = [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.1.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "239.255.255.250",
            "240.0.0.1",
            "255.255.255.255",
            "168.63.129.16",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "100::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "4000::1",
        ];
        for address in private {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2001:4860:4860::8888"]
        {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}

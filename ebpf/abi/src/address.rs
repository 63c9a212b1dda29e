//! Addresses of both families in one form.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address as v4-mapped (`::ffff:a.b.c.d`), in network byte order.
///
/// Four words, not sixteen bytes: the kernel programs compare and copy it word by word, and a
/// socket hook's context can be read in no smaller pieces.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Address {
    /// The words as they lie in memory on the wire.
    pub words: [u32; 4],
}

/// The third word of every v4-mapped address.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Address {
    /// Matches every IPv4 address of the node in a node port's frontend row.
    pub const WILDCARD_V4: Self = Self { words: [0, 0, MAPPED, 0] };
    /// Matches every IPv6 address of the node in a node port's frontend row.
    pub const WILDCARD_V6: Self = Self { words: [0; 4] };

    /// From an IPv4 address, as its four bytes lie in memory on the wire.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }

    /// The row that stands for every address of this address's family.
    #[inline(always)]
    pub const fn wildcard(&self) -> Self {
        if self.is_v4() { Self::WILDCARD_V4 } else { Self::WILDCARD_V6 }
    }

    /// The sixteen bytes as on the wire.
    pub const fn octets(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        let mut i = 0;
        while i < 4 {
            let word = self.words[i].to_ne_bytes();
            bytes[4 * i] = word[0];
            bytes[4 * i + 1] = word[1];
            bytes[4 * i + 2] = word[2];
            bytes[4 * i + 3] = word[3];
            i += 1;
        }
        bytes
    }

    const fn from_octets(bytes: [u8; 16]) -> Self {
        let mut words = [0; 4];
        let mut i = 0;
        while i < 4 {
            words[i] = u32::from_ne_bytes([
                bytes[4 * i],
                bytes[4 * i + 1],
                bytes[4 * i + 2],
                bytes[4 * i + 3],
            ]);
            i += 1;
        }
        Self { words }
    }
}

impl From<Ipv4Addr> for Address {
    fn from(address: Ipv4Addr) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(address.octets()))
    }
}

impl From<Ipv6Addr> for Address {
    fn from(address: Ipv6Addr) -> Self {
        Self::from_octets(address.octets())
    }
}

impl From<IpAddr> for Address {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Address> for IpAddr {
    fn from(address: Address) -> Self {
        Ipv6Addr::from(address.octets()).to_canonical()
    }
}

impl core::fmt::Debug for Address {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

#[cfg(test)]
mod tests {
    use super::Address;
    use core::net::IpAddr;

    #[test]
    fn an_address_of_either_family_survives_the_round_trip() {
        for text in ["10.96.0.1", "0.0.0.0", "fd00::1", "::", "2001:db8:1:2:3:4:5:6"] {
            let ip: IpAddr = text.parse().expect("a literal address");
            let address = Address::from(ip);
            assert_eq!(IpAddr::from(address), ip, "{text}");
            assert_eq!(address.is_v4(), ip.is_ipv4(), "{text}");
        }
    }

    #[test]
    fn the_wildcard_keeps_the_family() {
        let v4 = Address::from("10.0.0.1".parse::<IpAddr>().expect("literal"));
        let v6 = Address::from("fd00::1".parse::<IpAddr>().expect("literal"));
        assert_eq!(v4.wildcard(), Address::WILDCARD_V4);
        assert_eq!(v6.wildcard(), Address::WILDCARD_V6);
        assert_ne!(v4.wildcard(), v6.wildcard());
    }
}

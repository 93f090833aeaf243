//! The words that rules are made of: address ranges, port ranges, owners.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The IP version that a set of rules is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The version of an address.
    pub fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::V4 } else { Family::V6 }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

/// A text that is not what it should be: `what` it should be, and the `text`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {what}")]
pub struct Malformed {
    pub what: &'static str,
    pub text: String,
}

impl Malformed {
    pub(crate) fn new(what: &'static str, text: &str) -> Malformed {
        Malformed { what, text: text.to_owned() }
    }
}

/// A range of addresses. It keeps the address as it was written, because `127.0.0.1/8` is printed so; equality is of what
/// it means.
#[derive(Clone, Copy, Debug)]
pub struct Cidr {
    address: IpAddr,
    bits: u8,
}

impl Cidr {
    /// The range of one address.
    pub fn host(address: IpAddr) -> Cidr {
        Cidr { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// An IPv4 address alone.
    pub const fn v4(a: u8, b: u8, c: u8, d: u8) -> Cidr {
        Cidr { address: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), bits: 32 }
    }

    /// `::last`, alone.
    pub const fn v6(last: u16) -> Cidr {
        Cidr { address: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, last)), bits: 128 }
    }

    pub fn family(self) -> Family {
        Family::of(self.address)
    }

    pub fn address(self) -> IpAddr {
        self.address
    }

    pub fn bits(self) -> u8 {
        self.bits
    }

    /// The range without the part of its address that does not count; an address alone without a size.
    pub fn network(self) -> impl fmt::Display {
        let address: IpAddr = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                Ipv4Addr::from(address.to_bits() & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                Ipv6Addr::from(address.to_bits() & mask).into()
            }
        };
        if Cidr::host(address).bits == self.bits {
            address.to_string()
        } else {
            format!("{address}/{}", self.bits)
        }
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                same(own.to_bits().into(), other.to_bits().into(), 32 - u32::from(self.bits))
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                same(own.to_bits(), other.to_bits(), 128 - u32::from(self.bits))
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Whether two addresses are the same without their last `free` bits.
fn same(one: u128, other: u128, free: u32) -> bool {
    (one ^ other).checked_shr(free).unwrap_or(0) == 0
}

impl PartialEq for Cidr {
    fn eq(&self, other: &Cidr) -> bool {
        self.bits == other.bits && self.contains(other.address)
    }
}

impl Eq for Cidr {}

impl FromStr for Cidr {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Cidr, Malformed> {
        let wrong = || Malformed::new("a range of addresses, as 10.0.0.0/8 or 2001:db8::/32", text);
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        if bits > Cidr::host(address).bits { Err(wrong()) } else { Ok(Cidr { address, bits }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    pub first: u16,
    pub last: u16,
}

impl Ports {
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for Ports {
    fn from(port: u16) -> Ports {
        Ports { first: port, last: port }
    }
}

impl FromStr for Ports {
    type Err = Malformed;

    /// `80`, `80:90` as iptables writes it, or `80-90` as nft and Linkerd do.
    fn from_str(text: &str) -> Result<Ports, Malformed> {
        let wrong = || Malformed::new("a port or a range of ports, as 80 or 8000:8080", text);
        let port = |text: &str| text.parse::<u16>().map_err(|_| wrong());
        let ports = match text.split_once([':', '-']) {
            Some((first, last)) => Ports { first: port(first)?, last: port(last)? },
            None => port(text)?.into(),
        };
        if ports.first > ports.last { Err(wrong()) } else { Ok(ports) }
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}:{}", self.first, self.last)
        }
    }
}

/// A user or a group: by number, or by a name that is looked up when the rule is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    Number(u32),
    Name(String),
}

impl FromStr for Owner {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Owner, Malformed> {
        if let Ok(number) = text.parse() {
            return Ok(Owner::Number(number));
        }
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "_-.".contains(letter);
        if text.is_empty() || text.starts_with('-') || !text.chars().all(plain) {
            return Err(Malformed::new("a number or a name of a user or group", text));
        }
        Ok(Owner::Name(text.to_owned()))
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Number(number) => write!(f, "{number}"),
            Owner::Name(name) => f.write_str(name),
        }
    }
}

/// The name of a network interface.
///
/// # Errors
/// What the kernel would not take as one, or what would be another word in a rule.
pub fn interface(text: &str) -> Result<String, Malformed> {
    let plain = |letter: char| letter.is_ascii_graphic() && !"/\"'\\;{}#,!".contains(letter);
    let fits = !text.is_empty() && text.len() < 16 && !text.starts_with('-') && text.chars().all(plain);
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Malformed::new("the name of a network interface (up to 15 letters)", text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_contain_what_they_say() {
        let range: Cidr = "10.1.0.0/16".parse().unwrap();
        assert!(range.contains("10.1.255.255".parse().unwrap()));
        assert!(!range.contains("10.2.0.0".parse().unwrap()));
        assert!(!range.contains("::ffff:10.1.0.1".parse().unwrap()));
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("1.2.3.4".parse().unwrap()));
        assert!("::/0".parse::<Cidr>().unwrap().contains("2001:db8::1".parse().unwrap()));
        assert_eq!("127.0.0.1/8".parse::<Cidr>().unwrap(), "127.0.0.0/8".parse().unwrap());
        assert_eq!("127.0.0.1/8".parse::<Cidr>().unwrap().to_string(), "127.0.0.1/8");
        for (range, network) in [
            ("127.0.0.1/8", "127.0.0.0/8"),
            ("10.0.0.1/32", "10.0.0.1"),
            ("1.2.3.4/0", "0.0.0.0/0"),
            ("2001:db8::1/32", "2001:db8::/32"),
            ("::1/128", "::1"),
        ] {
            assert_eq!(range.parse::<Cidr>().unwrap().network().to_string(), network);
        }
        for wrong in ["10.0.0.0", "10.0.0.0/33", "::1/129", "x/8", "", "10.0.0.0/-1"] {
            assert!(wrong.parse::<Cidr>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn ports_and_owners() {
        assert_eq!("80-90".parse::<Ports>().unwrap().to_string(), "80:90");
        assert!("90:80".parse::<Ports>().is_err());
        assert!("65536".parse::<Ports>().is_err());
        assert_eq!("1337".parse::<Owner>().unwrap(), Owner::Number(1337));
        assert_eq!("java".parse::<Owner>().unwrap(), Owner::Name("java".into()));
        assert!("ja va".parse::<Owner>().is_err());
        assert!("-j".parse::<Owner>().is_err());
        assert!(interface("eth0").is_ok());
        assert!(interface("eth0 -j ACCEPT").is_err());
    }
}

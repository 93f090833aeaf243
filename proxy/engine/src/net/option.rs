//! Raw socket options (`core.v3.SocketOption`), and which sockets each is for.

use std::io;
use std::os::fd::AsFd;

use proxy_core::address::Address;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::socket_option::{SocketIpVersion, SocketState, Value};

/// A socket option by number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawOption {
    /// Level, `SOL_SOCKET` and so on.
    pub level: i32,
    /// Name within the level.
    pub name: i32,
    /// The value's bytes.
    pub value: Vec<u8>,
}

impl RawOption {
    /// Sets the option.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        super::sys::set_option(socket.as_fd(), self.level, self.name, &self.value)
    }
}

/// An option of stream sockets, and for which of them it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketOption {
    option: RawOption,
    /// When it is to be set.
    pub state: SocketState,
    only: SocketIpVersion,
}

impl SocketOption {
    /// `None` for an option of datagram sockets.
    pub fn build(proto: &core::SocketOption) -> Option<Self> {
        let kind = proto.r#type.as_ref();
        if kind.is_some_and(|kind| kind.stream.is_none() && kind.datagram.is_some()) {
            return None;
        }
        let value = match &proto.value {
            // Envoy narrows to the C int that the kernel takes.
            Some(Value::IntValue(value)) => (*value as i32).to_ne_bytes().to_vec(),
            Some(Value::BufValue(bytes)) => bytes.clone(),
            None => Vec::new(),
        };
        Some(Self {
            option: RawOption { level: proto.level as i32, name: proto.name as i32, value },
            state: SocketState::try_from(proto.state).unwrap_or(SocketState::StatePrebind),
            only: SocketIpVersion::try_from(proto.ip_version).unwrap_or(SocketIpVersion::Unspecified),
        })
    }

    /// The option, if it is for sockets of this version; a pipe has none.
    pub fn of_version(&self, version: SocketIpVersion) -> Option<&RawOption> {
        (self.only == SocketIpVersion::Unspecified || self.only == version).then_some(&self.option)
    }
}

/// Which version of IP an address is of.
pub fn version_of(address: &Address) -> SocketIpVersion {
    match address.ip() {
        Some(ip) if ip.is_ipv4() => SocketIpVersion::Ipv4,
        Some(_) => SocketIpVersion::Ipv6,
        None => SocketIpVersion::Unspecified,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_for_the_sockets_it_names() {
        use super::core::socket_option::{SocketType, socket_type};
        let number = |level: i64| core::SocketOption {
            level,
            value: Some(Value::IntValue(i64::from(u32::MAX))),
            ..core::SocketOption::default()
        };
        let any = SocketOption::build(&number(1)).unwrap();
        let expected = RawOption { level: 1, name: 0, value: vec![0xff; 4] };
        for version in [SocketIpVersion::Unspecified, SocketIpVersion::Ipv4, SocketIpVersion::Ipv6] {
            assert_eq!(any.of_version(version), Some(&expected));
        }
        let v6 = SocketOption::build(&core::SocketOption {
            ip_version: SocketIpVersion::Ipv6 as i32,
            ..number(1)
        });
        let v6 = v6.unwrap();
        assert_eq!(v6.of_version(SocketIpVersion::Ipv6), Some(&expected));
        for version in [SocketIpVersion::Unspecified, SocketIpVersion::Ipv4] {
            assert_eq!(v6.of_version(version), None);
        }
        let (stream, datagram) = (Some(socket_type::Stream {}), Some(socket_type::Datagram {}));
        for (stream, datagram, concerned) in
            [(stream, None, true), (None, datagram, false), (stream, datagram, true), (None, None, true)]
        {
            let proto = core::SocketOption { r#type: Some(SocketType { stream, datagram }), ..number(1) };
            assert_eq!(SocketOption::build(&proto).is_some(), concerned, "{proto:?}");
        }
    }
}

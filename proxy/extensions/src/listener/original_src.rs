//! `envoy.filters.listener.original_src`: connections to hosts on behalf of a connection come from its client's address.
//!
//! It takes the right to use any address (CAP_NET_ADMIN); without it such connections fail. Answers to the client's address
//! come back here only if the host routes them so, by the mark for instance.
//! Source: Envoy `docs/root/configuration/listeners/listener_filters/original_src_filter.rst`.

use std::sync::Arc;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::{ConnectionInfo, OriginalSource};
use xds_api::envoy::extensions::filters::listener::original_src::v3 as proto;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
    &[
        ("bind_port", FieldUse::Rejected("the client's port is not available, only its address")),
        ("mark", FieldUse::Used),
    ],
)];

/// The extension.
pub struct OriginalSrc;

impl ListenerFilterFactory for OriginalSrc {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.original_src",
            message: "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let proto::OriginalSrc { bind_port, mark } = decode(payload, cx)?;
        cx.reject_if(bind_port, "bind_port", "the client's port is not available, only its address")?;
        Ok(Arc::new(Filter { mark }))
    }
}

/// The filter and its configuration: it keeps nothing of a connection.
#[derive(Clone)]
struct Filter {
    mark: u32,
}

impl ListenerFilterConfig for Filter {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(self.clone())
    }
}

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        0
    }

    fn on_data(&mut self, _data: &[u8], _socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep {
        // A client at a pipe has no address that others could know.
        info.original_source = info.remote.ip().map(|ip| OriginalSource { ip, mark: self.mark });
        ListenerStep::Continue { consume: 0 }
    }
}

#[cfg(test)]
mod tests {
    use proxy_core::address::Address;

    use super::*;
    use crate::testing::{FakeSocket, connection_info};

    #[test]
    fn connections_come_from_the_client() {
        let mut info = connection_info();
        let mut filter = Filter { mark: 1337 };
        filter.on_data(b"", &FakeSocket(None), &mut info);
        let ip = [10, 0, 0, 1].into();
        assert_eq!(info.original_source, Some(OriginalSource { ip, mark: 1337 }));
        info.remote = Address::Pipe("/client".into());
        filter.on_data(b"", &FakeSocket(None), &mut info);
        assert_eq!(info.original_source, None);
    }
}

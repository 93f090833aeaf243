//! `envoy.filters.listener.original_dst`: the address a redirected client meant becomes the connection's local address.
//!
//! Source: Envoy `docs/root/configuration/listeners/listener_filters/original_dst_filter.rst`. Filter state of internal
//! listeners does not arise: there are none.

use std::sync::Arc;

use proxy_core::config::{BuildCx, MessageFields, Rejected};
use proxy_core::extension::listener_filter::{
    ListenerFilter, ListenerFilterConfig, ListenerFilterFactory, ListenerStep, Socket,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::ConnectionInfo;
use xds_api::envoy::extensions::filters::listener::original_dst::v3 as proto;

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] =
    &[("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", &[])];

/// The extension.
pub struct OriginalDst;

impl ListenerFilterFactory for OriginalDst {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.listener.original_dst",
            message: "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<Arc<dyn ListenerFilterConfig>, Rejected> {
        let proto::OriginalDst {} = decode(payload, cx)?;
        Ok(Arc::new(Self))
    }
}

impl ListenerFilterConfig for OriginalDst {
    fn create(&self) -> Box<dyn ListenerFilter> {
        Box::new(Filter)
    }
}

struct Filter;

impl ListenerFilter for Filter {
    fn max_read_bytes(&self) -> usize {
        0
    }

    fn on_data(&mut self, _data: &[u8], socket: &dyn Socket, info: &mut ConnectionInfo) -> ListenerStep {
        if let Some(original) = socket.original_destination() {
            info.restore_local(original);
        }
        ListenerStep::Continue { consume: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{FakeSocket, address, connection_info};

    #[test]
    fn a_redirected_connection_gets_its_address_back() {
        let mut info = connection_info();
        let local = info.local.clone();
        Filter.on_data(b"", &FakeSocket(None), &mut info);
        assert_eq!((&info.local, info.local_restored), (&local, false));
        Filter.on_data(b"", &FakeSocket(Some(address("9.9.9.9:443"))), &mut info);
        assert_eq!((&info.local, info.local_restored), (&address("9.9.9.9:443"), true));
    }
}

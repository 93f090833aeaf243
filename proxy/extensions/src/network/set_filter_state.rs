//! `envoy.filters.network.set_filter_state`: leaves values for other filters, routes and access logs when a connection is made.
//!
//! What `on_new_connection` sets, Envoy sets before the handshake of TLS; here that is done by then.
//! Source: Envoy `docs/root/configuration/listeners/network_filters/set_filter_state.rst`; observed on 1.40.

use std::sync::Arc;

use proxy_core::config::{BuildCx, FieldUse, MessageFields, Rejected};
use proxy_core::extension::network_filter::{
    ConnectionStep, NetworkFilter, NetworkFilterConfig, NetworkFilterFactory,
};
use proxy_core::extension::{Descriptor, SecurityPosture, Status, decode};
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::extensions::filters::network::set_filter_state::v3 as proto;

use crate::shared::set_filter_state::StateValue;
use FieldUse::Used;

const MESSAGE: &str = "envoy.extensions.filters.network.set_filter_state.v3.Config";
const DATA: &str = "values are set when a connection is made, not by its first bytes";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[(
    MESSAGE,
    &[
        ("on_new_connection", Used),
        ("on_downstream_tls_handshake", Used),
        ("on_downstream_data", FieldUse::Rejected(DATA)),
    ],
)];

/// The extension.
pub struct SetFilterState;

impl NetworkFilterFactory for SetFilterState {
    fn descriptor(&self) -> Descriptor {
        Descriptor {
            name: "envoy.filters.network.set_filter_state",
            message: MESSAGE,
            status: Status::Stable,
            posture: SecurityPosture::RobustToUntrustedDownstreamAndUpstream,
        }
    }

    fn build(&self, payload: &[u8], cx: &mut BuildCx<'_>) -> Result<NetworkFilterConfig, Rejected> {
        let proto::Config { on_new_connection, on_downstream_tls_handshake, on_downstream_data } =
            decode(payload, cx)?;
        cx.reject_if(!on_downstream_data.is_empty(), "on_downstream_data", DATA)?;
        let mut values = cx.each("on_new_connection", &on_new_connection, StateValue::build)?;
        // Without TLS, too, this is when the connection is ready for bytes.
        let shaken =
            cx.each("on_downstream_tls_handshake", &on_downstream_tls_handshake, StateValue::build)?;
        values.extend(shaken);
        let values: Arc<[StateValue]> = values.into();
        Ok(NetworkFilterConfig::Policy(Arc::new(move |_| Box::new(Filter(values.clone())))))
    }
}

struct Filter(Arc<[StateValue]>);

impl NetworkFilter for Filter {
    fn on_connection<'a>(&'a mut self, info: &'a mut StreamInfo) -> ConnectionStep<'a> {
        for value in &*self.0 {
            value.set(None, info);
        }
        ConnectionStep::Continue
    }
}

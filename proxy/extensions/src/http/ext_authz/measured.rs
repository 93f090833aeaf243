//! What is known of a call to the service, for access logs: `%FILTER_STATE(<name of the filter>:FIELD:latency_us)%`.

use std::any::Any;
use std::time::Duration;

use proxy_core::callout::Called;
use proxy_core::filter_state::FilterStateValue;
use proxy_core::stream_info::WireBytes;

use super::service::Service;

/// The value in the filter state.
#[derive(Debug, Default)]
pub(super) struct Measured {
    latency: Option<Duration>,
    /// Of services of gRPC alone.
    wire: Option<WireBytes>,
}

impl Measured {
    pub(super) fn of(service: &Service, called: &Called, latency: Duration) -> Self {
        let wire = match (service, called) {
            (Service::Grpc(_), Ok(answer)) => Some(answer.wire),
            (Service::Grpc(_), Err(_)) | (Service::Http(_), _) => None,
        };
        Self { latency: Some(latency), wire }
    }
}

impl FilterStateValue for Measured {
    fn to_text(&self) -> Option<String> {
        None
    }

    fn field(&self, name: &str) -> Option<String> {
        match name {
            "latency_us" => Some(self.latency?.as_micros().to_string()),
            "bytesSent" => Some(self.wire?.sent.to_string()),
            "bytesReceived" => Some(self.wire?.received.to_string()),
            _ => None,
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

//! TLVs that the configuration adds to headers of the PROXY protocol (`TlvEntry`): fixed values, and texts about a connection.
//!
//! Source: `envoy/config/core/v3/proxy_protocol.proto`; that texts are not encoded in any way, and their place, observed on Envoy 1.40.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::access_log::LogEntry;
use proxy_core::format::LineFormat;
use proxy_core::proxy_protocol::Tlv;
use proxy_core::stream_info::StreamInfo;
use xds_api::envoy::config::core::v3 as core;

/// TLVs of one place in the configuration.
#[derive(Debug, Default)]
pub(crate) struct AddedTlvs {
    fixed: Vec<Tlv>,
    /// Types, and what tells the values.
    formatted: Vec<(u8, LineFormat)>,
}

impl AddedTlvs {
    pub(crate) fn build(
        field: &'static str,
        entries: &[core::TlvEntry],
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let mut added = Self::default();
        cx.each(field, entries, |one, cx| added.add(one, cx))?;
        Ok(added)
    }

    fn add(&mut self, entry: &core::TlvEntry, cx: &mut BuildCx<'_>) -> Result<(), Rejected> {
        let core::TlvEntry { r#type, value, format_string } = entry;
        let kind = cx.at("type", |cx| kind(*r#type, cx))?;
        match (value.as_slice(), format_string) {
            ([], None) => {
                Err(cx.reject("Invalid TLV configuration: one of 'value' or 'format_string' must be set."))
            }
            ([], Some(format)) => {
                let format = cx.at("format_string", |cx| LineFormat::build(format, cx))?;
                self.formatted.push((kind, format));
                Ok(())
            }
            (value, None) => {
                self.fixed.push(Tlv { kind, value: value.into() });
                Ok(())
            }
            (_, Some(_)) => {
                Err(cx
                    .reject("Invalid TLV configuration: only one of 'value' or 'format_string' may be set."))
            }
        }
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.fixed.is_empty() && self.formatted.is_empty()
    }

    /// All of them for a connection, the fixed ones first.
    pub(crate) fn of(&self, info: impl FnOnce() -> StreamInfo) -> Vec<Tlv> {
        match self.formatted.is_empty() {
            true => self.fixed.clone(),
            false => self.about(&info()),
        }
    }

    /// All of them for a connection of which this is known.
    pub(crate) fn about(&self, info: &StreamInfo) -> Vec<Tlv> {
        let entry = LogEntry::of(info);
        let rendered = self.formatted.iter().map(|(kind, format)| {
            let mut value = Vec::new();
            format.render(&entry, &mut value);
            Tlv { kind: *kind, value: value.into() }
        });
        self.fixed.iter().cloned().chain(rendered).collect()
    }
}

/// A type of TLVs.
pub(super) fn kind(kind: u32, cx: &mut BuildCx<'_>) -> Result<u8, Rejected> {
    u8::try_from(kind).map_err(|_| cx.reject("value must be less than 256"))
}

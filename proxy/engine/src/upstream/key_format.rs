//! `header_key_format` of HTTP/1, which clients and hosts are given alike.
//!
//! Source: `envoy/config/core/v3/protocol.proto` (`Http1ProtocolOptions.HeaderKeyFormat`),
//! `envoy/extensions/http/header_formatters/preserve_case/v3/preserve_case.proto`.

use proxy_core::config::{BuildCx, Rejected};
use proxy_core::extension::decode;
use proxy_core::head::PreserveCase;
use xds_api::envoy::config::core::v3 as core;
use xds_api::envoy::config::core::v3::http1_protocol_options::header_key_format::HeaderFormat;
use xds_api::envoy::extensions::http::header_formatters::preserve_case::v3 as proto;

const PRESERVE_CASE: &str =
    "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig";

/// How names of header fields are written to an HTTP/1 peer, and what is kept of those it sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeaderKeyFormat {
    /// In lower case.
    #[default]
    Lower,
    /// `Proper-Case-Words`.
    ProperCase,
    /// Those it sends are kept, for whomever they are passed on to.
    Preserve(PreserveCase),
}

impl HeaderKeyFormat {
    /// Takes the format of `options`.
    ///
    /// # Errors
    /// A stateful formatter that is not `preserve_case`.
    pub fn build(options: &core::Http1ProtocolOptions, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let format = options.header_key_format.as_ref().and_then(|format| format.header_format.as_ref());
        match format {
            None => Ok(Self::Lower),
            Some(HeaderFormat::ProperCaseWords(_)) => Ok(Self::ProperCase),
            Some(HeaderFormat::StatefulFormatter(extension)) => {
                let path = ["header_key_format", "stateful_formatter", "typed_config"];
                cx.at(path[0], |cx| cx.at(path[1], |cx| cx.at(path[2], |cx| Self::stateful(extension, cx))))
            }
        }
    }

    fn stateful(extension: &core::TypedExtensionConfig, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let Some(any) = &extension.typed_config else { return Err(cx.reject("is required")) };
        let (message, payload) = cx.unpack(any)?;
        if message != PRESERVE_CASE {
            return Err(cx.reject(format!("header formatter '{message}' is not available")));
        }
        let proto: proto::PreserveCaseFormatterConfig = decode(&payload, cx)?;
        let others = proto.formatter_type_on_envoy_headers();
        Ok(Self::Preserve(PreserveCase {
            proper_case_for_others: others
                == proto::preserve_case_formatter_config::FormatterTypeOnEnvoyHeaders::ProperCase,
            reason_phrase: proto.forward_reason_phrase,
        }))
    }

    /// What is kept of the heads that the peer sends.
    pub fn kept(self) -> Option<PreserveCase> {
        match self {
            Self::Preserve(rules) => Some(rules),
            Self::Lower | Self::ProperCase => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::{Message as _, Name as _};

    use super::*;
    use proxy_core::config::BuildEnv;

    fn options(type_url: String, value: Vec<u8>) -> core::Http1ProtocolOptions {
        let any = prost_types::Any { type_url, value };
        let extension = core::TypedExtensionConfig { name: "x".into(), typed_config: Some(any) };
        core::Http1ProtocolOptions {
            header_key_format: Some(core::http1_protocol_options::HeaderKeyFormat {
                header_format: Some(HeaderFormat::StatefulFormatter(extension)),
            }),
            ..Default::default()
        }
    }

    #[test]
    fn preserve_case_is_taken_with_its_options() {
        let config = proto::PreserveCaseFormatterConfig {
            forward_reason_phrase: true,
            formatter_type_on_envoy_headers: 1,
        };
        let options = options(proto::PreserveCaseFormatterConfig::type_url(), config.encode_to_vec());
        let rules = PreserveCase { proper_case_for_others: true, reason_phrase: true };
        let built = HeaderKeyFormat::build(&options, &mut BuildCx::new(&BuildEnv::new(1))).ok();
        assert_eq!(built, Some(HeaderKeyFormat::Preserve(rules)));
    }

    #[test]
    fn another_formatter_is_refused_with_its_path() {
        let env = BuildEnv::new(1);
        let mut cx = BuildCx::new(&env);
        let options = options(core::Node::type_url(), vec![]);
        assert_eq!(HeaderKeyFormat::build(&options, &mut cx).ok(), None);
        let errors: Vec<_> = cx.into_errors().iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                "header_key_format.stateful_formatter.typed_config: header formatter 'envoy.config.core.v3.Node' is not available"
            ]
        );
    }
}

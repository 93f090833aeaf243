//! `envoy.config.route.v3.RateLimit`: what of a request is counted together with others, as routes, virtual hosts and the filters
//! that limit rates say it.
//!
//! Each rate limit makes a [`Descriptor`] of a request, an entry for each of its actions, or none if an action has nothing to say.
//! What comes of descriptors is the filters' business: buckets of their own, or a service that counts.
//! Source: Envoy `docs/root/configuration/http/http_filters/rate_limit_filter.rst`; answers observed on 1.40.

mod action;
mod extension;
mod fields;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use prost_types::value::Kind;
use smallvec::SmallVec;
use xds_api::envoy::config::route::v3 as proto;
use xds_api::envoy::config::route::v3::rate_limit::r#override::OverrideSpecifier;
use xds_api::envoy::config::route::v3::rate_limit::{HitsAddend, XRateLimitOption};
use xds_api::envoy::r#type::metadata::v3::MetadataKey;
use xds_api::envoy::r#type::v3::RateLimitUnit;

use crate::config::{BuildCx, Rejected};
use crate::extension::access_log::LogEntry;
use crate::extension::http_filter;
use crate::format::{Empty, Format};
use crate::head::{RequestHead, ResponseHead};
use crate::metadata::MetadataPath;
use crate::runtime::RuntimeFraction;
use crate::stream_info::StreamInfo;
use action::Action;

pub use extension::Tokens;
pub use fields::FIELDS;

/// Rate limits of a route, a virtual host or a filter. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct RateLimits(Arc<[RateLimit]>);

/// Where rate limits stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In a route or a virtual host.
    Route,
    /// In a filter, which has a stage and switches of its own.
    Filter,
}

/// One rate limit.
#[derive(Debug)]
pub struct RateLimit {
    /// Which filters heed it: those of the same stage.
    pub stage: u32,
    /// How many requests it holds for, where the runtime may say so (`disable_key`).
    pub switch: Option<RuntimeFraction>,
    /// It counts what was, when a stream is over, and limits nothing.
    pub on_stream_done: bool,
    actions: Box<[Action]>,
    limit: Option<Override>,
    hits: Hits,
    headers: HeadersOption,
}

/// Where the proxy knows the limit from.
#[derive(Debug)]
enum Override {
    Metadata(MetadataPath),
    Fixed(Limit),
}

/// How many hits a request is.
#[derive(Debug, Default)]
struct Hits {
    amount: Amount,
    /// They are given back.
    negative: bool,
}

#[derive(Debug, Default)]
enum Amount {
    /// What the filter says.
    #[default]
    Unsaid,
    Fixed(u64),
    Format(Box<Format>),
}

/// Whether `x-ratelimit-*` headers tell of a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadersOption {
    /// As the filter says.
    #[default]
    Unspecified,
    /// No.
    Off,
    /// Yes.
    DraftVersion03,
}

/// A request, to be described.
pub struct Subject<'a> {
    /// Its head.
    pub request: &'a RequestHead,
    /// The response, if there is one yet.
    pub response: Option<&'a ResponseHead>,
    /// What is known of its stream.
    pub info: &'a StreamInfo,
    /// The route that it matched.
    pub route: Option<&'a dyn http_filter::Route>,
    /// The cluster that this proxy belongs to.
    pub local_cluster: &'a str,
    /// What its tokens say, once somebody asked.
    pub tokens: Tokens,
}

/// What is counted together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// Keys and values, in the order of the actions.
    pub entries: SmallVec<[Entry<'a>; 2]>,
    /// The limit, if the proxy knows it.
    pub limit: Option<Limit>,
    /// How many hits, if the rate limit says.
    pub hits: Option<u64>,
    /// They are given back.
    pub negative_hits: bool,
    /// Whether headers tell of it.
    pub headers: HeadersOption,
}

/// A key and a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The key.
    pub key: Cow<'a, str>,
    /// The value.
    pub value: Cow<'a, str>,
}

/// So many requests in a unit of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many.
    pub requests: u32,
    /// In what.
    pub unit: RateLimitUnit,
}

impl RateLimits {
    /// Builds from the messages.
    pub fn build(
        field: &'static str,
        protos: &[proto::RateLimit],
        place: Place,
        cx: &mut BuildCx<'_>,
    ) -> Result<Self, Rejected> {
        let limits = cx.each(field, protos, |proto, cx| RateLimit::build(proto, place, cx))?;
        Ok(Self(limits.into()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that filters of this stage heed.
    pub fn of_stage(&self, stage: u32) -> impl Iterator<Item = &RateLimit> {
        self.0.iter().filter(move |limit| limit.stage == stage)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RateLimit> {
        self.0.iter()
    }
}

impl RateLimit {
    fn build(proto: &proto::RateLimit, place: Place, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::RateLimit {
            stage,
            disable_key,
            actions,
            limit,
            hits_addend,
            apply_on_stream_done,
            x_ratelimit_option,
        } = proto;
        if place == Place::Filter && (stage.is_some() || !disable_key.is_empty() || limit.is_some()) {
            let reason = "'stage', 'disable_key' and 'limit' are not available in rate limits of a filter";
            return Err(cx.reject(reason));
        }
        let actions = cx.each("actions", actions, Action::build);
        let limit = limit.as_ref().map(|limit| cx.at("limit", |cx| Override::build(limit, cx)));
        let hits = hits_addend.as_ref().map(|hits| cx.at("hits_addend", |cx| Hits::build(hits, cx)));
        if place == Place::Route {
            cx.reject_if(hits.is_some(), "hits_addend", fields::NO_HITS)?;
        }
        let headers = match XRateLimitOption::try_from(*x_ratelimit_option) {
            Ok(XRateLimitOption::Unspecified) => HeadersOption::Unspecified,
            Ok(XRateLimitOption::Off) => HeadersOption::Off,
            Ok(XRateLimitOption::DraftVersion03) => HeadersOption::DraftVersion03,
            Err(_) => {
                let reason = "value must be one of the defined enum values";
                return Err(cx.at("x_ratelimit_option", |cx| cx.reject(reason)));
            }
        };
        Ok(Self {
            stage: stage.unwrap_or(0),
            switch: (!disable_key.is_empty())
                .then(|| RuntimeFraction::all(&format!("ratelimit.{disable_key}.http_filter_enabled"))),
            on_stream_done: *apply_on_stream_done,
            actions: actions?.into(),
            limit: limit.transpose()?,
            hits: hits.transpose()?.unwrap_or_default(),
            headers,
        })
    }

    /// What `subject` is counted as; `None` if it is not counted.
    pub fn descriptor<'a>(&'a self, subject: &Subject<'a>) -> Option<Descriptor<'a>> {
        let mut entries = SmallVec::new();
        for action in &self.actions {
            entries.extend(action.entry(subject)?);
        }
        if entries.is_empty() {
            return None;
        }
        Some(Descriptor {
            entries,
            limit: self.limit.as_ref().and_then(|limit| limit.limit(subject.info)),
            hits: self.hits.amount(subject)?,
            negative_hits: self.hits.negative,
            headers: self.headers,
        })
    }
}

impl Hits {
    fn build(proto: &HitsAddend, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let HitsAddend { number, format, is_negative_hits } = proto;
        let amount = match (number, format.as_str()) {
            (Some(_), format) if !format.is_empty() => {
                return Err(cx.reject("hits_addend can only have one of number or format"));
            }
            (Some(number), _) => Amount::Fixed(*number),
            (None, "") => Amount::Unsaid,
            (None, format) => cx.at("format", |cx| {
                let parsed = Format::parse_with(format, Empty::Omit).map_err(|reason| cx.reject(reason))?;
                match parsed.is_one_command() {
                    true => Ok(Amount::Format(Box::new(parsed))),
                    false => Err(cx.reject("must be one substitution and nothing else")),
                }
            })?,
        };
        Ok(Self { amount, negative: *is_negative_hits })
    }

    /// How many hits, if it is said; `None` if what is said is no number.
    #[allow(clippy::option_option, reason = "unsaid is not unknown")]
    fn amount(&self, subject: &Subject<'_>) -> Option<Option<u64>> {
        match &self.amount {
            Amount::Unsaid => Some(None),
            Amount::Fixed(number) => Some(Some(*number)),
            Amount::Format(format) => {
                let said: f64 = render(format, subject).trim().parse().ok()?;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "none is negative"
                )]
                let whole = said as u64;
                (said >= 0.0).then_some(Some(whole))
            }
        }
    }
}

fn metadata_path(proto: Option<&MetadataKey>, cx: &mut BuildCx<'_>) -> Result<MetadataPath, Rejected> {
    cx.at("metadata_key", |cx| match proto {
        Some(key) => MetadataPath::build(key, cx),
        None => Err(cx.reject("value is required")),
    })
}

/// The limit that filters have left at `path`.
fn limit_at(path: &MetadataPath, info: &StreamInfo) -> Option<Limit> {
    let Kind::StructValue(fields) = info.dynamic_metadata(&path.namespace, &path.path)?.kind.as_ref()? else {
        return None;
    };
    let Kind::NumberValue(requests) = fields.fields.get("requests_per_unit")?.kind.as_ref()? else {
        return None;
    };
    let Kind::StringValue(unit) = fields.fields.get("unit")?.kind.as_ref()? else { return None };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float is cut to what fits"
    )]
    Some(Limit { requests: *requests as u32, unit: RateLimitUnit::from_str_name(unit)? })
}

impl Override {
    fn build(proto: &proto::rate_limit::Override, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        match &proto.override_specifier {
            None => Err(cx.reject("override_specifier: value is required")),
            Some(OverrideSpecifier::DynamicMetadata(metadata)) => cx.at("dynamic_metadata", |cx| {
                metadata_path(metadata.metadata_key.as_ref(), cx).map(Self::Metadata)
            }),
            Some(OverrideSpecifier::RateLimit(limit)) => cx.at("rate_limit", |cx| {
                let unit = RateLimitUnit::try_from(limit.unit).map_err(|_| {
                    cx.at("unit", |cx| cx.reject("value must be one of the defined enum values"))
                })?;
                Ok(Self::Fixed(Limit { requests: limit.requests_per_unit, unit }))
            }),
        }
    }

    fn limit(&self, info: &StreamInfo) -> Option<Limit> {
        match self {
            Self::Metadata(path) => limit_at(path, info),
            Self::Fixed(limit) => Some(*limit),
        }
    }
}

/// What `format` makes of a request.
fn render(format: &Format, subject: &Subject<'_>) -> String {
    let entry =
        LogEntry { request: Some(subject.request), response: subject.response, ..LogEntry::of(subject.info) };
    let mut text = Vec::new();
    format.render(&entry, &mut text);
    String::from_utf8(text).unwrap_or_else(|text| String::from_utf8_lossy(text.as_bytes()).into_owned())
}

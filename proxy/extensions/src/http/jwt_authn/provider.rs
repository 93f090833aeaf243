//! A provider: whose tokens are accepted, with which keys, and what becomes of what they say.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use http::{HeaderName, HeaderValue};
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use proxy_core::config::{BuildCx, Rejected, duration};
use proxy_core::head::RequestHead;
use proxy_core::matcher::string::StringMatcher;
use xds_api::envoy::config::core::v3::data_source::Specifier;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3 as proto;
use xds_api::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use xds_api::write::{JsonOptions, to_json};

use super::keys::Keys;
use super::location::{Found, Locations};
use super::remote::Remote;
use proxy_core::jwt::{self, BASE64, Failure, Token};

/// By how much clocks may differ where nothing is said.
const CLOCK_SKEW: u64 = 60;
/// How many tokens are remembered where nothing is said, and how long each may be.
const CACHED: usize = 100;
const LONGEST_CACHED: usize = 4096;

/// A provider.
pub(super) struct Provider {
    pub(super) issuer: String,
    audiences: Audiences,
    subjects: Option<StringMatcher>,
    requires_expiration: bool,
    longest: Option<Duration>,
    forwards: bool,
    clock_skew: u64,
    keys: Source,
    cache: Option<Cache>,
    pub(super) locations: Locations,
    payload_header: Option<HeaderName>,
    pads_payload: bool,
    claim_headers: Vec<ClaimHeader>,
    payload_metadata: String,
    space_delimited: Vec<String>,
    header_metadata: String,
    pub(super) failure_metadata: String,
    pub(super) clears_route: bool,
}

/// Where keys are.
enum Source {
    Here(Keys),
    Remote(Arc<Remote>),
}

struct ClaimHeader {
    name: HeaderName,
    path: Vec<String>,
}

/// When a request is judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    /// Seconds since 1970.
    pub(super) seconds: u64,
    /// The same on a clock that nobody sets.
    pub(super) moment: Instant,
}

/// Whom tokens are for; none means anybody.
#[derive(Debug, Default)]
pub(super) struct Audiences(Vec<String>);

impl Audiences {
    pub(super) fn new(names: &[String]) -> Self {
        Self(names.iter().map(|name| bare(name).to_owned()).collect())
    }

    fn allow<'a>(&self, mut audiences: impl Iterator<Item = &'a str>) -> bool {
        self.0.is_empty() || audiences.any(|one| self.0.iter().any(|name| name == bare(one)))
    }
}

/// An audience without its scheme and the slash at its end.
fn bare(audience: &str) -> &str {
    let rest = audience.strip_prefix("http://").or_else(|| audience.strip_prefix("https://"));
    let rest = rest.unwrap_or(audience);
    rest.strip_suffix('/').unwrap_or(rest)
}

/// Tokens whose signature was verified: the last so many.
struct Cache {
    most: usize,
    longest: usize,
    tokens: Mutex<Tokens>,
}

/// Tokens, and in which order they came.
#[derive(Default)]
struct Tokens {
    known: HashSet<Arc<str>>,
    order: VecDeque<Arc<str>>,
}

impl Cache {
    fn new(proto: proto::JwtCacheConfig) -> Self {
        let proto::JwtCacheConfig { jwt_cache_size, jwt_max_token_size } = proto;
        let or = |size: u32, default| if size == 0 { default } else { size as usize };
        Self {
            most: or(jwt_cache_size, CACHED),
            longest: or(jwt_max_token_size, LONGEST_CACHED),
            tokens: Mutex::default(),
        }
    }

    fn has(&self, token: &str) -> bool {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).known.contains(token)
    }

    fn add(&self, token: &str) {
        if token.len() > self.longest {
            return;
        }
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let Tokens { known, order } = &mut *tokens;
        let token: Arc<str> = token.into();
        if known.insert(token.clone()) {
            order.push_back(token);
        }
        if order.len() > self.most
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

impl Provider {
    /// Builds it.
    pub(super) fn build(proto: &proto::JwtProvider, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let mut locations = Locations::default();
        let located = locations.add(proto, cx);
        let keys = keys(proto.jwks_source_specifier.as_ref(), cx);
        let subjects = proto
            .subjects
            .as_ref()
            .map(|subjects| cx.at("subjects", |cx| StringMatcher::build(subjects, cx)))
            .transpose();
        let payload_header = match proto.forward_payload_header.as_str() {
            "" => Ok(None),
            name => cx.at("forward_payload_header", |cx| header_name(name, cx)).map(Some),
        };
        let claim_headers = cx.each("claim_to_headers", &proto.claim_to_headers, ClaimHeader::build);
        located?;
        Ok(Self {
            issuer: proto.issuer.clone(),
            audiences: Audiences::new(&proto.audiences),
            subjects: subjects?,
            requires_expiration: proto.require_expiration,
            longest: proto.max_lifetime.as_ref().and_then(duration),
            forwards: proto.forward,
            clock_skew: if proto.clock_skew_seconds == 0 {
                CLOCK_SKEW
            } else {
                proto.clock_skew_seconds.into()
            },
            keys: keys?,
            cache: proto.jwt_cache_config.map(Cache::new),
            locations,
            payload_header: payload_header?,
            pads_payload: proto.pad_forward_payload_header,
            claim_headers: claim_headers?,
            payload_metadata: proto.payload_in_metadata.clone(),
            space_delimited: proto
                .normalize_payload_in_metadata
                .as_ref()
                .map(|normalize| normalize.space_delimited_claims.clone())
                .unwrap_or_default(),
            header_metadata: proto.header_in_metadata.clone(),
            failure_metadata: proto.failed_status_in_metadata.clone(),
            clears_route: proto.clear_route_cache,
        })
    }

    /// Takes away what only this filter may say.
    pub(super) fn sanitize(&self, request: &mut RequestHead) {
        for name in self.payload_header.iter().chain(self.claim_headers.iter().map(|one| &one.name)) {
            request.headers.remove(name);
        }
    }

    /// Whether the signature of a token was verified before; `None` where nothing is remembered.
    pub(super) fn remembers(&self, token: &str) -> Option<bool> {
        self.cache.as_ref().map(|cache| cache.has(token))
    }

    /// The server that its keys are fetched from, if they are.
    pub(super) fn remote(&self) -> Option<&Arc<Remote>> {
        match &self.keys {
            Source::Remote(remote) => Some(remote),
            Source::Here(_) => None,
        }
    }

    /// Holds a token to what is demanded, but for its issuer.
    pub(super) fn judge(
        &self,
        token: &Token<'_>,
        audiences: Option<&Audiences>,
        Now { seconds: now, moment }: Now,
        is_known: bool,
    ) -> Result<(), Failure> {
        if now + self.clock_skew < token.not_before {
            return Err(Failure::NotYetValid);
        }
        if token.expires != 0 && now > token.expires.saturating_add(self.clock_skew) {
            return Err(Failure::Expired);
        }
        if !audiences.unwrap_or(&self.audiences).allow(token.audiences()) {
            return Err(Failure::AudienceNotAllowed);
        }
        if self.subjects.as_ref().is_some_and(|subjects| !subjects.matches(token.subject().as_bytes())) {
            return Err(Failure::VerificationFail);
        }
        if self.requires_expiration && token.expires == 0 {
            return Err(Failure::VerificationFail);
        }
        if let Some(longest) = self.longest
            && (token.expires == 0 || token.expires.saturating_sub(now) >= longest.as_secs())
        {
            return Err(Failure::VerificationFail);
        }
        match &self.keys {
            _ if is_known => Ok(()),
            Source::Here(keys) => keys.verify(token),
            Source::Remote(remote) => match remote.keys(moment) {
                Some(keys) => keys.verify(token),
                None => Err(Failure::KeysNotFetched),
            },
        }
    }

    /// Remembers that the signature was verified.
    pub(super) fn remember(&self, token: &str) {
        if let Some(cache) = &self.cache {
            cache.add(token);
        }
    }

    /// Passes on what a token says that was accepted.
    pub(super) fn apply(
        &self,
        token: &Token<'_>,
        found: &Found<'_>,
        request: &mut RequestHead,
        extracted: &mut Struct,
    ) {
        if let Some(name) = &self.payload_header {
            let payload = match self.pads_payload {
                true => BASE64.decode(token.payload_base64).map(|octets| URL_SAFE.encode(octets)),
                false => Ok(token.payload_base64.to_owned()),
            };
            let payload = payload.ok().and_then(|payload| HeaderValue::try_from(payload).ok());
            request.headers.extend(payload.map(|payload| (name.clone(), payload)));
        }
        for ClaimHeader { name, path } in &self.claim_headers {
            let value = jwt::claim(&token.payload, path).and_then(header_value);
            request.headers.extend(value.map(|value| (name.clone(), value)));
        }
        if !self.forwards {
            found.remove(request);
        }
        let mut tell = |name: &String, object: Struct| {
            let kind = Some(Kind::StructValue(object));
            extracted.fields.insert(name.clone(), Value { kind });
        };
        if !self.header_metadata.is_empty() {
            tell(&self.header_metadata, token.header.clone());
        }
        if !self.payload_metadata.is_empty() {
            let mut payload = token.payload.clone();
            for claim in &self.space_delimited {
                if let Some(value) = payload.fields.get_mut(claim) {
                    split_words(value);
                }
            }
            tell(&self.payload_metadata, payload);
        }
    }
}

/// A string becomes the list of its words.
fn split_words(value: &mut Value) {
    let Some(Kind::StringValue(text)) = &value.kind else { return };
    let word = |word: &str| Value { kind: Some(Kind::StringValue(word.to_owned())) };
    let values: Vec<Value> = text.split(' ').filter(|word| !word.is_empty()).map(word).collect();
    if !values.is_empty() {
        value.kind = Some(Kind::ListValue(ListValue { values }));
    }
}

/// A claim as the value of a header; `None` for what has no such form, and for what is empty.
fn header_value(claim: &Kind) -> Option<HeaderValue> {
    let text = match claim {
        Kind::StringValue(text) => text.clone(),
        Kind::BoolValue(value) => value.to_string(),
        #[expect(clippy::float_cmp, reason = "integers are exact")]
        Kind::NumberValue(number) if *number >= 0.0 && *number < 1.8e19 && number.trunc() == *number => {
            format!("{number:.0}")
        }
        Kind::NumberValue(number) => format!("{number:.6}"),
        Kind::StructValue(_) | Kind::ListValue(_) => URL_SAFE.encode(json_text(claim)?),
        Kind::NullValue(_) => return None,
    };
    if text.is_empty() { None } else { HeaderValue::try_from(text).ok() }
}

fn json_text(kind: &Kind) -> Option<String> {
    let value = Value { kind: Some(kind.clone()) }.encode_to_vec();
    let mut text = String::new();
    to_json("type.googleapis.com/google.protobuf.Value", &value, &JsonOptions::default(), &mut text).ok()?;
    Some(text)
}

impl ClaimHeader {
    fn build(proto: &proto::JwtClaimToHeader, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let proto::JwtClaimToHeader { header_name: name, claim_name, claim_path } = proto;
        let name = cx.at("header_name", |cx| header_name(name, cx));
        let path = match claim_path.is_empty() {
            true => claim_name.split('.').map(str::to_owned).collect(),
            false => claim_path.iter().map(|segment| segment.key.clone()).collect(),
        };
        Ok(Self { name: name?, path })
    }
}

fn header_name(name: &str, cx: &mut BuildCx<'_>) -> Result<HeaderName, Rejected> {
    HeaderName::try_from(name).map_err(|_| cx.reject("value is no name of a header"))
}

fn keys(source: Option<&JwksSourceSpecifier>, cx: &mut BuildCx<'_>) -> Result<Source, Rejected> {
    let source = match source {
        None => return Err(cx.at("jwks_source_specifier", |cx| cx.reject("value is required"))),
        Some(JwksSourceSpecifier::RemoteJwks(remote)) => {
            return cx
                .at("remote_jwks", |cx| Remote::build(remote, cx))
                .map(|remote| Source::Remote(Arc::new(remote)));
        }
        Some(JwksSourceSpecifier::LocalJwks(source)) => source,
    };
    cx.at("local_jwks", |cx| {
        cx.reject_if(source.watched_directory.is_some(), "watched_directory", "the file is read once")?;
        let text = match &source.specifier {
            Some(Specifier::InlineString(text)) => text.clone().into_bytes(),
            Some(Specifier::InlineBytes(bytes)) => bytes.clone(),
            Some(Specifier::Filename(path)) => std::fs::read(path)
                .map_err(|error| cx.reject(format!("unable to read file: {path}: {error}")))?,
            Some(Specifier::EnvironmentVariable(name)) => std::env::var(name)
                .map(String::into_bytes)
                .map_err(|_| cx.reject(format!("Environment variable doesn't exist: {name}")))?,
            None => return Err(cx.reject("specifier: value is required")),
        };
        let keys = Keys::parse(&text);
        keys.map(Source::Here)
            .map_err(|failure| cx.reject(format!("Local jwks is invalid: {}", failure.text())))
    })
}

//! Changes of headers that a service asks for, and the rules that say which it may ask for (`HeaderMutationRules`).

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use proxy_core::config::{BuildCx, Rejected};
use proxy_core::field_names::{Full, add, joins_in_request};
use proxy_core::head::{MOST_FIELDS, RequestHead, Scheme};
use proxy_core::headers::envoy_prefix;
use proxy_core::matcher::Regex;
use proxy_core::text::Text;
use xds_api::envoy::config::common::mutation_rules::v3::HeaderMutationRules;

/// How a header is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// One more of its name.
    Add,
    /// Joined to the first that is there by a comma, a cookie by `; `; nothing where nothing is there.
    AppendIfThere,
    /// Only where nothing is there.
    AddIfAbsent,
    /// In place of what is there.
    Overwrite,
    /// The same, only where something is there.
    OverwriteIfThere,
}

/// A change of one header, not yet looked at.
#[derive(Clone, Debug)]
pub struct Mutation {
    /// Its name, as the service wrote it.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
    /// How it is changed.
    pub action: Action,
}

impl Mutation {
    /// Whether it can stand in a head (`validate_mutations`).
    pub fn is_valid(&self) -> bool {
        let name = self.name.strip_prefix(':').unwrap_or(&self.name);
        HeaderName::from_bytes(name.as_bytes()).is_ok() && HeaderValue::from_bytes(&self.value).is_ok()
    }

    /// Changes `headers`, or says that they have room for no more; what can stand in no header changes nothing.
    pub fn apply(&self, headers: &mut HeaderMap, joins: fn(&HeaderName) -> bool) -> Result<(), Full> {
        let Some((name, value)) = self.parts() else { return Ok(()) };
        let is_there = headers.contains_key(&name);
        let adds = match self.action {
            Action::Add => true,
            Action::AddIfAbsent | Action::Overwrite => !is_there,
            Action::AppendIfThere | Action::OverwriteIfThere => false,
        };
        if adds && headers.len() >= MOST_FIELDS as usize {
            return Err(Full);
        }
        match self.action {
            Action::Add => add(headers, &name, value, joins)?,
            Action::AddIfAbsent if is_there => {}
            Action::OverwriteIfThere | Action::AppendIfThere if !is_there => {}
            Action::AddIfAbsent | Action::Overwrite | Action::OverwriteIfThere => {
                headers.insert(name, value);
            }
            Action::AppendIfThere => {
                if let Some(first) = headers.get_mut(&name) {
                    let comma: &[u8] = if name == header::COOKIE { b"; " } else { b"," };
                    let all = [first.as_bytes(), comma, value.as_bytes()].concat();
                    *first = HeaderValue::from_bytes(&all).unwrap_or(value);
                }
            }
        }
        Ok(())
    }

    /// As [`Self::apply`], where a name may be a pseudo-header's.
    pub fn apply_to_request(&self, request: &mut RequestHead) -> Result<(), Full> {
        let Some(field) = Pseudo::of(&self.name) else {
            return self.apply(&mut request.headers, joins_in_request);
        };
        // (A request has each of them, and one is all that it can have.)
        if self.action != Action::AddIfAbsent {
            field.set(request, &self.value);
        }
        Ok(())
    }

    fn parts(&self) -> Option<(HeaderName, HeaderValue)> {
        let name = HeaderName::from_bytes(self.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(&self.value).ok()?))
    }
}

/// What other headers of a request are fields of its head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pseudo {
    Authority,
    Method,
    Path,
    Scheme,
}

impl Pseudo {
    fn of(name: &str) -> Option<Self> {
        [
            (":authority", Self::Authority),
            ("host", Self::Authority),
            (":method", Self::Method),
            (":path", Self::Path),
            (":scheme", Self::Scheme),
        ]
        .into_iter()
        .find_map(|(known, field)| name.eq_ignore_ascii_case(known).then_some(field))
    }

    /// Sets the field, if it can have that value.
    fn set(self, request: &mut RequestHead, value: &[u8]) {
        let Ok(text) = std::str::from_utf8(value) else { return };
        if text.is_empty() || text.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
            return;
        }
        match self {
            Self::Authority => request.authority = Text::from(text),
            Self::Path => request.path = Text::from(text),
            Self::Method => {
                if let Ok(method) = Method::from_bytes(value) {
                    request.method = method;
                }
            }
            Self::Scheme => match text {
                "http" => request.scheme = Scheme::Http,
                "https" => request.scheme = Scheme::Https,
                _ => {}
            },
        }
    }
}

/// What is done to a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Set, added to, or overwritten.
    Set,
    /// Removed.
    Remove,
}

/// What the rules say of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ruling {
    /// It is made.
    Ok,
    /// It is not made.
    Ignore,
    /// It makes the whole answer invalid.
    Fail,
}

/// Which headers may be changed (`decoder_header_mutation_rules`).
#[derive(Debug)]
pub struct Rules {
    allow_all_routing: bool,
    allow_envoy: bool,
    disallow_system: bool,
    disallow_all: bool,
    allow: Option<Regex>,
    disallow: Option<Regex>,
    refusal: Ruling,
}

impl Rules {
    /// Builds from the message.
    pub fn build(proto: &HeaderMutationRules, cx: &mut BuildCx<'_>) -> Result<Self, Rejected> {
        let HeaderMutationRules {
            allow_all_routing,
            allow_envoy,
            disallow_system,
            disallow_all,
            allow_expression,
            disallow_expression,
            disallow_is_error,
        } = proto;
        let allow = allow_expression.as_ref();
        let allow = allow.map(|regex| cx.at("allow_expression", |cx| Regex::build(regex, cx))).transpose();
        let disallow = disallow_expression.as_ref();
        let disallow =
            disallow.map(|regex| cx.at("disallow_expression", |cx| Regex::build(regex, cx))).transpose();
        Ok(Self {
            allow_all_routing: allow_all_routing.unwrap_or(false),
            allow_envoy: allow_envoy.unwrap_or(false),
            disallow_system: disallow_system.unwrap_or(false),
            disallow_all: disallow_all.unwrap_or(false),
            allow: allow?,
            disallow: disallow?,
            refusal: match disallow_is_error.unwrap_or(false) {
                true => Ruling::Fail,
                false => Ruling::Ignore,
            },
        })
    }

    /// What they say of a change of `name`.
    pub fn check(&self, operation: Operation, name: &str) -> Ruling {
        if self.allows(operation, &name.to_ascii_lowercase()) { Ruling::Ok } else { self.refusal }
    }

    fn allows(&self, operation: Operation, name: &str) -> bool {
        if operation == Operation::Remove && !is_removable(name) {
            return false;
        }
        let matches =
            |regex: &Option<Regex>| regex.as_ref().is_some_and(|regex| regex.is_full_match(name.as_bytes()));
        if matches(&self.disallow) {
            return false;
        }
        if matches(&self.allow) {
            return true;
        }
        let is_routing = matches!(name, "host" | ":authority" | ":method" | ":scheme");
        let is_envoys = name.starts_with(envoy_prefix().trim_end_matches('-'));
        let is_kept = self.disallow_all
            || (is_routing && !self.allow_all_routing)
            || (name.starts_with(':') && self.disallow_system)
            || (is_envoys && !self.allow_envoy);
        !is_kept
    }
}

/// Whether a request can be without that header.
pub fn is_removable(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(':') && !name.eq_ignore_ascii_case("host")
}

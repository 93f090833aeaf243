//! How each field of the configuration is used.

use proxy_core::config::FieldUse::Used;
use proxy_core::config::MessageFields;

pub(super) const MESSAGE: &str = "envoy.extensions.filters.http.stateful_session.v3.StatefulSession";
pub(super) const ROUTE_MESSAGE: &str =
    "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute";
pub(super) const COOKIE: &str = "envoy.extensions.http.stateful_session.cookie.v3.CookieBasedSessionState";
pub(super) const HEADER: &str = "envoy.extensions.http.stateful_session.header.v3.HeaderBasedSessionState";
pub(super) const ENVELOPE: &str = "envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState";

/// How the fields of the configuration are used.
pub const FIELDS: &[MessageFields] = &[
    (
        MESSAGE,
        &[
            ("session_state", Used),
            ("strict", Used),
            ("stat_prefix", Used),
            ("status_on_strict_destination_not_found", Used),
        ],
    ),
    (ROUTE_MESSAGE, &[("disabled", Used), ("stateful_session", Used)]),
    (COOKIE, &[("cookie", Used)]),
    (HEADER, &[("name", Used)]),
    (ENVELOPE, &[("header", Used)]),
    ("envoy.extensions.http.stateful_session.envelope.v3.EnvelopeSessionState.Header", &[("name", Used)]),
    ("envoy.type.http.v3.Cookie", &[("name", Used), ("ttl", Used), ("path", Used), ("attributes", Used)]),
    ("envoy.type.http.v3.CookieAttribute", &[("name", Used), ("value", Used)]),
];

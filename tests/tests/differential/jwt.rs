//! Tokens that requests carry (`envoy.filters.http.jwt_authn`): good ones, and all that can be wrong with one.

#![expect(clippy::unwrap_used, reason = "what fails in a helper fails its test")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaKeyPair,
};
use aws_lc_rs::{hmac, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use integration::config::{HttpListener, file_log, indent};
use integration::differential::{Case, Do, Setup};
use integration::upstream::h2::H2Reply;
use serde_json::{Value, json};

const LOG: &str = "log_format: {text_format_source: {inline_string: \"s=%REQ(x-sentinel)%|code=%RESPONSE_CODE%\
|details=%RESPONSE_CODE_DETAILS%|flags=%RESPONSE_FLAGS%|route=%ROUTE_NAME%\
|payload=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload)%\
|header=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:header)%\
|other=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:other)%\
|failed=%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:failed)%\\n\"}}";

const SECRET: &[u8] = b"a secret that nobody knows";

/// One key of each kind.
struct Keys {
    ec256: EcdsaKeyPair,
    ec384: EcdsaKeyPair,
    ec521: EcdsaKeyPair,
    rsa: RsaKeyPair,
    ed: Ed25519KeyPair,
}

fn base64(octets: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

impl Keys {
    fn new() -> Self {
        let rsa = rsa::KeyPair::generate(KeySize::Rsa2048).unwrap();
        Self {
            ec256: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            ec384: EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap(),
            ec521: EcdsaKeyPair::generate(&ECDSA_P521_SHA512_FIXED_SIGNING).unwrap(),
            rsa,
            ed: Ed25519KeyPair::generate().unwrap(),
        }
    }

    /// `n` and `e` of the RSA key.
    fn rsa_parts(&self) -> (String, String) {
        // PKCS #1: a sequence, `n` of 257 octets of which the first is 0, `e`
        let der = self.rsa.public_key().as_ref();
        (base64(&der[9..265]), base64(&der[der.len() - 3..]))
    }

    /// The public keys, and the secret, as a set.
    fn set(&self) -> String {
        let elliptic = |key: &EcdsaKeyPair, name: &str, curve: &str| {
            let point = key.public_key().as_ref();
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({"kty": "EC", "kid": name, "crv": curve, "x": base64(x), "y": base64(y)})
        };
        let (n, e) = self.rsa_parts();
        let keys = json!({"keys": [
            elliptic(&self.ec256, "ec256", "P-256"),
            elliptic(&self.ec384, "ec384", "P-384"),
            elliptic(&self.ec521, "ec521", "P-521"),
            {"kty": "RSA", "kid": "rsa", "n": n, "e": e},
            {"kty": "RSA", "kid": "rsa-512", "alg": "RS512", "n": n, "e": e},
            {"kty": "oct", "kid": "oct", "k": base64(SECRET)},
            {"kty": "oct", "kid": "oct-256", "alg": "HS256", "k": base64(SECRET)},
            {"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AA", "y": "AA"},
            {"kty": "other"},
            {"kty": "OKP", "kid": "ed", "crv": "Ed25519", "x": base64(self.ed.public_key())},
        ]});
        keys.to_string()
    }

    fn sign(&self, algorithm: &str, text: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        let text = text.as_bytes();
        let rsa = |encoding| {
            let mut signature = vec![0; self.rsa.public_modulus_len()];
            self.rsa.sign(encoding, &random, text, &mut signature).unwrap();
            signature
        };
        let elliptic = |key: &EcdsaKeyPair| key.sign(&random, text).unwrap().as_ref().to_vec();
        let secret = |algorithm| hmac::sign(&hmac::Key::new(algorithm, SECRET), text).as_ref().to_vec();
        match algorithm {
            "ES256" => elliptic(&self.ec256),
            "ES384" => elliptic(&self.ec384),
            "ES512" => elliptic(&self.ec521),
            "RS256" => rsa(&RSA_PKCS1_SHA256),
            "RS384" => rsa(&RSA_PKCS1_SHA384),
            "RS512" => rsa(&RSA_PKCS1_SHA512),
            "PS256" => rsa(&RSA_PSS_SHA256),
            "PS384" => rsa(&RSA_PSS_SHA384),
            "PS512" => rsa(&RSA_PSS_SHA512),
            "EdDSA" => self.ed.sign(text).as_ref().to_vec(),
            "HS256" => secret(hmac::HMAC_SHA256),
            "HS384" => secret(hmac::HMAC_SHA384),
            "HS512" => secret(hmac::HMAC_SHA512),
            _ => Vec::new(),
        }
    }

    /// A token of these parts.
    fn token(&self, header: &str, payload: &str, algorithm: &str) -> String {
        let signed = format!("{}.{}", base64(header), base64(payload));
        let signature = base64(self.sign(algorithm, &signed));
        format!("{signed}.{signature}")
    }

    /// A token with these claims, signed with ES256.
    fn with(&self, claims: &Value) -> String {
        self.token(r#"{"alg":"ES256","kid":"ec256","typ":"JWT"}"#, &claims.to_string(), "ES256")
    }

    /// A token of an issuer.
    fn of(&self, issuer: &str) -> String {
        self.with(&json!({"iss": issuer, "sub": "ann", "exp": now() + 3600}))
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

fn filter(config: &str) -> String {
    format!(
        "- name: jwt\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication\n{}",
        indent(config, 4)
    )
}

/// A provider of this issuer with further fields.
fn provider(name: &str, issuer: &str, set: &str, fields: &str) -> String {
    let issuer = if issuer.is_empty() { String::new() } else { format!("issuer: {issuer}, ") };
    format!("  {name}: {{{issuer}local_jwks: {{inline_string: '{set}'}}{fields}}}\n")
}

const TELLS: &str =
    ", payload_in_metadata: payload, header_in_metadata: header, failed_status_in_metadata: failed";

struct Listeners {
    set: String,
    all: Vec<HttpListener>,
}

impl Listeners {
    /// A listener whose filter has these providers (name, issuer, fields) and this requirement.
    fn add(&mut self, name: &str, providers: &[(&str, &str, &str)], requires: &str) {
        self.add_with(name, providers, &format!("rules: [{{match: {{prefix: /}}, requires: {requires}}}]"));
    }

    fn add_with(&mut self, name: &str, providers: &[(&str, &str, &str)], rest: &str) {
        let providers: String = providers
            .iter()
            .map(|(name, issuer, fields)| provider(name, issuer, &self.set, fields))
            .collect();
        let config = format!("providers:\n{providers}{rest}");
        self.all.push(HttpListener::to_up(name).filters(&filter(&config)).logs(&file_log(LOG)));
    }
}

const DECODED: &str = "A token is taken out of the query and the rest stays as it came; Envoy decodes the rest, and sends \
spaces and worse within the request line";

const ONE: &str = "{provider_name: p}";

fn listeners(set: String) -> Vec<HttpListener> {
    let mut all = Listeners { set, all: Vec::new() };
    let p = |fields: &'static str| [("p", "i", fields)];
    let q = [("p", "i", TELLS), ("q", "j", ", payload_in_metadata: other")];
    all.add("one", &p(TELLS), ONE);
    all.add("silent", &p(""), ONE);
    all.add_with(
        "stripped",
        &p(""),
        "rules: [{match: {prefix: /}, requires: {provider_name: p}}]\nstrip_failure_response: true\nstat_prefix: mine",
    );
    all.add("audiences", &p(", audiences: [a, 'https://b/']"), ONE);
    all.add(
        "own_audiences",
        &p(", audiences: [a]"),
        "{provider_and_audiences: {provider_name: p, audiences: [c]}}",
    );
    all.add("no_issuer", &[("p", "", TELLS)], ONE);
    all.add("subjects", &p(", subjects: {prefix: a}"), ONE);
    all.add("expires", &p(", require_expiration: true"), ONE);
    all.add("short", &p(", max_lifetime: 600s"), ONE);
    all.add("skewed", &p(", clock_skew_seconds: 1000"), ONE);
    all.add(
        "places",
        &p(", from_headers: [{name: x-token, value_prefix: 'jwt='}, {name: x-plain}], from_params: [token, t2], from_cookies: [session], forward: true"),
        ONE,
    );
    all.add(
        "taken",
        &p(", from_headers: [{name: x-token}], from_params: [token], from_cookies: [session]"),
        ONE,
    );
    all.add(
        "claims",
        &p(", forward_payload_header: x-payload, claim_to_headers: [{header_name: x-sub, claim_name: sub}, {header_name: x-deep, claim_name: a.b}, \
            {header_name: x-number, claim_name: num}, {header_name: x-flag, claim_name: flag}, {header_name: x-list, claim_name: list}, \
            {header_name: x-object, claim_name: a}, {header_name: x-path, claim_path: [{key: 'x.y'}, {key: z}]}]"),
        ONE,
    );
    all.add("padded", &p(", forward_payload_header: x-payload, pad_forward_payload_header: true"), ONE);
    all.add(
        "words",
        &p(", payload_in_metadata: payload, normalize_payload_in_metadata: {space_delimited_claims: [scope, sub, none]}"),
        ONE,
    );
    all.add("cached", &p(", jwt_cache_config: {jwt_cache_size: 2}, payload_in_metadata: payload"), ONE);
    all.add("any", &q, "{requires_any: {requirements: [{provider_name: p}, {provider_name: q}]}}");
    all.add("all", &q, "{requires_all: {requirements: [{provider_name: p}, {provider_name: q}]}}");
    all.add("any_or_none", &q, "{requires_any: {requirements: [{provider_name: p}, {allow_missing: {}}]}}");
    all.add(
        "any_or_bad",
        &q,
        "{requires_any: {requirements: [{provider_name: p}, {allow_missing_or_failed: {}}]}}",
    );
    all.add("none_needed", &q, "{allow_missing: {}}");
    all.add("bad_allowed", &q, "{allow_missing_or_failed: {}}");
    all.add("bad_allowed_one", &p(TELLS), "{allow_missing_or_failed: {}}");
    all.add(
        "extracted",
        &[
            ("p", "i", ", forward_payload_header: x-payload, payload_in_metadata: payload, failed_status_in_metadata: failed, claim_to_headers: [{header_name: x-sub, claim_name: sub}]"),
            ("q", "j", ", payload_in_metadata: other, forward: true, audiences: [a], failed_status_in_metadata: failed"),
        ],
        "{extract_only_without_validation: {}}",
    );
    all.add(
        "extracted_named",
        &p(TELLS),
        "{extract_only_without_validation: {verification_status_header: X-Status}}",
    );
    all.add("nothing", &q, "{}");
    all.add_with(
        "rules",
        &p(", payload_in_metadata: payload"),
        "bypass_cors_preflight: true
requirement_map: {named: {provider_name: p}}
rules:
- match: {path: /free}
- match: {prefix: /open, headers: [{name: x-open, present_match: true}]}
- match: {prefix: /case, case_sensitive: false}
  requirement_name: named
- match: {safe_regex: {regex: '/re[0-9]+'}}
  requires: {provider_name: p}
- match: {path_separated_prefix: /seg}
  requires: {provider_name: p}
- match: {prefix: /query, query_parameters: [{name: q}]}
  requires: {provider_name: p}",
    );
    all.add_routed();
    all.all
}

impl Listeners {
    /// Where the route says which token is wanted, and where a token decides about the route.
    fn add_routed(&mut self) {
        let filters = filter(&format!(
            "providers:\n{}requirement_map: {{named: {{provider_name: p}}}}\nrules: [{{match: {{prefix: /}}, requires: {{provider_name: p}}}}]",
            provider("p", "i", &self.set, "")
        ));
        let own = |prefix: &str, config: &str| {
            format!(
                "- match: {{prefix: {prefix}}}\n  route: {{cluster: up}}\n  typed_per_filter_config:\n    jwt: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.PerRouteConfig, {config}}}\n"
            )
        };
        let routes = [
            own("/off", "disabled: true"),
            own("/named", "requirement_name: named"),
            own("/wrong", "requirement_name: wrong"),
            "- match: {prefix: /}\n  route: {cluster: up}\n".to_owned(),
        ];
        self.all.push(HttpListener::new("by_route", &routes.concat()).filters(&filters).logs(&file_log(LOG)));
        let filters = filter(&format!(
            "providers:\n{}rules: [{{match: {{prefix: /}}, requires: {{provider_name: p}}}}]",
            provider("p", "i", &self.set, ", payload_in_metadata: payload, clear_route_cache: true")
        ));
        let claim = "dynamic_metadata: [{filter: envoy.filters.http.jwt_authn, path: [{key: payload}, {key: sub}], value: {string_match: {exact: ann}}}]";
        let routes = format!(
            "- match: {{prefix: /, {claim}}}\n  name: of-ann\n  route: {{cluster: up}}\n- match: {{prefix: /}}\n  name: of-others\n  route: {{cluster: up}}\n"
        );
        self.all.push(HttpListener::new("cleared", &routes).filters(&filters).logs(&file_log(LOG)));
    }
}

/// Listeners and cases; they share keys.
pub(crate) fn setup_and_cases() -> (Setup, Vec<Case>) {
    let keys = Keys::new();
    let remote = remote_listeners();
    let all = listeners(keys.set()).into_iter().chain(remote).map(|listener| listener.yaml());
    let setup = Setup::new("jwt", all);
    let mut cases = algorithm_cases(&keys);
    cases.extend(form_cases(&keys));
    cases.extend(claim_cases(&keys));
    cases.extend(place_cases(&keys));
    cases.extend(requirement_cases(&keys));
    cases.extend(extraction_cases(&keys));
    cases.extend(remote_cases(&keys));
    (setup, cases)
}

/// Listeners whose keys the HTTP/2 upstream has. (Each remembers what it got: those of a case are not those of others.)
fn remote_listeners() -> Vec<HttpListener> {
    let listener = |name: &str, cluster: &str, fields: &str| {
        let uri =
            format!("http_uri: {{uri: \"https://keys.example/set?a=b\", cluster: {cluster}, timeout: 5s}}");
        let config = format!(
            "providers:\n  p: {{issuer: i, remote_jwks: {{{uri}{fields}}}}}\nrules: [{{match: {{prefix: /}}, requires: {{provider_name: p}}}}]"
        );
        HttpListener::to_up(name).filters(&filter(&config)).logs(&file_log(LOG))
    };
    let again = ", retry_policy: {num_retries: 2, retry_back_off: {base_interval: 0.001s, max_interval: 4s}}";
    vec![
        listener("remote", "h2up", ""),
        listener("remote_short", "h2up", ", cache_duration: 0.2s"),
        listener("remote_failing", "h2up", ""),
        listener("remote_again", "h2up", again),
        listener("remote_in_vain", "h2up", again),
        listener("remote_gone", "refused", ""),
    ]
}

fn remote_cases(keys: &Keys) -> Vec<Case> {
    let set = || H2Reply::new(200, &keys.set());
    let good = bearer(&keys.of("i"));
    let get = |name, listener| Case::get(name, listener, "/", &good);
    let twice = |name, listener| {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\n{good}\r\n").into_bytes();
        let again = Do::Send(request.clone());
        let steps = [
            Do::Send(request),
            Do::Response("GET"),
            Do::Pause(Duration::from_millis(300)),
            again,
            Do::Response("GET"),
        ];
        Case::steps(name, listener, steps)
    };
    let bad = keys.token(r#"{"alg":"ES256","kid":"ec256"}"#, r#"{"iss":"i","exp":1}"#, "ES256");
    vec![
        Case::get("no token asks for no keys", "remote", "/", ""),
        Case::get("a token that is over asks for no keys", "remote", "/", &bearer(&bad)),
        Case::get("another issuer asks for no keys", "remote", "/", &bearer(&keys.of("j"))),
        get("keys are fetched", "remote").h2_reply(set()),
        get("keys are kept", "remote"),
        twice("keys are kept for so long", "remote_short").h2_reply(set()).h2_reply(set()),
        get("keys that are not there", "remote_failing").h2_reply(H2Reply::new(404, "no")),
        get("keys that are none", "remote_failing").h2_reply(H2Reply::new(200, "no")),
        get("keys of an empty set", "remote_failing").h2_reply(H2Reply::new(200, "{\"keys\": []}")),
        get("keys after failures", "remote_failing").h2_reply(set()),
        get("keys that are asked for again", "remote_again")
            .h2_reply(H2Reply::new(503, "busy"))
            .h2_reply(set()),
        get("keys that are asked for in vain", "remote_in_vain")
            .h2_reply(H2Reply::new(503, "busy"))
            .h2_reply(H2Reply::refuse(2))
            .h2_reply(H2Reply::new(500, "busy")),
        get("a server of keys that is gone", "remote_gone"),
    ]
}

fn extraction_cases(keys: &Keys) -> Vec<Case> {
    let get = |name, lines: &str| Case::get(name, "extracted", "/", lines);
    let unsigned = |claims: &str| {
        format!("{}.{}.{}", base64(r#"{"alg":"ES256","kid":"ec256"}"#), base64(claims), base64("x"))
    };
    vec![
        get("looked at, good", &bearer(&keys.of("i"))),
        get("looked at, none", "x-payload: mine\r\n"),
        get("looked at, unsigned", &bearer(&unsigned(r#"{"iss":"i","sub":"eve"}"#))),
        get("looked at, of the second", &bearer(&unsigned(r#"{"iss":"j","sub":"eve"}"#))),
        get("looked at, over and for others", &bearer(&unsigned(r#"{"iss":"i","exp":1,"aud":"b"}"#))),
        get("looked at, of nobody", &bearer(&unsigned(r#"{"iss":"k"}"#))),
        get(
            "looked at, good and marked",
            &format!("{}x-jwt-signature-verified: true\r\n", bearer(&keys.of("i"))),
        ),
        get("looked at, bad and marked", &format!("{}x-jwt-signature-verified: true\r\n", bearer("a.b.c"))),
        Case::get("looked at, the second bad", "extracted", "/?access_token=a.b.c", &bearer(&keys.of("i"))),
        Case::get(
            "looked at, the first bad",
            "extracted",
            &format!("/?access_token={}", keys.of("i")),
            &bearer("a.b.c"),
        ),
        get("looked at, no token", &bearer("a.b.c")),
        Case::get("looked at, bad and named", "extracted_named", "/", &bearer("a.b.c")),
        Case::get("looked at, good and named", "extracted_named", "/", &bearer(&keys.of("i"))),
        get("looked at, no algorithm", &bearer(&format!("{}.{}.", base64("{}"), base64(r#"{"iss":"i"}"#)))),
    ]
}

fn algorithm_cases(keys: &Keys) -> Vec<Case> {
    let claims = json!({"iss": "i", "exp": now() + 3600}).to_string();
    let mut cases = Vec::new();
    for (algorithm, key) in [
        ("ES256", "ec256"),
        ("ES384", "ec384"),
        ("ES512", "ec521"),
        ("RS256", "rsa"),
        ("RS384", "rsa"),
        ("RS512", "rsa"),
        ("PS256", "rsa"),
        ("PS384", "rsa"),
        ("PS512", "rsa"),
        ("EdDSA", "ed"),
        ("HS256", "oct"),
        ("HS384", "oct"),
        ("HS512", "oct"),
    ] {
        let header = json!({"alg": algorithm, "kid": key}).to_string();
        let token = keys.token(&header, &claims, algorithm);
        cases.push(Case::get(algorithm, "one", "/", &bearer(&token)));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let other = format!("{signed}.{}", base64(keys.sign(algorithm, "another text")));
        cases.push(Case::get("a signature of another text", "one", "/", &bearer(&other)));
        let unnamed = keys.token(&json!({"alg": algorithm}).to_string(), &claims, algorithm);
        cases.push(Case::get("no key named", "one", "/", &bearer(&unnamed)));
    }
    let mut with = |name: &'static str, header: Value, algorithm: &str| {
        let token = keys.token(&header.to_string(), &claims, algorithm);
        cases.push(Case::get(name, "one", "/", &bearer(&token)));
    };
    with("no algorithm", json!({"kid": "ec256"}), "ES256");
    with("algorithm none", json!({"alg": "none"}), "none");
    with("algorithm None", json!({"alg": "None"}), "ES256");
    with("an unknown algorithm", json!({"alg": "ES257", "kid": "ec256"}), "ES256");
    with("an algorithm that is no string", json!({"alg": 1}), "ES256");
    with("an unknown key", json!({"alg": "ES256", "kid": "none"}), "ES256");
    with("a key that is no string", json!({"alg": "ES256", "kid": 1}), "ES256");
    with("a key that leads elsewhere", json!({"alg": "ES256", "kid": "../../ec256"}), "ES256");
    with("a key of another kind", json!({"alg": "ES256", "kid": "rsa"}), "ES256");
    with("a key of another curve", json!({"alg": "ES256", "kid": "ec384"}), "ES256");
    with("a key for another algorithm", json!({"alg": "RS256", "kid": "rsa-512"}), "RS256");
    with("a key for this algorithm", json!({"alg": "RS512", "kid": "rsa-512"}), "RS512");
    with("a key that is broken", json!({"alg": "ES256", "kid": "broken"}), "ES256");
    with(
        "an unknown extension that matters",
        json!({"alg": "ES256", "kid": "ec256", "crit": ["x"], "x": 1}),
        "ES256",
    );
    // who takes the public key for a secret can be fooled
    let (n, _) = keys.rsa_parts();
    let signed = format!("{}.{}", base64(r#"{"alg":"HS256","kid":"rsa"}"#), base64(&claims));
    let forged = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, n.as_bytes()), signed.as_bytes());
    let forged = format!("{signed}.{}", base64(forged));
    cases.push(Case::get("a public key as secret", "one", "/", &bearer(&forged)));
    cases
}

fn form_cases(keys: &Keys) -> Vec<Case> {
    let get = |name, token: &str| Case::get(name, "one", "/", &bearer(token));
    let good = keys.of("i");
    let parts: Vec<&str> = good.split('.').collect();
    let (header, payload, signature) = (parts[0], parts[1], parts[2]);
    let es256 = r#"{"alg":"ES256","kid":"ec256"}"#;
    let raw = |payload: &str| keys.token(es256, payload, "ES256");
    let padded = |text: &str| URL_SAFE.encode(URL_SAFE_NO_PAD.decode(text).unwrap());
    let padded_parts = format!("{}.{}", padded(header), padded(payload));
    let padded_token = format!("{padded_parts}.{}", padded(&base64(keys.sign("ES256", &padded_parts))));
    vec![
        Case::get("no token", "one", "/", ""),
        Case::get("no token, with a query", "one", "/a?b=c#d", ""),
        Case::get("no token, a long path", "one", &format!("/{}", "a".repeat(300)), ""),
        Case::send("no token, HTTP/1.0", "one", "GET /a HTTP/1.0\r\nhost: test\r\n\r\n"),
        Case::get("a gRPC request without", "one", "/", "content-type: application/grpc\r\n"),
        get("an empty token", ""),
        get("no dots", "abc"),
        get("one dot", &format!("{header}.{payload}")),
        get("three dots", &format!("{good}.")),
        get("four parts", &format!("{good}.a")),
        get("two dots in a row", &format!("{header}..{payload}.{signature}")),
        get("no signature", &format!("{header}.{payload}.")),
        get("a header that is no base64", &format!("!{header}.{payload}.{signature}")),
        get("a payload that is no base64", &format!("{header}.{payload}!.{signature}")),
        get("a signature that is no base64", &format!("{header}.{payload}.{signature}!")),
        get("a short signature", &format!("{header}.{payload}.{}", &signature[..8])),
        get(
            "one octet of a signature missing",
            &format!("{header}.{payload}.{}", &signature[..signature.len() - 2]),
        ),
        get("a header that is no JSON", &keys.token("{alg", "{}", "ES256")),
        get("a header that is no object", &keys.token("[]", "{}", "ES256")),
        get("an empty header", &keys.token("", "{}", "ES256")),
        get("a payload that is no JSON", &raw("{")),
        get("a payload that is no object", &raw("1")),
        get("a payload with something after it", &raw(r#"{"iss":"i"} x"#)),
        get("a claim twice", &raw(r#"{"iss":"j","iss":"i"}"#)),
        get("a claim twice, the other way", &raw(r#"{"iss":"i","iss":"j"}"#)),
        get("a deep payload", &raw(&format!(r#"{{"iss":"i","a":{}{}}}"#, "[".repeat(90), "]".repeat(90)))),
        get(
            "a payload too deep",
            &raw(&format!(r#"{{"iss":"i","a":{}{}}}"#, "[".repeat(1000), "]".repeat(1000))),
        ),
        get("padding", &padded_token),
        get("words after the token", &format!("{good} and more")),
        Case::get("a scheme in lower case", "one", "/", &format!("authorization: bearer {good}\r\n")),
        Case::get("another scheme", "one", "/", &format!("authorization: Basic {good}\r\n")),
        Case::get("more spaces", "one", "/", &format!("authorization: Bearer    {good}\r\n")),
        Case::get("a word before", "one", "/", &format!("authorization: x Bearer {good}\r\n")),
        Case::get("quotes", "one", "/", &format!("authorization: Bearer \"{good}\"\r\n")),
        Case::get("two tokens, both good", "one", "/", &(bearer(&good) + &bearer(&good))),
        Case::get("two tokens, the first bad", "one", "/", &(bearer("bad") + &bearer(&good))),
        Case::get("two tokens, the second bad", "one", "/", &(bearer(&good) + &bearer("bad"))),
        Case::get("header good, parameter bad", "one", "/?access_token=bad", &bearer(&good)),
        Case::get("parameter", "one", &format!("/a?access_token={good}"), ""),
        Case::get("stripped, no token", "stripped", "/", ""),
        Case::get("stripped, a bad token", "stripped", "/", &bearer("bad")),
    ]
}

fn claim_cases(keys: &Keys) -> Vec<Case> {
    let now = now();
    let mut cases = Vec::new();
    let mut get = |name: &'static str, listener: &'static str, claims: Value| {
        cases.push(Case::get(name, listener, "/", &bearer(&keys.with(&claims))));
    };
    for (name, claims) in [
        ("another issuer", json!({"iss": "j"})),
        ("no issuer", json!({"sub": "ann"})),
        ("an issuer that is no string", json!({"iss": 1})),
        ("an issuer that is null", json!({"iss": null})),
        ("a subject that is no string", json!({"iss": "i", "sub": []})),
        ("an id that is no string", json!({"iss": "i", "jti": 1})),
        ("no end", json!({"iss": "i"})),
        ("ended long ago", json!({"iss": "i", "exp": now - 3600})),
        ("ended within the skew", json!({"iss": "i", "exp": now - 30})),
        ("ended beyond the skew", json!({"iss": "i", "exp": now - 90})),
        ("an end that is no number", json!({"iss": "i", "exp": "1"})),
        ("an end with a fraction", json!({"iss": "i", "exp": now as f64 + 0.5})),
        ("an end before 1970", json!({"iss": "i", "exp": -1})),
        ("an end far away", json!({"iss": "i", "exp": 1e30})),
        ("an end at 0", json!({"iss": "i", "exp": 0})),
        ("not yet", json!({"iss": "i", "nbf": now + 3600})),
        ("soon", json!({"iss": "i", "nbf": now + 30})),
        ("a beginning that is no number", json!({"iss": "i", "nbf": true})),
        ("a beginning before 1970", json!({"iss": "i", "nbf": -5})),
        ("issued in the future", json!({"iss": "i", "iat": now + 3600})),
        ("issued at no number", json!({"iss": "i", "iat": {}})),
        ("issued before 1970", json!({"iss": "i", "iat": -5})),
        ("audiences that are no strings", json!({"iss": "i", "aud": [1]})),
        ("an audience that is an object", json!({"iss": "i", "aud": {}})),
        ("an audience", json!({"iss": "i", "aud": "x"})),
    ] {
        get(name, "one", claims);
    }
    for (name, audience) in [
        ("audience", json!("a")),
        ("another audience", json!("c")),
        ("audience, with a scheme", json!("https://a/")),
        ("audience, without one", json!("b")),
        ("audience, with another scheme", json!("http://b")),
        ("audiences, one of them", json!(["x", "a"])),
        ("audiences, none of them", json!(["x", "y"])),
        ("no audiences", json!([])),
    ] {
        get(name, "audiences", json!({"iss": "i", "aud": audience}));
        get(name, "own_audiences", json!({"iss": "i", "aud": audience}));
    }
    get("no audience", "audiences", json!({"iss": "i"}));
    get("anybody's", "no_issuer", json!({"iss": "x", "exp": now + 60}));
    get("nobody's", "no_issuer", json!({}));
    get("subject", "subjects", json!({"iss": "i", "sub": "ann"}));
    get("another subject", "subjects", json!({"iss": "i", "sub": "bob"}));
    get("no subject", "subjects", json!({"iss": "i"}));
    get("an end is needed", "expires", json!({"iss": "i"}));
    get("an end is there", "expires", json!({"iss": "i", "exp": now + 1_000_000}));
    get("short enough", "short", json!({"iss": "i", "exp": now + 300}));
    get("too long", "short", json!({"iss": "i", "exp": now + 3600}));
    get("short, without end", "short", json!({"iss": "i"}));
    get("ended within a long skew", "skewed", json!({"iss": "i", "exp": now - 900}));
    let all = json!({"iss": "i", "sub": "ann", "num": 12, "flag": true, "list": ["a", 1], "a": {"b": "deep"}, "x.y": {"z": "dotted"}});
    get("claims as headers", "claims", all.clone());
    get(
        "claims as headers, others",
        "claims",
        json!({"iss": "i", "sub": "", "num": 1.5, "flag": false, "list": [], "a": {"b": null}}),
    );
    get("claims as headers, numbers", "claims", json!({"iss": "i", "num": -3}));
    get("claims as headers, large numbers", "claims", json!({"iss": "i", "num": 12_345_678_901_234_i64}));
    get("a claim that is not ASCII", "claims", json!({"iss": "i", "sub": "\u{fc}ber"}));
    get("payload, padded", "padded", json!({"iss": "i", "sub": "anna"}));
    get("words", "words", json!({"iss": "i", "scope": "a  b c", "sub": ""}));
    get("words that are none", "words", json!({"iss": "i", "scope": ["a b"], "sub": 1}));
    get("a number in metadata", "one", json!({"iss": "i", "num": 12_345_678_901_234_567_890_u64, "m": 0.1}));
    for _ in 0..2 {
        get("remembered", "cached", all.clone());
        get("remembered, ended", "cached", json!({"iss": "i", "exp": now - 90}));
    }
    get("routes by claims", "cleared", json!({"iss": "i", "sub": "ann"}));
    get("routes by claims, others", "cleared", json!({"iss": "i", "sub": "bob"}));
    let forged = "x-sub: root\r\nx-payload: forged\r\nx-number: 7\r\n".to_owned();
    cases.push(Case::get(
        "headers that only the filter sets",
        "claims",
        "/",
        &(forged + &bearer(&keys.with(&all))),
    ));
    cases
}

fn place_cases(keys: &Keys) -> Vec<Case> {
    let good = keys.of("i");
    let encoded = good.replace('.', "%2E");
    let mut cases = Vec::new();
    for listener in ["places", "taken"] {
        let get = |name, target: &str, lines: &str| Case::get(name, listener, target, lines);
        cases.extend([
            get("not where it is expected", "/", &bearer(&good)),
            get("header with a prefix", "/", &format!("x-token: jwt={good}\r\n")),
            get("header without its prefix", "/", &format!("x-token: {good}\r\n")),
            get("header without any", "/", &format!("x-plain: {good}\r\n")),
            get("parameter", &format!("/a?x=1&token={good}&y=2"), ""),
            get("parameter, alone", &format!("/a?token={good}"), ""),
            match listener {
                "taken" => get("parameter, encoded", &format!("/a?token={encoded}&b=%20+c"), "")
                    .differs("upstream[0].line", DECODED),
                _ => get("parameter, encoded", &format!("/a?token={encoded}&b=%20+c"), ""),
            },
            get("parameter, twice", &format!("/a?token={good}&token=bad"), ""),
            get("parameter, empty", "/a?token=", ""),
            get("parameter, with a fragment", &format!("/a?token={good}#b"), ""),
            get("cookie", "/", &format!("cookie: a=b; session={good}; c=d\r\n")),
            get("cookie, quoted", "/", &format!("cookie: session=\"{good}\"\r\n")),
            get("cookie, twice", "/", &format!("cookie: session={good}; session=bad\r\n")),
            get(
                "everywhere",
                &format!("/a?token={good}"),
                &format!("x-token: {good}\r\ncookie: session={good}\r\n"),
            ),
            get("everywhere, one bad", &format!("/a?token={good}"), "cookie: session=bad\r\n"),
        ]);
    }
    cases
}

fn requirement_cases(keys: &Keys) -> Vec<Case> {
    let (i, j, x) = (keys.of("i"), keys.of("j"), keys.of("x"));
    let ended = keys.with(&json!({"iss": "i", "exp": now() - 3600}));
    let mut cases = Vec::new();
    for listener in [
        "any",
        "all",
        "any_or_none",
        "any_or_bad",
        "none_needed",
        "bad_allowed",
        "bad_allowed_one",
        "nothing",
    ] {
        let get = |name, token: &str| Case::get(name, listener, "/", &bearer(token));
        cases.extend([
            Case::get("no token", listener, "/", ""),
            get("of the one", &i),
            get("of the other", &j),
            get("of neither", &x),
            get("ended", &ended),
            get("bad", "bad"),
            Case::get("of both", listener, "/", &(bearer(&i) + &bearer(&j))),
            Case::get("good and bad", listener, "/", &(bearer(&i) + &bearer("bad"))),
            Case::get("bad and good", listener, &format!("/?access_token={i}"), &bearer("bad")),
        ]);
    }
    let get = |name, listener, target: &str, lines: &str| Case::get(name, listener, target, lines);
    let preflight = "OPTIONS /case HTTP/1.1\r\nhost: test\r\norigin: http://a\r\naccess-control-request-method: PUT\r\n\r\n";
    cases.extend([
        get("free", "rules", "/free", ""),
        get("free, with a query", "rules", "/free?a", ""),
        get("open", "rules", "/open", "x-open: 1\r\n"),
        get("not open", "rules", "/open", ""),
        get("any case", "rules", "/CASE/a", ""),
        get("any case, with a token", "rules", "/CASE/a", &bearer(&i)),
        get("regex", "rules", "/re12?x", ""),
        get("regex, another", "rules", "/re", ""),
        get("segments", "rules", "/seg/a", ""),
        get("segments, the whole", "rules", "/seg?x", ""),
        get("segments, another", "rules", "/segment", ""),
        get("by a parameter", "rules", "/query?q=1", ""),
        get("by a parameter, another", "rules", "/query?r=1", ""),
        Case::send("preflight", "rules", preflight),
        Case::send("OPTIONS", "rules", "OPTIONS /case HTTP/1.1\r\nhost: test\r\norigin: http://a\r\n\r\n"),
        get("off for a route", "by_route", "/off", ""),
        get("a route that names", "by_route", "/named", ""),
        get("a route that names, with a token", "by_route", "/named", &bearer(&i)),
        get("a route that names what is not", "by_route", "/wrong", &bearer(&i)),
        get("a route that says nothing", "by_route", "/", ""),
    ]);
    cases
}

use proptest::prelude::*;
use proxy_core::extension::http_filter::HttpFilterExtension as _;

use super::keys::Keys;
use super::*;
use crate::testing::env;
use proxy_core::jwt::Token;

const SET: &str = r#"{"keys":[{"kty":"oct","kid":"a","k":"c2VjcmV0"}]}"#;

fn errors(proto: proto::JwtAuthentication) -> Vec<String> {
    let env = env();
    let mut cx = BuildCx::new(&env);
    assert!(JwtAuthn::build(proto, &mut cx).is_err());
    cx.into_errors().into_iter().map(|error| format!("{}: {}", error.path, error.reason)).collect()
}

fn provider(set: &str) -> proto::JwtProvider {
    use xds_api::envoy::config::core::v3::DataSource;
    use xds_api::envoy::config::core::v3::data_source::Specifier;
    use xds_api::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
    let source =
        DataSource { specifier: Some(Specifier::InlineString(set.to_owned())), ..DataSource::default() };
    proto::JwtProvider {
        jwks_source_specifier: Some(JwksSourceSpecifier::LocalJwks(source)),
        ..proto::JwtProvider::default()
    }
}

#[test]
fn what_cannot_work_is_refused_with_its_place() {
    let with = |set: &str| proto::JwtAuthentication {
        providers: [("p".to_owned(), provider(set))].into(),
        ..proto::JwtAuthentication::default()
    };
    for (set, reason) in [
        ("{", "Jwks is an invalid JSON"),
        ("{}", "Jwks does not have [keys] field"),
        (r#"{"keys":1}"#, "[keys] in Jwks is not an array"),
        (r#"{"keys":[{"kty":"oct"}]}"#, "Jwks doesn't have any valid public key"),
    ] {
        let expected = format!("providers[\"p\"].local_jwks: Local jwks is invalid: {reason}");
        assert_eq!(errors(with(set)), [expected]);
    }
    let name = Some(RequirementType::RequirementName("none".to_owned()));
    let mut unknown = with(SET);
    let path_specifier =
        Some(xds_api::envoy::config::route::v3::route_match::PathSpecifier::Prefix("/".to_owned()));
    let r#match = xds_api::envoy::config::route::v3::RouteMatch { path_specifier, ..Default::default() };
    unknown.rules.push(proto::RequirementRule { r#match: Some(r#match), requirement_type: name });
    assert_eq!(
        errors(unknown),
        ["rules[0].requirement_name: Wrong requirement_name: none. It should be one of []"]
    );
    let mut remote = with(SET);
    remote.providers.get_mut("p").unwrap().jwks_source_specifier =
        Some(proto::jwt_provider::JwksSourceSpecifier::RemoteJwks(proto::RemoteJwks::default()));
    assert_eq!(errors(remote), ["providers[\"p\"].remote_jwks.http_uri: value is required"]);
}

#[test]
fn short_rsa_keys_are_no_keys() {
    let key = |octets: usize| {
        let n = format!("{}B", "x".repeat(octets * 4 / 3));
        format!(r#"{{"keys":[{{"kty":"RSA","n":"{n}","e":"AQAB"}}]}}"#)
    };
    assert_eq!(Keys::parse(key(128).as_bytes()).err(), Some(Failure::NoValidKeys));
}

proptest! {
    /// Whatever comes is read without panic, and what nobody signed is never accepted.
    #[test]
    fn nothing_unsigned_passes(parts in proptest::collection::vec("[ -~]{0,40}", 0..5), text in "\\PC{0,200}") {
        let keys = Keys::parse(SET.as_bytes()).unwrap();
        for token in [parts.join("."), text] {
            if let Ok(token) = Token::parse(&token) {
                prop_assert!(keys.verify(&token).is_err());
            }
        }
    }
}

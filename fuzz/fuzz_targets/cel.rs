//! Trees of conditions, of whatever shape, over requests: no panic, and an error is no more than no match.
#![no_main]

use std::rc::Rc;
use std::time::{Instant, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use prost::Message as _;
use proxy_core::address::Address;
use proxy_core::cel::Program;
use proxy_core::facts::Facts;
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::stream_info::{ConnectionInfo, StreamInfo};
use xds_api::envoy::config::core::v3::CelExpressionConfig;
use xds_api::google::api::expr::v1alpha1::constant::ConstantKind;
use xds_api::google::api::expr::v1alpha1::expr::{Call, ExprKind};
use xds_api::google::api::expr::v1alpha1::{Constant, Expr};

fuzz_target!(|input: (&[u8], &str, &[u8], bool)| {
    let (tree, path, value, makes_texts) = input;
    let _ = Program::parse(path, None);
    let Ok(expr) = Expr::decode(tree) else { return };
    let config = CelExpressionConfig {
        enable_string_conversion: makes_texts,
        enable_string_concat: makes_texts,
        enable_string_functions: makes_texts,
    };
    let Ok(program) = Program::build(&expr, Some(&config)) else { return };
    let mut headers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_bytes(value) {
        headers.insert(HeaderName::from_static("x-a"), value);
    }
    let request = RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: "a.test".into(),
        path: path.into(),
        upgrade: None,
        headers,
        case: None,
    };
    let address = Address::Ip(([127, 0, 0, 1], 80).into());
    let connection = Rc::new(ConnectionInfo::new(address.clone(), address, "l".into()));
    let info = StreamInfo::new(connection, Instant::now(), UNIX_EPOCH);
    let facts = Facts::of_request(&info, &request, None);
    let holds = program.matches(&facts);
    assert_eq!(program.matches(&facts), holds, "the same again");
    let decided = |function: &str, by: bool| {
        let by = ExprKind::ConstExpr(Constant { constant_kind: Some(ConstantKind::BoolValue(by)) });
        let args = vec![expr.clone(), Expr { id: 0, expr_kind: Some(by) }];
        let call = Call { target: None, function: function.to_owned(), args };
        let whole = Expr { id: 0, expr_kind: Some(ExprKind::CallExpr(Box::new(call))) };
        Program::build(&whole, Some(&config)).map(|program| program.matches(&facts))
    };
    // (Nothing is deeper than what was built by one level but what is refused for it.)
    assert!(decided("_||_", true).unwrap_or(true), "whatever the other is");
    assert!(!decided("_&&_", false).unwrap_or(false), "whatever the other is");
    assert_eq!(decided("_&&_", true).unwrap_or(holds), holds);
});

//! Normalisation of paths and authorities: stable, bounded, and nothing left that climbs out of a directory.
#![no_main]

use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use proxy_core::config::BuildCx;
use proxy_core::head::{RequestHead, Scheme};
use proxy_core::runtime::{Runtime, RuntimeLayer};
use proxy_engine::codec::h1::is_valid_path;
use proxy_engine::http::config::ConnectionManager;
use proxy_engine::http::normalize::{self, PathOutcome};
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use xds_api::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction as Action, StripPortMode,
};

const ACTIONS: [Action; 4] =
    [Action::KeepUnchanged, Action::RejectRequest, Action::UnescapeAndRedirect, Action::UnescapeAndForward];

thread_local! {
    static MANAGERS: Vec<ConnectionManager> = (0..64).map(manager).collect();
}

fuzz_target!(|input: (u8, &str, &str)| {
    let (how, path, authority) = input;
    // The codecs let nothing else through.
    if path.is_empty() || !is_valid_path(path.as_bytes()) {
        return;
    }
    MANAGERS.with(|managers| {
        let manager = &managers[usize::from(how % 64)];
        let runtime = runtime(how & 64 != 0);
        check_path(manager, &runtime, how, path);
        check_authority(manager, authority);
    });
});

fn check_path(manager: &ConnectionManager, runtime: &Runtime, how: u8, path: &str) {
    let mut head = request(path, "");
    let outcome = normalize::path(manager, runtime, &mut head);
    let new = match outcome {
        PathOutcome::Reject => return,
        PathOutcome::Redirect(to) => to.as_str().to_owned(),
        PathOutcome::Ok => head.path.as_str().to_owned(),
    };
    // The codec refuses what is longer than its limits; an octet grows to its escape at most.
    assert!(new.len() <= path.len() * 3);
    assert!(!new.contains('#'), "{new}");
    let (before_query, _) = new.split_once('?').unwrap_or((&new, ""));
    if how & 4 != 0 {
        assert!(before_query.starts_with('/'), "{new}");
        let climbs = |segment: &str| matches!(segment, "." | "..");
        assert!(!before_query.split('/').any(climbs), "{path} became {new}");
        assert!(!before_query.contains('\\'), "{path} became {new}");
        assert!(before_query.bytes().all(|byte| byte.is_ascii_graphic()), "{path} became {new}");
    }
    if how & 8 != 0 {
        assert!(!before_query.contains("//"), "{path} became {new}");
    }
    let mut again = request(&new, "");
    assert_eq!(normalize::path(manager, runtime, &mut again), PathOutcome::Ok, "{path} became {new}");
    assert_eq!(again.path.as_str(), new, "{path} is not stable");
}

fn check_authority(manager: &ConnectionManager, authority: &str) {
    let mut head = request("/", authority);
    normalize::authority(manager, &mut head, Some(80));
    assert!(head.authority.len() <= authority.len());
    let once = head.authority.clone();
    // A port that was behind a stripped one, or a dot behind a stripped dot, is no business of ours.
    assert!(authority.starts_with(once.as_str().split(':').next().unwrap_or_default()));
}

fn request(path: &str, authority: &str) -> RequestHead {
    RequestHead {
        method: Method::GET,
        scheme: Scheme::Http,
        authority: authority.into(),
        path: path.into(),
        upgrade: None,
        case: None,
        headers: HeaderMap::new(),
    }
}

/// Bits: two for the escaped slashes, normalize, merge, strip any port, strip the trailing dot.
fn manager(how: u8) -> ConnectionManager {
    let proto = hcm::HttpConnectionManager {
        stat_prefix: "p".to_owned(),
        path_with_escaped_slashes_action: ACTIONS[usize::from(how & 3)] as i32,
        normalize_path: Some(how & 4 != 0),
        merge_slashes: how & 8 != 0,
        strip_port_mode: (how & 16 != 0).then_some(StripPortMode::StripAnyHostPort(true)),
        strip_trailing_host_dot: how & 32 != 0,
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(Default::default())),
        http_filters: vec![hcm::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(outrigger_fuzz::any(
                &xds_api::envoy::extensions::filters::http::router::v3::Router::default(),
            ))),
            ..hcm::HttpFilter::default()
        }],
        ..hcm::HttpConnectionManager::default()
    };
    let env = outrigger_fuzz::env();
    let mut cx = BuildCx::new(&env);
    let Ok(manager) = ConnectionManager::build(&proto, &mut cx) else { panic!("{:?}", cx.into_errors()) };
    manager
}

fn runtime(keeps_fragments: bool) -> Runtime {
    let key = "envoy.reloadable_features.http_reject_path_with_fragment";
    let values = [(key.to_owned(), (!keeps_fragments).to_string())];
    Runtime::new(vec![RuntimeLayer { name: "l".to_owned(), values: values.into(), is_admin: false }])
}

//! Trees of routes and of clusters: what is refused and where. What they choose is compared with Envoy's
//! (`tests/tests/differential/route_trees.rs`).

use std::sync::Arc;

use proxy_core::extension::http_filter::Route;
use xds_api::read::{Options, Source, read};

use super::cluster_of;
use crate::router::RouteTable;
use crate::router::tests::{build_table, get, selected, with};

fn read_table(yaml: &str) -> Result<Arc<RouteTable>, String> {
    let proto = read(&Source::yaml("t", yaml.as_bytes()), &Options::default()).expect(yaml).message;
    build_table(&proto)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

fn typed(message: &str) -> String {
    format!("{{name: x, typed_config: {{\"@type\": type.googleapis.com/{message}}}}}")
}

fn header() -> String {
    typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: x-a")
}

fn to(message: &str) -> String {
    format!("{{action: {}}}", typed(message))
}

fn map(input: &str, entries: &str) -> String {
    format!("{{matcher_tree: {{input: {input}, exact_match_map: {{map: {{{entries}}}}}}}}}")
}

fn host(matcher: &str) -> String {
    format!("virtual_hosts: [{{name: v, domains: [\"*\"], matcher: {matcher}}}]")
}

fn plugin(name: &str, matcher: &str) -> String {
    let message = "envoy.extensions.router.cluster_specifiers.matcher.v3.MatcherClusterSpecifier";
    let extension = typed(&format!("{message}, cluster_matcher: {matcher}")).replacen('x', name, 1);
    format!("{{extension: {extension}}}")
}

const CLUSTER: &str = "envoy.extensions.router.cluster_specifiers.matcher.v3.ClusterAction";
const ROUTE: &str = "envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster: up}";

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let tree = |to: &str| map(&header(), &format!("a: {to}"));
    let source = typed("envoy.extensions.matching.common_inputs.network.v3.SourceIPInput");
    let at = "virtual_hosts[0].matcher.matcher_tree";
    let action = format!("{at}.exact_match_map.map[\"a\"].action.typed_config");
    let inline = |plugin: &str| {
        format!(
            "virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{inline_cluster_specifier_plugin: {plugin}}}}}]}}]"
        )
    };
    let own = "virtual_hosts[0].routes[0].route.inline_cluster_specifier_plugin.extension.typed_config";
    let lua = "envoy.extensions.router.cluster_specifiers.lua.v3.LuaConfig";
    for (yaml, expected) in [
        (
            host(&tree(&to(ROUTE)))
                .replace("matcher:", "routes: [{match: {prefix: /}, route: {cluster: up}}], matcher:"),
            "virtual_hosts[0]: cannot set both matcher and routes on virtual host".to_owned(),
        ),
        (
            host(&map(&source, &format!("a: {}", to(ROUTE)))),
            format!(
                "{at}.input.typed_config: Route table can only match on request headers, saw envoy.extensions.matching.common_inputs.network.v3.SourceIPInput"
            ),
        ),
        (host(&tree(&to(CLUSTER))), format!("{action}: {CLUSTER} is no action that is available here")),
        (
            host(&tree(&to(
                "envoy.config.route.v3.RouteList, routes: [{match: {prefix: /}, route: {cluster: up}}, {route: {cluster: up}}]",
            ))),
            format!("{action}.routes[1].match: value is required"),
        ),
        (
            host(&tree(&to(
                "envoy.config.route.v3.Route, match: {prefix: /}, route: {cluster_specifier_plugin: p}",
            ))),
            format!(
                "{action}.route.cluster_specifier_plugin: Unknown cluster specifier plugin name: p is used in the route"
            ),
        ),
        (
            inline(&plugin("p", &tree(&to(ROUTE)))),
            format!(
                "{own}.cluster_matcher.matcher_tree.exact_match_map.map[\"a\"].action.typed_config: envoy.config.route.v3.Route is no action that is available here"
            ),
        ),
        (
            inline(&format!("{{extension: {}}}", typed(lua))),
            format!("{own}: Didn't find a registered implementation for 'x' with type URL: '{lua}'"),
        ),
        (
            format!(
                "cluster_specifier_plugins: [{}]\n{}",
                plugin("p", "{}").replace(", cluster_matcher: {}", ""),
                inline("{}").replace("inline_cluster_specifier_plugin: {}", "cluster_specifier_plugin: p")
            ),
            "cluster_specifier_plugins[0].extension.typed_config.cluster_matcher: value is required"
                .to_owned(),
        ),
    ] {
        assert_eq!(read_table(&yaml).err().unwrap_or_default(), expected, "{yaml}");
    }
}

#[test]
fn clusters_that_trees_lead_to_are_not_validated() {
    let listed = "{name: w, domains: [w], routes: [{match: {prefix: /}, route: {cluster: listed}}]}";
    let yaml = host(&map(&header(), &format!("a: {}", to(ROUTE)))).replace("}]", &format!("}}, {listed}]"));
    let table = read_table(&yaml).unwrap();
    let names: Vec<&str> = table.clusters().map(|name| name.as_str()).collect();
    assert_eq!(names, ["listed"]);
    assert_eq!(cluster_of(&table, &with(get("v", "/"), &[("x-a", "a")])).as_deref(), Some("up"));
}

#[test]
fn filters_are_told_what_a_plugin_chose() {
    let entries = ["a", "b"].map(|name| format!("{name}: {}", to(&format!("{CLUSTER}, cluster: to-{name}"))));
    let plugin = plugin("p", &map(&header(), &entries.join(", ")));
    let table = read_table(&format!(
        "virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{{match: {{prefix: /}}, route: {{inline_cluster_specifier_plugin: {plugin}}}}}]}}]"
    ))
    .unwrap();
    for (value, expected) in [("a", Some("to-a")), ("b", Some("to-b")), ("c", None)] {
        let request = with(get("v", "/"), &[("x-a", value)]);
        assert_eq!(cluster_of(&table, &request).as_deref(), expected);
        let told = selected(&table, &request, 0, |route| Route::cluster(&route).map(str::to_owned));
        assert_eq!(told.unwrap().as_deref(), expected);
    }
}

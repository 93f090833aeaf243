//! What a control plane's operator sees: statistics and dumps, after the same updates as Envoy's.

use anyhow::{Result, ensure};
use integration::expect::{SOON, eventually};
use serde_json::Value;

use crate::rig::*;

/// The numbers are Envoy's own: `SUBJECT=envoy` proves it.
#[tokio::test]
async fn subscriptions_count_as_envoy_does() -> Result<()> {
    for api_type in ["GRPC", "DELTA_GRPC"] {
        let rig = Rig::start(api_type).await?;
        let up = rig.upstream.addr();
        rig.management.set(&RDS, "2", [routes("r", "c", "2")?]);
        rig.stat("http.p.rds.r.update_success", 2).await?;
        rig.management.set(&RDS, "3", [bad_routes("r")?]);
        rig.stat("http.p.rds.r.update_rejected", 1).await?;
        rig.management.set(&EDS, "2", [endpoints("c", &[up, "127.0.0.2:1".parse()?])?]);
        rig.stat("cluster.c.update_success", 2).await?;
        rig.management.set(&CDS, "2", [cluster("c")?, static_cluster("d", up)?]);
        rig.stat("cluster_manager.cds.update_success", 2).await?;
        rig.management.set(&LDS, "2", [listener("l", "r")?, listener("k", "r")?]);
        rig.stat("listener_manager.lds.update_success", 2).await?;
        let wanted = [
            ("http.p.rds.r.config_reload", 2),
            ("http.p.rds.r.update_empty", 0),
            ("http.p.rds.r.update_failure", 0),
            ("cluster.c.update_attempt", 3),
            ("cluster.c.update_empty", 0),
            ("cluster.c.update_failure", 0),
            ("cluster.c.update_rejected", 0),
            ("cluster.c.membership_total", 2),
            ("cluster.c.membership_change", 2),
            ("cluster_manager.active_clusters", 3),
            ("cluster_manager.warming_clusters", 0),
            ("cluster_manager.cluster_added", 3),
            ("cluster_manager.cds.update_attempt", 3),
            ("cluster_manager.cds.update_rejected", 0),
            ("cluster_manager.cds.config_reload", 2),
            ("listener_manager.lds.update_attempt", 3),
            ("listener_manager.listener_added", 2),
            ("listener_manager.listener_create_success", 2),
            ("listener_manager.total_listeners_active", 2),
            ("listener_manager.total_listeners_warming", 0),
            ("listener_manager.workers_started", 1),
            ("control_plane.connected_state", 1),
            ("control_plane.pending_requests", 0),
            ("control_plane.rate_limit_enforced", 0),
        ];
        for (name, value) in wanted {
            rig.stat(name, value).await?;
        }
        if api_type == "GRPC" {
            // Envoy's delta streams count a rejection as two attempts.
            rig.stat("http.p.rds.r.update_attempt", 4).await?;
        }
        let text = rig.proxy.admin().get("/stats").await?;
        for line in [
            "cluster_manager.cds.version_text: \"2\"",
            "listener_manager.lds.version_text: \"2\"",
            "http.p.rds.r.version_text: \"2\"",
            "cluster.c.version_text: \"2\"",
            "control_plane.identifier: \"fake\"",
        ] {
            ensure!(text.lines().any(|shown| shown == line), "{line}");
        }
        let admin = rig.proxy.admin();
        let readouts = admin.get("/stats?type=TextReadouts&filter=version_text").await?;
        ensure!(
            readouts.lines().filter(|line| line.contains(".version_text: \"")).count() == 4,
            "{readouts}"
        );
        let json: Value =
            serde_json::from_str(&admin.get("/stats?type=TextReadouts&format=json&filter=cds").await?)?;
        let expected = serde_json::json!({"name": "cluster_manager.cds.version_text", "value": "2"});
        ensure!(json["stats"] == serde_json::json!([expected]), "{json}");
        let line = "envoy_cluster_manager_cds_version_text{text_value=\"2\"} 0";
        let shown = admin.get("/stats/prometheus?text_readouts&filter=cds").await?;
        ensure!(shown.lines().any(|shown| shown == line), "{shown}");
        let hidden = admin.get("/stats/prometheus?filter=cds").await?;
        ensure!(!hidden.contains("version_text"), "{hidden}");
        for name in ["cluster_manager.cds", "listener_manager.lds", "http.p.rds.r", "cluster.c"] {
            for gauge in ["version", "update_time"] {
                ensure!(!text.contains(&format!("{name}.{gauge}: 0\n")), "{name}.{gauge}");
            }
        }

        // Histograms are shown once they were flushed.
        eventually("update_duration", SOON, async || {
            let text = rig.proxy.admin().get("/stats?filter=update_duration").await.ok()?;
            let recorded = text.lines().filter(|line| line.contains(".update_duration: P0")).count();
            (recorded == 4).then_some(())
        })
        .await?;

        rig.management.close_streams();
        rig.stat("http.p.rds.r.update_failure", 1).await?;
        for name in ["cluster_manager.cds", "listener_manager.lds", "cluster.c"] {
            rig.stat(&format!("{name}.update_failure"), 1).await?;
        }
        rig.proxy.stop().await?;
    }
    Ok(())
}

fn section<'a>(dump: &'a Value, name: &str) -> &'a Value {
    let configs = dump["configs"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = configs
        .iter()
        .find(|one| one["@type"].as_str().is_some_and(|url| url.ends_with(&format!(".{name}"))));
    found.unwrap_or(&Value::Null)
}

#[tokio::test]
async fn the_dump_shows_what_is_in_force_and_where_it_came_from() -> Result<()> {
    let rig = Rig::start("GRPC").await?;
    let inline = "route_config: {name: inline, virtual_hosts: [{name: v, domains: ['*'], routes: [{match: {prefix: /}, route: {cluster: c}}]}]}";
    let second = listener_with("i", ANY_PORT, &http_chain("i", inline))?;
    rig.management.set(&LDS, "2", [listener("l", "r")?, second]);
    rig.stat("listener_manager.total_listeners_active", 2).await?;
    let dump = rig.proxy.admin().config_dump("?include_eds").await?;

    let routes = section(&dump, "RoutesConfigDump");
    let inline = &routes["static_route_configs"][0];
    ensure!(inline["route_config"]["name"] == "inline" && inline["last_updated"].is_string(), "{routes}");
    let dynamic = &routes["dynamic_route_configs"][0];
    ensure!(dynamic["route_config"]["name"] == "r" && dynamic["version_info"] == "1", "{routes}");
    ensure!(dynamic["last_updated"].is_string(), "{routes}");

    let endpoints = section(&dump, "EndpointsConfigDump");
    let of_bootstrap = &endpoints["static_endpoint_configs"][0]["endpoint_config"];
    ensure!(of_bootstrap["cluster_name"] == "m", "{endpoints}");
    let delivered = &endpoints["dynamic_endpoint_configs"][0]["endpoint_config"];
    ensure!(delivered["cluster_name"] == "c", "{endpoints}");
    ensure!(delivered["policy"]["overprovisioning_factor"] == 140, "{endpoints}");
    let host = &delivered["endpoints"][0]["lb_endpoints"][0];
    ensure!(host["health_status"] == "HEALTHY" && host["load_balancing_weight"] == 1, "{host}");

    let clusters = section(&dump, "ClustersConfigDump");
    ensure!(clusters["version_info"] == "1", "{clusters}");
    ensure!(clusters["static_clusters"][0]["cluster"]["name"] == "m", "{clusters}");
    ensure!(clusters["dynamic_active_clusters"][0]["version_info"] == "1", "{clusters}");
    let listeners = section(&dump, "ListenersConfigDump");
    ensure!(listeners["version_info"] == "2", "{listeners}");

    rig.management.hold(&EDS);
    rig.management.set(&CDS, "2", [cluster("c")?, cluster("w")?]);
    rig.stat("cluster_manager.warming_clusters", 1).await?;
    let dump = rig.proxy.admin().config_dump("").await?;
    let warming = &section(&dump, "ClustersConfigDump")["dynamic_warming_clusters"][0];
    ensure!(warming["cluster"]["name"] == "w" && warming["version_info"] == "2", "{warming}");
    rig.proxy.stop().await
}

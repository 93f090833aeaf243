"""What the proxy is told in truth: a listener, its routes, a cluster and its endpoints."""

from google.protobuf import any_pb2, json_format

from envoy.config.cluster.v3 import cluster_pb2
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.config.listener.v3 import listener_pb2
from envoy.config.route.v3 import route_pb2

# the messages that are packed into a listener, so that they can be written as JSON
from envoy.extensions.filters.http.router.v3 import router_pb2  # noqa: F401
from envoy.extensions.filters.network.http_connection_manager.v3 import http_connection_manager_pb2  # noqa: F401

PREFIX = "type.googleapis.com/"
CDS = PREFIX + "envoy.config.cluster.v3.Cluster"
EDS = PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
LDS = PREFIX + "envoy.config.listener.v3.Listener"
RDS = PREFIX + "envoy.config.route.v3.RouteConfiguration"

ADS = {"resource_api_version": "V3", "ads": {}}


def address(port):
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def cluster(name):
    text = {"name": name, "connect_timeout": "1s", "type": "EDS", "eds_cluster_config": {"eds_config": ADS}}
    return json_format.ParseDict(text, cluster_pb2.Cluster())


def listener(name, routes="routes"):
    http = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    router = {"name": "router", "typed_config": {"@type": PREFIX + "envoy.extensions.filters.http.router.v3.Router"}}
    manager = {
        "@type": PREFIX + http,
        "stat_prefix": name,
        "rds": {"route_config_name": routes, "config_source": ADS},
        "http_filters": [router],
    }
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    text = {"name": name, "address": address(0), "filter_chains": [chain]}
    return json_format.ParseDict(text, listener_pb2.Listener())


def routes(name, mark, cluster_name="up"):
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster_name}}
    text = {
        "name": name,
        "response_headers_to_add": [{"header": {"key": "x-mark", "value": str(mark)}}],
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}],
    }
    return json_format.ParseDict(text, route_pb2.RouteConfiguration())


def endpoints(name, port, version=0):
    # the weight makes one version different from another, and means nothing with one host
    host = {"endpoint": {"address": address(port)}, "load_balancing_weight": 1 + version % 100}
    text = {"cluster_name": name, "endpoints": [{"lb_endpoints": [host]}]}
    return json_format.ParseDict(text, endpoint_pb2.ClusterLoadAssignment())


class Truth:
    """Its parts; `mark` is what answers say that were served with the routes of now."""

    def __init__(self, upstream):
        self.upstream = upstream
        self.mark = 1
        self.endpoints_version = 0

    def resources(self, type_url):
        if type_url == CDS:
            return [cluster("up")]
        if type_url == EDS:
            # `twice` is a cluster of lies: its endpoints are told in case it is believed
            return [endpoints(name, self.upstream, self.endpoints_version) for name in ("up", "twice")]
        if type_url == LDS:
            return [listener("main")]
        if type_url == RDS:
            return [routes("routes", self.mark)]
        return []


def packed(type_url, value):
    """A resource of any type and any bytes."""
    return any_pb2.Any(type_url=type_url, value=value)

package main

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	router "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	manager "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// What is changed, in turns.
var turns = []string{resource.RouteType, resource.EndpointType, resource.ClusterType, resource.ListenerType}

// world is what the proxy shall be configured with: two clusters that serve, and clusters and listeners that come and go
// beside them. Each type has the number of its last change, from which its resources follow.
type world struct {
	aggregated bool
	apiType    core.ApiConfigSource_ApiType
	hosts      []string
	number     [4]int
	version    map[string]string
}

// change makes the n-th change and says of which type it is.
func (w *world) change(n int) string {
	turn := n % len(turns)
	w.number[turn] = n
	return turns[turn]
}

// resources by type URL, as they are now.
func (w *world) resources() map[string][]types.Resource {
	return map[string][]types.Resource{
		resource.RouteType:    w.routes(w.number[0]),
		resource.EndpointType: w.endpoints(w.number[1]),
		resource.ClusterType:  w.clusters(w.number[2]),
		resource.ListenerType: w.listeners(w.number[3]),
	}
}

func (w *world) publish(ctx context.Context, snapshots cache.SnapshotCache) error {
	snapshot, all := &cache.Snapshot{}, w.resources()
	w.version = map[string]string{}
	for turn, typeURL := range turns {
		w.version[typeURL] = strconv.Itoa(w.number[turn])
		snapshot.Resources[cache.GetResponseType(typeURL)] = cache.NewResources(w.version[typeURL], all[typeURL])
	}
	if err := snapshot.Consistent(); err != nil {
		return err
	}
	return snapshots.SetSnapshot(ctx, node, snapshot)
}

// source is where the resources that others name come from.
func (w *world) source() *core.ConfigSource {
	if w.aggregated {
		return &core.ConfigSource{
			ResourceApiVersion:    core.ApiVersion_V3,
			ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		}
	}
	return &core.ConfigSource{
		ResourceApiVersion: core.ApiVersion_V3,
		ConfigSourceSpecifier: &core.ConfigSource_ApiConfigSource{ApiConfigSource: &core.ApiConfigSource{
			ApiType:             w.apiType,
			TransportApiVersion: core.ApiVersion_V3,
			GrpcServices: []*core.GrpcService{{TargetSpecifier: &core.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &core.GrpcService_EnvoyGrpc{ClusterName: "management"},
			}}},
		}},
	}
}

// clusters: `left` and `right` take their endpoints from discovery, and every other change makes one of them anew; those
// beside them come and go.
func (w *world) clusters(n int) []types.Resource {
	all := []types.Resource{w.discovered("left", n/8), w.discovered("right", (n+4)/8)}
	for beside := range n % 5 {
		name := fmt.Sprintf("beside-%d", beside)
		all = append(all, &cluster.Cluster{
			Name:                 name,
			ConnectTimeout:       durationpb.New(time.Second),
			ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_STATIC},
			LoadAssignment:       assignment(name, w.hosts[:1]),
		})
	}
	return all
}

func (w *world) discovered(name string, generation int) *cluster.Cluster {
	mark := &structpb.Struct{Fields: map[string]*structpb.Value{"generation": structpb.NewNumberValue(float64(generation))}}
	return &cluster.Cluster{
		Name:                 name,
		ConnectTimeout:       durationpb.New(time.Second),
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: w.source()},
		Metadata:             &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"interop": mark}},
	}
}

// endpoints: one or two of the hosts, others each time.
func (w *world) endpoints(n int) []types.Resource {
	step := (n + 3) / len(turns)
	first, second := w.hosts[step%len(w.hosts)], w.hosts[(step+1)%len(w.hosts)]
	return []types.Resource{assignment("left", []string{first}), assignment("right", []string{first, second})}
}

// routes: the weights move, and each answer says which change it was served with.
func (w *world) routes(n int) []types.Resource {
	left := uint32(n % 101)
	weighted := &route.WeightedCluster{Clusters: []*route.WeightedCluster_ClusterWeight{
		{Name: "left", Weight: wrapperspb.UInt32(left)}, {Name: "right", Weight: wrapperspb.UInt32(100 - left)},
	}}
	return []types.Resource{&route.RouteConfiguration{
		Name: "routes",
		ResponseHeadersToAdd: []*core.HeaderValueOption{
			{Header: &core.HeaderValue{Key: "x-change", Value: strconv.Itoa(n)}},
		},
		VirtualHosts: []*route.VirtualHost{{
			Name:    "all",
			Domains: []string{"*"},
			Routes: []*route.Route{{
				Match: &route.RouteMatch{PathSpecifier: &route.RouteMatch_Prefix{Prefix: "/"}},
				Action: &route.Route_Route{Route: &route.RouteAction{
					ClusterSpecifier: &route.RouteAction_WeightedClusters{WeightedClusters: weighted},
				}},
			}},
		}},
	}}
}

// listeners: `main` serves, and gets another filter chain every third time; those beside it come and go.
func (w *world) listeners(n int) []types.Resource {
	step := (n + 1) / len(turns)
	all := []types.Resource{w.listener("main", step/3)}
	for beside := range step % 3 {
		all = append(all, w.listener(fmt.Sprintf("beside-%d", beside), n))
	}
	return all
}

func (w *world) listener(name string, generation int) *listener.Listener {
	settings := packed(&manager.HttpConnectionManager{
		StatPrefix: fmt.Sprintf("%s-%d", name, generation),
		RouteSpecifier: &manager.HttpConnectionManager_Rds{Rds: &manager.Rds{
			RouteConfigName: "routes", ConfigSource: w.source(),
		}},
		HttpFilters: []*manager.HttpFilter{{
			Name:       "router",
			ConfigType: &manager.HttpFilter_TypedConfig{TypedConfig: packed(&router.Router{})},
		}},
	})
	return &listener.Listener{
		Name:    name,
		Address: socketAddress("127.0.0.1:0"),
		FilterChains: []*listener.FilterChain{{Filters: []*listener.Filter{{
			Name:       "manager",
			ConfigType: &listener.Filter_TypedConfig{TypedConfig: settings},
		}}}},
	}
}

func assignment(name string, hosts []string) *endpoint.ClusterLoadAssignment {
	var all []*endpoint.LbEndpoint
	for _, host := range hosts {
		all = append(all, &endpoint.LbEndpoint{HostIdentifier: &endpoint.LbEndpoint_Endpoint{
			Endpoint: &endpoint.Endpoint{Address: socketAddress(host)},
		}})
	}
	return &endpoint.ClusterLoadAssignment{
		ClusterName: name,
		Endpoints:   []*endpoint.LocalityLbEndpoints{{LbEndpoints: all}},
	}
}

func socketAddress(hostPort string) *core.Address {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		panic(err)
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		panic(err)
	}
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address:       host,
		PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(number)},
	}}}
}

func packed(message proto.Message) *anypb.Any {
	out, err := anypb.New(message)
	if err != nil {
		panic(err)
	}
	return out
}

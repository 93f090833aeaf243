package main

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	admin "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	// in the bootstrap of the proxy, and so in its dump
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"

	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// compare holds the proxy's /config_dump against the snapshot: the same resources, and the same version of each type.
// What is acknowledged may still be on its way into force, so it looks again until it is equal or too late.
func (w *world) compare(adminAddress string) error {
	deadline := time.Now().Add(patience)
	for {
		have, err := dumped(adminAddress)
		if err == nil {
			err = w.differs(have)
		}
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (w *world) differs(have map[string]map[string]proto.Message) error {
	for typeURL, resources := range w.resources() {
		got := have[typeURL]
		if typeURL == resource.EndpointType {
			// the dump has the endpoints that clusters name themselves as well
			maps.DeleteFunc(got, func(name string, _ proto.Message) bool { return strings.HasPrefix(name, "beside-") })
		}
		if len(got) != len(resources) {
			return fmt.Errorf("%s: %d in the dump, %d in the snapshot", typeURL, len(got), len(resources))
		}
		for _, wanted := range resources {
			name := cache.GetResourceName(wanted)
			if !proto.Equal(got[name], proto.Message(wanted)) {
				return fmt.Errorf("%s %q:\n%v\nin the dump, in the snapshot\n%v", typeURL, name, got[name], wanted)
			}
		}
	}
	return nil
}

// dumped reads the dynamic resources of a proxy, by type URL and name.
func dumped(adminAddress string) (map[string]map[string]proto.Message, error) {
	client := http.Client{Timeout: patience}
	response, err := client.Get("http://" + adminAddress + "/config_dump?include_eds")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, err
	}
	var dump admin.ConfigDump
	if err := protojson.Unmarshal(body, &dump); err != nil {
		return nil, fmt.Errorf("/config_dump: %w", err)
	}
	found := map[string]map[string]proto.Message{}
	for _, section := range dump.GetConfigs() {
		message, err := section.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		for _, packed := range dynamic(message) {
			resource, err := packed.UnmarshalNew()
			if err != nil {
				return nil, err
			}
			if endpoints, ok := resource.(*endpoint.ClusterLoadAssignment); ok {
				resource = plain(endpoints)
			}
			if found[packed.GetTypeUrl()] == nil {
				found[packed.GetTypeUrl()] = map[string]proto.Message{}
			}
			found[packed.GetTypeUrl()][cache.GetResourceName(types.Resource(resource))] = resource
		}
	}
	return found, nil
}

// dynamic are the resources of one section of a dump that came from a management server and are in force.
func dynamic(section proto.Message) (found []*anypb.Any) {
	switch section := section.(type) {
	case *admin.ListenersConfigDump:
		for _, one := range section.GetDynamicListeners() {
			if state := one.GetActiveState(); state != nil {
				found = append(found, state.GetListener())
			}
		}
	case *admin.ClustersConfigDump:
		for _, one := range section.GetDynamicActiveClusters() {
			found = append(found, one.GetCluster())
		}
	case *admin.RoutesConfigDump:
		for _, one := range section.GetDynamicRouteConfigs() {
			found = append(found, one.GetRouteConfig())
		}
	case *admin.EndpointsConfigDump:
		for _, one := range section.GetDynamicEndpointConfigs() {
			found = append(found, one.GetEndpointConfig())
		}
	}
	return found
}

// plain is an assignment with nothing but its hosts: the dump of a proxy has the defaults of everything else.
func plain(full *endpoint.ClusterLoadAssignment) *endpoint.ClusterLoadAssignment {
	var hosts []string
	for _, locality := range full.GetEndpoints() {
		for _, one := range locality.GetLbEndpoints() {
			address := one.GetEndpoint().GetAddress().GetSocketAddress()
			hosts = append(hosts, fmt.Sprintf("%s:%d", address.GetAddress(), address.GetPortValue()))
		}
	}
	return assignment(full.GetClusterName(), hosts)
}

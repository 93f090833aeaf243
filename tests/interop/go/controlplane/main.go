// A management server on go-control-plane that changes its snapshot again and again under a running proxy.
//
// It says "ready XDS_ADDRESS" on its output once it serves, and reads the address of the proxy's admin interface from its
// input. Then it makes its changes, each when the proxy has acknowledged the one before, and compares what the proxy's
// /config_dump holds with the last snapshot, as messages. A rejection, a change that is not acknowledged, and a difference
// end it with an error.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"log"
	"net"
	"os"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
)

// How long one change may take to be acknowledged; initial fetch timeouts are longer, so waiting for one fails.
const patience = 12 * time.Second

// How fast the changes follow each other at most: there shall be requests between two of them.
const pace = 15 * time.Millisecond

// The node that the proxy says it is.
const node = "interop"

func main() {
	log.SetFlags(0)
	aggregated := flag.Bool("aggregated", false, "one stream for all types instead of one for each")
	delta := flag.Bool("delta", false, "changes instead of the state of the world")
	updates := flag.Int("updates", 200, "changes to make")
	hosts := flag.String("hosts", "", "addresses of the upstreams, separated by commas")
	flag.Parse()
	w := world{aggregated: *aggregated, apiType: core.ApiConfigSource_GRPC, hosts: strings.Split(*hosts, ",")}
	if *delta {
		w.apiType = core.ApiConfigSource_DELTA_GRPC
	}
	if err := run(&w, *updates); err != nil {
		log.Fatal(err)
	}
}

func run(w *world, updates int) error {
	ctx := context.Background()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	snapshots := cache.NewSnapshotCache(w.aggregated, cache.IDHash{}, nil)
	watch := newWatch()
	go serve(listener, server.NewServer(ctx, snapshots, watch.callbacks()))

	if err := w.publish(ctx, snapshots); err != nil {
		return err
	}
	fmt.Printf("ready %s\n", listener.Addr())
	admin, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no admin address on the input: %w", err)
	}
	for n, next := 1, time.Tick(pace); n <= updates; n++ {
		<-next
		changed := w.change(n)
		if err := w.publish(ctx, snapshots); err != nil {
			return err
		}
		if err := watch.acknowledged(changed, w.version[changed], patience); err != nil {
			return fmt.Errorf("change %d of %s: %w", n, changed, err)
		}
	}
	if err := w.compare(strings.TrimSpace(admin)); err != nil {
		return err
	}
	fmt.Printf("equal after %d changes\n", updates)
	return nil
}

func serve(listener net.Listener, management server.Server) {
	grpcServer := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, management)
	clusterservice.RegisterClusterDiscoveryServiceServer(grpcServer, management)
	endpointservice.RegisterEndpointDiscoveryServiceServer(grpcServer, management)
	listenerservice.RegisterListenerDiscoveryServiceServer(grpcServer, management)
	routeservice.RegisterRouteDiscoveryServiceServer(grpcServer, management)
	if err := grpcServer.Serve(listener); err != nil {
		log.Fatal(err)
	}
}

package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
)

// watch remembers what the proxy acknowledged.
type watch struct {
	mu       sync.Mutex
	versions map[string]string // type URL to the version acknowledged last
	nonces   map[string]string // nonce and type URL of a delta response to its version
	rejected error
	changed  chan struct{}
}

func newWatch() *watch {
	return &watch{versions: map[string]string{}, nonces: map[string]string{}, changed: make(chan struct{}, 1)}
}

func (w *watch) callbacks() server.Callbacks {
	return server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, request *discovery.DiscoveryRequest) error {
			if detail := request.GetErrorDetail(); detail != nil {
				w.note(request.GetTypeUrl(), "", fmt.Errorf("rejected: %s", detail.GetMessage()))
			} else if request.GetResponseNonce() != "" {
				w.note(request.GetTypeUrl(), request.GetVersionInfo(), nil)
			}
			return nil
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discovery.DeltaDiscoveryRequest, response *discovery.DeltaDiscoveryResponse) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.nonces[response.GetTypeUrl()+response.GetNonce()] = response.GetSystemVersionInfo()
		},
		StreamDeltaRequestFunc: func(_ int64, request *discovery.DeltaDiscoveryRequest) error {
			if detail := request.GetErrorDetail(); detail != nil {
				w.note(request.GetTypeUrl(), "", fmt.Errorf("rejected: %s", detail.GetMessage()))
			} else if request.GetResponseNonce() != "" {
				w.mu.Lock()
				version := w.nonces[request.GetTypeUrl()+request.GetResponseNonce()]
				w.mu.Unlock()
				w.note(request.GetTypeUrl(), version, nil)
			}
			return nil
		},
	}
}

func (w *watch) note(typeURL, version string, rejected error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rejected != nil {
		w.rejected = rejected
	} else {
		w.versions[typeURL] = version
	}
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// acknowledged waits until the proxy has acknowledged that version.
func (w *watch) acknowledged(typeURL, version string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	for {
		w.mu.Lock()
		have, rejected := w.versions[typeURL], w.rejected
		w.mu.Unlock()
		if rejected != nil {
			return rejected
		}
		if have == version {
			return nil
		}
		select {
		case <-w.changed:
		case <-ctx.Done():
			return fmt.Errorf("version %s is not acknowledged, but %q", version, have)
		}
	}
}

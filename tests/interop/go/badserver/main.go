// The servers of gRPC's negative HTTP/2 interoperability cases, whose clients are google.golang.org/grpc/interop/http2: each
// answers UnaryCall in a way that HTTP/2 allows and that is seldom seen.
//
//	goaway            says GOAWAY after each answer, so that each call needs a connection of its own
//	rst_after_header  resets the stream after the head of the answer
//	rst_during_data   resets the stream in the midst of the answer's message
//	rst_after_data    resets the stream after the message, without trailers
//	ping              sends a PING before and after each frame, all of which have to be answered
//	max_streams       takes one stream at a time
//
// It says "ready ADDRESS" on its output. When its input ends, it says what it saw and ends.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
)

// what the server saw, on all connections.
type seen struct {
	mu          sync.Mutex
	connections int
	pings       int
	answered    int
	most        int // streams open at once on one connection
	calls       int
}

func (s *seen) count(change func(*seen)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s)
}

func main() {
	log.SetFlags(0)
	mode := flag.String("case", "", "the test case")
	flag.Parse()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	var all seen
	go accept(listener, *mode, &all)
	fmt.Printf("ready %s\n", listener.Addr())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		log.Fatal(err)
	}
	all.mu.Lock()
	defer all.mu.Unlock()
	fmt.Printf("calls=%d connections=%d streams=%d pings=%d answered=%d\n",
		all.calls, all.connections, all.most, all.pings, all.answered)
}

func accept(listener net.Listener, mode string, all *seen) {
	for {
		socket, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		all.count(func(s *seen) { s.connections++ })
		go func() {
			defer socket.Close()
			if err := newConnection(socket, mode, all).serve(); err != nil && err != io.EOF {
				log.Printf("%s: %v", socket.RemoteAddr(), err)
			}
		}()
	}
}

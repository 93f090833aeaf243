// An upstream on Go's net/http (HTTP/1 and HTTP/2 without TLS) and one on gRPC, with gRPC's own test service that says who
// it is.
//
// It says "ready HTTP_ADDRESS GRPC_ADDRESS" on its output, and ends when its input does.
package main

import (
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"

	"google.golang.org/grpc"
	"google.golang.org/grpc/interop"
	testing "google.golang.org/grpc/interop/grpc_testing"
)

func main() {
	log.SetFlags(0)
	web, rpc := listen(), listen()
	go func() { log.Fatal(serveHTTP(web)) }()
	go func() { log.Fatal(serveGRPC(rpc)) }()
	fmt.Printf("ready %s %s\n", web.Addr(), rpc.Addr())
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		log.Fatal(err)
	}
}

func listen() net.Listener {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func serveHTTP(listener net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/small", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "%s %s", r.Method, r.Proto) })
	mux.HandleFunc("/download", download)
	mux.HandleFunc("/upload", upload)
	mux.HandleFunc("/echo", echo)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	return (&http.Server{Handler: mux, Protocols: protocols}).Serve(listener)
}

// download answers with ?size= bytes that say where they are.
func download(w http.ResponseWriter, r *http.Request) {
	left, err := strconv.Atoi(r.URL.Query().Get("size"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("content-length", strconv.Itoa(left))
	piece := make([]byte, 1<<16)
	for i := range piece {
		piece[i] = byte(i * 31)
	}
	for left > 0 {
		n, err := w.Write(piece[:min(left, len(piece))])
		if err != nil {
			return
		}
		left -= n
	}
}

// upload answers with the length and checksum of the body, the checksum as a trailer too.
func upload(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("trailer", "x-checksum")
	sum := crc32.NewIEEE()
	size, err := io.Copy(sum, r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("x-trailer-received", r.Trailer.Get("x-sent"))
	w.WriteHeader(http.StatusOK)
	// without a length, with which HTTP/1 has no trailers
	_ = http.NewResponseController(w).Flush()
	fmt.Fprintf(w, "%d %08x", size, sum.Sum32())
	w.Header().Set("x-checksum", fmt.Sprintf("%08x", sum.Sum32()))
}

// echo sends back what comes, as it comes.
func echo(w http.ResponseWriter, r *http.Request) {
	control := http.NewResponseController(w)
	if err := control.EnableFullDuplex(); err != nil && r.ProtoMajor == 1 {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.WriteHeader(http.StatusOK)
	_ = control.Flush()
	buffer := make([]byte, 1<<14)
	for {
		n, err := r.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			_ = control.Flush()
		}
		if err != nil {
			return
		}
	}
}

// named is gRPC's test service that fills in its name.
type named struct {
	testing.TestServiceServer
}

func (n named) UnaryCall(ctx context.Context, request *testing.SimpleRequest) (*testing.SimpleResponse, error) {
	response, err := n.TestServiceServer.UnaryCall(ctx, request)
	if err == nil && request.GetFillServerId() {
		response.ServerId = "interop"
	}
	return response, err
}

func serveGRPC(listener net.Listener) error {
	server := grpc.NewServer()
	service := interop.NewTestServer(interop.NewTestServerOptions{})
	testing.RegisterTestServiceServer(server, named{service})
	return server.Serve(listener)
}

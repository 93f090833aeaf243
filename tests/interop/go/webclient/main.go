// Clients on Go's net/http, HTTP/1 and HTTP/2 without TLS, of the upstream in ../webserver: webclient BASE_URL
package main

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"io"
	"log"
	"math/rand"
	"net/http"
	"os"
	"sync"
	"time"
)

func main() {
	log.SetFlags(0)
	for major := 1; major <= 2; major++ {
		if err := try(os.Args[1], major); err != nil {
			log.Fatalf("HTTP/%d: %v", major, err)
		}
		fmt.Printf("HTTP/%d ok\n", major)
	}
}

func try(base string, major int) error {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(major == 1)
	protocols.SetUnencryptedHTTP2(major == 2)
	client := &http.Client{
		Timeout:   60 * time.Second,
		Transport: &http.Transport{Protocols: protocols, MaxIdleConnsPerHost: 16},
	}
	defer client.CloseIdleConnections()
	steps := []func(*http.Client, string, int) error{many, trailers, full}
	for _, step := range steps {
		if err := step(client, base, major); err != nil {
			return err
		}
	}
	return nil
}

// many sends requests side by side.
func many(client *http.Client, base string, major int) error {
	var group sync.WaitGroup
	failures := make(chan error, 16)
	for range cap(failures) {
		group.Go(func() {
			for range 25 {
				if err := small(client, base, major); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(failures)
	return <-failures
}

func small(client *http.Client, base string, major int) error {
	response, err := client.Get(base + "/small")
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != 200 || response.ProtoMajor != major || !bytes.HasPrefix(body, []byte("GET HTTP/")) {
		return fmt.Errorf("%s %s %q", response.Proto, response.Status, body)
	}
	return nil
}

// trailers uploads a body of unknown length with a trailer, and wants a trailer back.
func trailers(client *http.Client, base string, major int) error {
	sent := make([]byte, 3<<20)
	rand.New(rand.NewSource(1)).Read(sent)
	request, err := http.NewRequest("POST", base+"/upload", io.MultiReader(bytes.NewReader(sent)))
	if err != nil {
		return err
	}
	request.Trailer = http.Header{"X-Sent": {"all of it"}}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	sum := fmt.Sprintf("%08x", crc32.ChecksumIEEE(sent))
	if want := fmt.Sprintf("%d %s", len(sent), sum); string(body) != want {
		return fmt.Errorf("upload: %q, want %q", body, want)
	}
	if got := response.Trailer.Get("x-checksum"); got != sum {
		return fmt.Errorf("trailers: %v, want %s", response.Trailer, sum)
	}
	if got := response.Header.Get("x-trailer-received"); got != "all of it" {
		return fmt.Errorf("the server got the trailer %q", got)
	}
	return nil
}

// full writes and reads the two directions of one request by turns.
func full(client *http.Client, base string, major int) error {
	if major == 1 {
		return nil // net/http's client reads no answer before it has sent the whole request
	}
	reader, writer := io.Pipe()
	request, err := http.NewRequest("POST", base+"/echo", reader)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	for turn := range 200 {
		sent := fmt.Appendf(nil, "turn %d", turn)
		if _, err := writer.Write(sent); err != nil {
			return err
		}
		got := make([]byte, len(sent))
		if _, err := io.ReadFull(response.Body, got); err != nil || !bytes.Equal(got, sent) {
			return fmt.Errorf("turn %d: %q, %v", turn, got, err)
		}
	}
	writer.Close()
	if rest, err := io.ReadAll(response.Body); err != nil || len(rest) > 0 {
		return fmt.Errorf("after the end: %q, %v", rest, err)
	}
	return nil
}

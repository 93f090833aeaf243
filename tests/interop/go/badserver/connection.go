package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	testing "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/protobuf/proto"
)

// What the clients of these cases ask for.
const responseSize = 314159

// connection serves one client. Its reader notes windows and requests, and each answer has a goroutine.
type connection struct {
	socket net.Conn
	framer *http2.Framer
	mode   string
	all    *seen

	mu      sync.Mutex // of all below, and of writing
	changed *sync.Cond
	window  int64
	initial int64
	streams map[uint32]int64 // windows of open streams
	block   bytes.Buffer
	encoder *hpack.Encoder
}

func newConnection(socket net.Conn, mode string, all *seen) *connection {
	c := &connection{
		socket: socket, framer: http2.NewFramer(socket, socket), mode: mode, all: all,
		window: 65535, initial: 65535, streams: map[uint32]int64{},
	}
	c.changed = sync.NewCond(&c.mu)
	c.encoder = hpack.NewEncoder(&c.block)
	return c
}

func (c *connection) serve() error {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.socket, preface); err != nil {
		return err
	}
	settings := []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 1 << 24}}
	if c.mode == "max_streams" {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1})
	}
	// no PING before: SETTINGS come first
	err := c.framer.WriteSettings(settings...)
	if err == nil {
		err = c.write(func() error { return c.framer.WriteWindowUpdate(0, 1<<30) })
	}
	defer c.close()
	for err == nil {
		var frame http2.Frame
		if frame, err = c.framer.ReadFrame(); err == nil {
			err = c.take(frame)
		}
	}
	return err
}

// close forgets the streams that are open.
func (c *connection) close() {
	c.mu.Lock()
	c.streams = map[uint32]int64{}
	c.mu.Unlock()
	c.changed.Broadcast()
}

func (c *connection) take(frame http2.Frame) error {
	switch frame := frame.(type) {
	case *http2.SettingsFrame:
		return c.settings(frame)
	case *http2.PingFrame:
		if frame.IsAck() {
			c.all.count(func(s *seen) { s.answered++ })
			return nil
		}
		return c.write(func() error { return c.framer.WritePing(true, frame.Data) })
	case *http2.WindowUpdateFrame:
		c.mu.Lock()
		if frame.StreamID == 0 {
			c.window += int64(frame.Increment)
		} else if _, open := c.streams[frame.StreamID]; open {
			c.streams[frame.StreamID] += int64(frame.Increment)
		}
		c.mu.Unlock()
		c.changed.Broadcast()
	case *http2.HeadersFrame:
		c.mu.Lock()
		c.streams[frame.StreamID] = c.initial
		open := len(c.streams)
		c.mu.Unlock()
		c.all.count(func(s *seen) { s.calls++; s.most = max(s.most, open) })
	case *http2.DataFrame:
		if frame.StreamEnded() {
			go c.answer(frame.StreamID)
		}
	case *http2.RSTStreamFrame:
		c.end(frame.StreamID)
	}
	return nil
}

func (c *connection) settings(frame *http2.SettingsFrame) error {
	if frame.IsAck() {
		return nil
	}
	c.mu.Lock()
	if value, ok := frame.Value(http2.SettingInitialWindowSize); ok {
		for id := range c.streams {
			c.streams[id] += int64(value) - c.initial
		}
		c.initial = int64(value)
	}
	c.mu.Unlock()
	c.changed.Broadcast()
	return c.write(c.framer.WriteSettingsAck)
}

// answer answers a call the way the case wants it.
func (c *connection) answer(id uint32) {
	message, err := reply()
	if err != nil {
		panic(err)
	}
	c.head(id, false, hpack.HeaderField{Name: ":status", Value: "200"},
		hpack.HeaderField{Name: "content-type", Value: "application/grpc"})
	switch c.mode {
	case "rst_after_header":
	case "rst_during_data":
		c.data(id, message[:len(message)/2])
	default:
		c.data(id, message)
	}
	if c.mode == "rst_after_header" || c.mode == "rst_during_data" || c.mode == "rst_after_data" {
		c.end(id)
		_ = c.write(func() error { return c.framer.WriteRSTStream(id, http2.ErrCodeNo) })
		return
	}
	c.end(id)
	c.head(id, true, hpack.HeaderField{Name: "grpc-status", Value: "0"})
	if c.mode == "goaway" {
		_ = c.write(func() error { return c.framer.WriteGoAway(id, http2.ErrCodeNo, nil) })
	}
}

// end forgets a stream.
func (c *connection) end(id uint32) {
	c.mu.Lock()
	delete(c.streams, id)
	c.mu.Unlock()
	c.changed.Broadcast()
}

func (c *connection) head(id uint32, last bool, fields ...hpack.HeaderField) {
	_ = c.write(func() error {
		c.block.Reset()
		for _, field := range fields {
			if err := c.encoder.WriteField(field); err != nil {
				return err
			}
		}
		return c.framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: id, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: last,
		})
	})
}

// data sends bytes as the windows allow, and gives up when the stream is gone.
func (c *connection) data(id uint32, bytes []byte) {
	for len(bytes) > 0 {
		c.mu.Lock()
		for c.window <= 0 || c.streams[id] <= 0 {
			if _, open := c.streams[id]; !open {
				c.mu.Unlock()
				return
			}
			c.changed.Wait()
		}
		size := min(int64(len(bytes)), 16384, c.window, c.streams[id])
		c.window -= size
		c.streams[id] -= size
		c.mu.Unlock()
		piece := bytes[:size]
		bytes = bytes[size:]
		if c.write(func() error { return c.framer.WriteData(id, false, piece) }) != nil {
			return
		}
	}
}

// write writes a frame, with PINGs around it if the case wants them.
func (c *connection) write(frame func() error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, step := range []func() error{c.ping, frame, c.ping} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (c *connection) ping() error {
	if c.mode != "ping" {
		return nil
	}
	c.all.count(func(s *seen) { s.pings++ })
	return c.framer.WritePing(false, [8]byte{'i', 'n', 't', 'e', 'r', 'o', 'p'})
}

// reply is the message that the clients of these cases expect, with gRPC's prefix.
func reply() ([]byte, error) {
	message, err := proto.Marshal(&testing.SimpleResponse{Payload: &testing.Payload{Body: make([]byte, responseSize)}})
	if err != nil {
		return nil, fmt.Errorf("the reply: %w", err)
	}
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(prefix, message...), nil
}

package gateway

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Heads that are as large as they may be, in as many lines as they may have, on many
// connections: the memory is that of this machine, not of the inside.
func TestLargeHeadsAreBounded(t *testing.T) {
	const conns = 300
	line := "a:\r\n"
	for name, head := range map[string]string{
		"that do not end":   "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n" + strings.Repeat(line, 16000),
		"answered slowly":   "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\n" + strings.Repeat(line, 16000) + "\r\n",
		"one line":          "GET http://example.org/" + strings.Repeat("a", 65000),
		"one line answered": "GET http://example.org/" + strings.Repeat("a", 65000) + " HTTP/1.1\r\nHost: example.org\r\n\r\n",
		"a long name":       "GET http://example.org/ HTTP/1.1\r\nHost: example.org\r\nX: " + strings.Repeat("a", 65000) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			w := start(t, allow("example.org", 0))
			w.serve("80", func(c net.Conn) { io.Copy(io.Discard, c) }) // never answers
			memory := func() uint64 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			before := memory()
			for range conns {
				c := dialTo(t, w.addrs.http)
				c.SetWriteDeadline(time.Now().Add(time.Second))
				io.WriteString(c, head)
			}
			time.Sleep(500 * time.Millisecond) // what is held while nothing moves is the point: no event says that nothing more comes
			if grown := int64(memory()-before) >> 10; grown > 50*conns {
				t.Errorf("%d connections hold %d KiB", conns, grown)
			}
			// Nobody else suffers.
			w.site("81", echo)
			c := dialTo(t, w.addrs.http)
			io.WriteString(c, "GET http://example.org:81/ HTTP/1.1\r\nHost: example.org:81\r\n\r\n")
			if r, err := http.ReadResponse(bufio.NewReader(c), nil); err != nil || r.StatusCode != 200 {
				t.Error(r, err)
			}
		})
	}
}

// However many connections there are, descriptors are left for the rest of the
// program: the watch of the workspace needs them.
func TestDescriptorsAreLeft(t *testing.T) {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 512
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	w := start(t, allow("example.org", 0))
	for range 512 / fdsPerConn {
		dialTo(t, w.addrs.http)
	}
	if c, err := net.Dial("tcp", w.addrs.http); err == nil { // else it was reset already
		defer c.Close()
	}
	f := w.told("a limit", func(f Fact) bool { return f.Verdict.Code == tooMany })
	if want := fmt.Sprintf("more than %d connections", 512/fdsPerConn); !strings.Contains(f.Verdict.Reason, want) {
		t.Errorf("%q, want %q", f.Verdict.Reason, want)
	}
}

package gateway

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

// One request after the other on one connection: straight to a server, and looked into.
func BenchmarkRequest(b *testing.B) {
	for _, how := range []string{"straight", "tunnel", "looked"} {
		b.Run(how, func(b *testing.B) {
			rule := looked("example.org", 443, nil)
			rule.Tunnel = how == "tunnel"
			w, inside := inspecting(b, rule)
			w.cfg.Record = func(Fact) error { return nil }
			w.serveTLS("443", &tls.Config{NextProtos: []string{"http/1.1"}}, func(rw http.ResponseWriter, r *http.Request) { rw.Write(make([]byte, 1000)) })
			if how != "looked" {
				inside.AddCert(trusted().cert)
			}
			tr := &http.Transport{MaxConnsPerHost: 1, TLSClientConfig: &tls.Config{RootCAs: inside, ServerName: "example.org"}, DialContext: func(context.Context, string, string) (net.Conn, error) {
				if how == "straight" {
					return net.Dial("tcp", w.servers[":443"])
				}
				return w.named("example.org", "443"), nil
			}}
			c := &http.Client{Transport: tr}
			b.ReportAllocs()
			for b.Loop() {
				resp, err := c.Get("https://example.org/")
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, resp.Body)
				resp.Body.Close()
			}
			tr.CloseIdleConnections()
		})
	}
}

package gateway

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/gateway/decide"
	"cofferdam/internal/plan"
)

func pkt(s string) string { return fmt.Sprintf("%04x%s", 4+len(s), s) }

const (
	noObject = "0000000000000000000000000000000000000000"
	anObject = "1234567890123456789012345678901234567890"
	caps     = "\x00 report-status-v2 side-band-64k object-format=sha1 agent=git/2.39.5"
)

func change(from, to, ref string) string { return from + " " + to + " " + ref }

func TestReadPush(t *testing.T) {
	const pack = "PACK and more"
	for s, want := range map[string][]decide.Ref{
		"0000": {},
		pkt(change(noObject, anObject, "refs/heads/a")+caps) + "0000" + pack:                                                                      {{Name: "refs/heads/a", Create: true}},
		pkt(change(anObject, noObject, "refs/heads/a")+caps+"\n") + "0000":                                                                        {{Name: "refs/heads/a", Delete: true}},
		pkt("shallow "+anObject) + pkt(change(anObject, anObject, "refs/heads/a")+caps) + pkt(change(noObject, anObject, "refs/tags/é")) + "0000": {{Name: "refs/heads/a"}, {Name: "refs/tags/é", Create: true}},
		pkt(change(strings.Repeat("0", 64), strings.Repeat("A", 64), "refs/heads/a/b")) + "0000":                                                  {{Name: "refs/heads/a/b", Create: true}},
	} {
		r := strings.NewReader(s)
		p, first, err := readPush(r, anyRoom)
		if err != nil || !slices.Equal(p.refs, want) || p.refs == nil {
			t.Errorf("%q: %+v %v", s, p, err)
			continue
		}
		rest, _ := io.ReadAll(r)
		if string(first)+string(rest) != s || len(rest) > 0 && string(rest) != pack {
			t.Errorf("%q: read %q, left %q", s, first, rest)
		}
		if (p.report != nil) != strings.Contains(s, "report-status") {
			t.Errorf("%q: report %v", s, p.report != nil)
		}
	}
	good := change(noObject, anObject, "refs/heads/a")
	for _, s := range []string{
		"", "00", "PACK", "zzzz", "+001", "0x10", "0001", "0002", "0003", "0004", "fff1", "ffff", pkt(good), pkt(good) + "0001", pkt(good) + "0004" + "0000",
		pkt(good)[:20], pkt("push-cert"+caps) + "0000", pkt(good+caps) + pkt("push-cert"+caps) + "0000", pkt(good+caps+" push-options") + "0000",
		pkt(good+caps+" push-cert=x") + "0000", pkt(good+caps) + pkt(good+caps) + "0000", pkt(good) + pkt("shallow "+anObject) + "0000", pkt("shallow x") + "0000",
		pkt(change(noObject, anObject, "HEAD")) + "0000", pkt(change(noObject, anObject, "refs/heads/../main")) + "0000", pkt(change(noObject, anObject, "refs/heads/a b")) + "0000",
		pkt(change(noObject, anObject, "refs/heads/a\r")) + "0000", pkt(change(noObject, anObject, "refs/heads//a")) + "0000", pkt(change(noObject, anObject, "")) + "0000",
		pkt(change(noObject, anObject+" ", "refs/heads/a")) + "0000", pkt(change(noObject[1:], anObject, "refs/heads/a")) + "0000", pkt(change("x"+noObject[1:], anObject, "refs/heads/a")) + "0000",
		pkt("\n") + "0000", pkt(change(noObject, anObject, "refs/heads/a\n\n")) + "0000", strings.Repeat(pkt(change(noObject, anObject, "refs/heads/"+strings.Repeat("a", 4000))), 300) + "0000",
	} {
		if p, _, err := readPush(strings.NewReader(s), anyRoom); err == nil {
			t.Errorf("%.200q: %+v", s, p.refs)
		}
	}
}

// Whatever is read is what git would read: each line of the list is a change that was
// returned, and what was read is carried on unchanged.
func FuzzReadPush(f *testing.F) {
	f.Add([]byte("0000"))
	f.Add([]byte(pkt(change(noObject, anObject, "refs/heads/a")+caps) + "0000PACK"))
	f.Add([]byte(pkt("shallow "+anObject) + pkt(change(anObject, noObject, "refs/heads/a")+caps) + pkt(change(noObject, anObject, "refs/tags/x")) + "0000PACK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		p, first, err := readPush(r, anyRoom)
		if err != nil {
			return
		}
		rest, _ := io.ReadAll(r)
		if !bytes.Equal(append(bytes.Clone(first), rest...), b) || len(first) > maxPush+4 {
			t.Fatalf("%q: read %q, left %q", b, first, rest)
		}
		// By another way: git's own (receive-pack.c): lines up to a flush, a change is
		// two names of objects and what is left up to a NUL.
		var refs []string
		for s := string(first); s[:4] != "0000"; {
			var n int
			fmt.Sscanf(s[:4], "%x", &n)
			line, _, _ := strings.Cut(strings.TrimSuffix(s[4:n], "\n"), "\x00")
			if !strings.HasPrefix(line, "shallow ") {
				id := strings.IndexByte(line, ' ')
				refs = append(refs, line[2*id+2:])
			}
			s = s[n:]
		}
		if !slices.EqualFunc(p.refs, refs, func(r decide.Ref, s string) bool { return r.Name == s }) {
			t.Errorf("%q: %+v, git reads %q", b, p.refs, refs)
		}
		if p.report != nil {
			p.report("text")
		}
	})
}

// A push is judged by what it changes, and goes on as it came.
func TestPushRefs(t *testing.T) {
	w, inside := inspecting(t, looked("example.org", 443, &plan.Requests{Acts: []string{decide.GitPush, decide.GitFetch}, Refs: []string{"refs/heads/agent/*"}}))
	type got struct {
		body    string
		chunked bool
	}
	bodies := make(chan got, 1)
	w.serveTLS("443", &tls.Config{}, func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil || r.Header.Get("Expect") != "" {
			t.Error(err, r.Header)
		}
		bodies <- got{string(b), r.ContentLength < 0}
	})
	pack := strings.Repeat("PACK", 100_000)
	mine := pkt(change(noObject, anObject, "refs/heads/agent/x")+caps) + "0000" + pack
	both := pkt(change(noObject, anObject, "refs/heads/agent/x")+caps) + pkt(change(anObject, noObject, "refs/heads/main")) + "0000" + pack
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	io.WriteString(z, mine)
	z.Close()
	for what, c := range map[string]struct {
		body    string
		size    int // of a chunk, 0: none
		header  string
		allowed bool
	}{
		"a length":                 {mine, 0, "", true},
		"small chunks":             {mine[:3000], 7, "", true},
		"large chunks":             {mine, 100_000, "", true},
		"one chunk":                {mine, len(mine), "", true},
		"a probe":                  {"0000", 0, "", true},
		"a probe in a chunk":       {"0000", 4, "", true},
		"expecting":                {mine, 0, "Expect: 100-continue\r\n", true},
		"another ref":              {both, 0, "", false},
		"another ref in chunks":    {both, 5000, "", false},
		"compressed":               {zipped.String(), 0, "Content-Encoding: gzip\r\n", false},
		"no list":                  {"PACK", 0, "", false},
		"expecting something else": {mine, 0, "Expect: x\r\n", false},
	} {
		_, before := w.outside()
		conn := shake(t, w.named("example.org", "443"), inside, "example.org")
		go func() {
			head := "POST /x.git/git-receive-pack HTTP/1.1\r\nHost: example.org\r\n" + c.header
			if c.size == 0 {
				fmt.Fprintf(conn, "%sContent-Length: %d\r\n\r\n%s", head, len(c.body), c.body)
				return
			}
			b := bufio.NewWriter(conn)
			b.WriteString(head + "Transfer-Encoding: chunked\r\n\r\n")
			for s := c.body; s != ""; {
				n := min(c.size, len(s))
				fmt.Fprintf(b, "%x\r\n%s\r\n", n, s[:n])
				s = s[n:]
			}
			b.WriteString("0\r\n\r\n")
			b.Flush()
		}()
		r := bufio.NewReader(conn)
		resp, err := http.ReadResponse(r, nil)
		for err == nil && resp.StatusCode == 100 {
			resp, err = http.ReadResponse(r, nil)
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		text, _ := io.ReadAll(resp.Body)
		conn.Close()
		if _, after := w.outside(); !c.allowed {
			refused := resp.Header.Get("X-Cofferdam-Refused") != ""
			if len(after) != len(before) || !refused {
				t.Errorf("%s: %v %.300q, dialled %v", what, resp.Status, text, after[len(before):])
			}
			if c.body == both && (resp.StatusCode != 200 || !strings.Contains(string(text), "\x02cofferdam refused this (not-allowed)") || !strings.Contains(string(text), "ng refs/heads/main ")) {
				t.Errorf("%s: %v %.300q", what, resp.Status, text)
			}
			continue
		}
		if g := <-bodies; resp.StatusCode != 200 || g.body != c.body || g.chunked != (c.size > 0) {
			t.Errorf("%s: %v %.300q; %d bytes of %d", what, resp.Status, text, len(g.body), len(c.body))
		}
	}
	w.told("the push", func(f Fact) bool {
		return f.Verdict.Act == decide.GitPush && f.Verdict.Allow && f.Path == "/x.git/git-receive-pack"
	})
	w.told("the refusal", func(f Fact) bool {
		return f.Verdict.Act == decide.GitPush && !f.Verdict.Allow && strings.Contains(f.Verdict.Reason, "refs/heads/main")
	})
}

func anyRoom() bool { return true }

// Long lists are read for a few at once, short ones for everybody.
func TestPushRoom(t *testing.T) {
	id := strings.Repeat("a", 40)
	line := fmt.Sprintf("%04x%s %s refs/heads/x\n", 4+2*41+13, id, id)
	none := func() bool { return false }
	if p, _, err := readPush(strings.NewReader(line+"0000"), none); err != nil || len(p.refs) != 1 {
		t.Errorf("a short list: %v", err)
	}
	if _, _, err := readPush(strings.NewReader(strings.Repeat(line, 200)+"0000"), none); err != errNoLists {
		t.Errorf("a long list without room: %v", err)
	}
	if p, _, err := readPush(strings.NewReader(strings.Repeat(line, 200)+"0000"), anyRoom); err != nil || len(p.refs) != 200 {
		t.Errorf("a long list: %v", err)
	}
}

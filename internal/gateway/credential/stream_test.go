package credential

import (
	"bytes"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// inPieces runs a stream over a text that comes in pieces of these lengths, the last of
// them again and again. It also checks how much is held back.
func inPieces(t testing.TB, pairs []pair, text string, lengths []byte) string {
	t.Helper()
	s := newStream(pairs)
	var out []byte
	for i := 0; len(text) > 0; i++ {
		n := 1
		if len(lengths) > 0 {
			n = 1 + int(lengths[min(i, len(lengths)-1)])
		}
		n = min(n, len(text))
		out = s.next(out, []byte(text[:n]), false)
		if text = text[n:]; len(s.held) >= max(s.max, 1) {
			t.Fatalf("%d bytes are held back for a text of %d", len(s.held), s.max)
		}
	}
	return string(s.next(out, nil, true))
}

// slowly is the plain meaning of replaceAll.
func slowly(text string, pairs []pair) string {
	var out strings.Builder
	for i := 0; i < len(text); {
		best := pair{}
		for _, p := range pairs {
			if strings.HasPrefix(text[i:], p.find) && len(p.find) > len(best.find) {
				best = p
			}
		}
		if best.find == "" {
			out.WriteByte(text[i])
			i++
			continue
		}
		out.WriteString(best.put)
		i += len(best.find)
	}
	return out.String()
}

func FuzzStream(f *testing.F) {
	f.Add("xxabcabcdxx", "abc", "abcd", "bc", []byte{0})
	f.Add("aaaaaaaab", "aaab", "aa", "b", []byte{1, 2})
	f.Add("ababababac", "ababac", "abac", "", []byte{3})
	f.Fuzz(func(t *testing.T, text, a, b, c string, lengths []byte) {
		if len(text) > 1<<12 {
			return
		}
		pairs := []pair{{a, "<1>"}, {b, "<two>"}, {c, ""}}
		want := slowly(text, pairs)
		if got := replaceAll(text, pairs); got != want {
			t.Errorf("the whole: %q, want %q", got, want)
		}
		if got := inPieces(t, pairs, text, lengths); got != want {
			t.Errorf("in pieces: %q, want %q", got, want)
		}
	})
}

// A few letters and short texts make every overlap there is.
func TestStreamOverlaps(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	word := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "ab"[r.IntN(2)]
		}
		return string(b)
	}
	for range 20000 {
		pairs := []pair{{word(1 + r.IntN(5)), "1"}, {word(1 + r.IntN(5)), "22"}, {word(r.IntN(3)), ""}}
		if pairs[0].find == pairs[1].find || pairs[1].find == pairs[2].find || pairs[0].find == pairs[2].find {
			continue
		}
		text, lengths := word(r.IntN(30)), []byte{byte(r.IntN(3)), byte(r.IntN(4))}
		if got, want := inPieces(t, pairs, text, lengths), slowly(text, pairs); got != want {
			t.Fatalf("%q %v in pieces %v: %q, want %q", text, pairs, lengths, got, want)
		}
	}
}

// What can't be the beginning of a value is passed on at once.
func TestStreamDoesNotWait(t *testing.T) {
	r, w := io.Pipe()
	s := &Stream{newStream([]pair{{"secret", "******"}})}
	out := s.Reader(r)
	go func() {
		io.WriteString(w, "data: sec")
	}()
	buf := make([]byte, 100)
	if n, err := out.Read(buf); err != nil || string(buf[:n]) != "data: " {
		t.Errorf("%q %v", buf[:n], err)
	}
	go func() { io.WriteString(w, "ond\n\n"); w.CloseWithError(io.ErrUnexpectedEOF) }()
	rest, err := io.ReadAll(out)
	if string(rest) != "second\n\n" || err != io.ErrUnexpectedEOF {
		t.Errorf("%q %v", rest, err)
	}
}

// Whatever stands before and behind a value, and in whatever form it comes back, it does
// not get through; what comes has the length that was announced.
func FuzzEchoes(f *testing.F) {
	f.Add("token", "before ", " behind", []byte{2})
	f.Add(`a/b+c="d\e%`, "", "x", []byte{0})
	f.Add("sk-ant-api03-12345678", "x", "", []byte{})
	f.Fuzz(func(t *testing.T, value, before, behind string, lengths []byte) {
		if usable(value) != nil || len(before)+len(behind) > 1000 {
			return
		}
		stand, err := placeholder(value, rand.NewChaCha8([32]byte{}))
		if err != nil {
			t.Fatal(err)
		}
		pairs := echoes(value, stand)
		for name, text := range map[string]string{
			"plain": before + value + behind, "base64": base64.StdEncoding.EncodeToString([]byte(before + value + behind)),
			"base64url": base64.RawURLEncoding.EncodeToString([]byte(before + value + behind)), "query": before + url.QueryEscape(value) + behind,
			"path": before + url.PathEscape(value) + behind,
		} {
			if name == "query" && strings.Contains(value, " ") {
				continue // "+" for a space is not what is written here
			}
			got := inPieces(t, pairs, text, lengths)
			if len(got) != len(text) {
				t.Errorf("%s: %d bytes of %d", name, len(got), len(text))
			}
			var seen []string
			switch name {
			case "base64":
				b, _ := base64.StdEncoding.DecodeString(got)
				seen = append(seen, string(b))
			case "base64url":
				b, _ := base64.RawURLEncoding.DecodeString(got)
				seen = append(seen, string(b))
			case "query", "path":
				seen = append(seen, unescape(got))
			}
			for _, s := range append(seen, got) {
				if strings.Contains(s, value) && !strings.Contains(before+behind, value) && !strings.Contains(stand, value) && !overlapping(before, value, behind) {
					t.Errorf("%s: %q has %q", name, s, value)
				}
			}
		}
	})
}

// overlapping: the value is in the text more than once, over itself, and only one of
// those can be replaced.
func overlapping(before, value, behind string) bool {
	return strings.Count(before+value+behind, value) != 1 || strings.LastIndex(before+value+behind, value) != len(before) || strings.Trim(value, "*") == ""
}

func TestReaderGivesAll(t *testing.T) {
	text := strings.Repeat("one secret and ", 10000)
	for name, r := range map[string]io.Reader{"whole": strings.NewReader(text), "bytes": iotest.OneByteReader(strings.NewReader(text)), "late end": iotest.DataErrReader(strings.NewReader(text))} {
		got, err := io.ReadAll((&Stream{newStream([]pair{{"secret", "public"}})}).Reader(r))
		if err != nil || string(got) != strings.ReplaceAll(text, "secret", "public") {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

// BenchmarkResponse is the cost of reading a response for a value.
func BenchmarkResponse(b *testing.B) {
	value := "sk-ant-api03-" + strings.Repeat("Ab3_", 24)
	pairs := echoes(value, strings.Repeat("x", len(value)))
	text := make([]byte, 1<<20)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(text)
	for i := range text {
		text[i] = (alnum + `{}":, .-_`)[int(text[i])%(len(alnum)+9)]
	}
	b.Run("text", func(b *testing.B) {
		b.SetBytes(int64(len(text)))
		for b.Loop() {
			io.Copy(io.Discard, (&Stream{newStream(pairs)}).Reader(bytes.NewReader(text)))
		}
	})
	b.Run("small", func(b *testing.B) {
		for b.Loop() {
			io.Copy(io.Discard, (&Stream{newStream(pairs)}).Reader(bytes.NewReader(text[:2000])))
		}
	})
}

func TestBase64Forms(t *testing.T) {
	forms := base64Forms("some>>secret??")
	for before := range 8 {
		for _, enc := range []*base64.Encoding{base64.StdEncoding, base64.URLEncoding, base64.RawStdEncoding} {
			text := enc.EncodeToString([]byte(strings.Repeat("\xff", before) + "some>>secret??" + "\xff\xff"))
			if !slices.ContainsFunc(forms, func(f string) bool { return strings.Contains(text, f) }) {
				t.Errorf("not seen in %s", text)
			}
		}
	}
}

// Package credential keeps the secrets of a session out of the inside: there, a
// placeholder stands for each, and the gateway puts the real value into requests to the
// credential's own hosts.
//
//	inside                          here                                host of the credential
//	------                          ----                                ----------------------
//	Authorization: PLACEHOLDER ---> Put: host? TLS? then the value ---> Authorization: VALUE
//	{"you sent": PLACEHOLDER} <---- Use: each form of the value    <--- {"you sent": VALUE}
//
// It is the last step before a request leaves: what was decided and recorded speaks of
// the placeholder. A placeholder in a request to any other host is refused. Where a value
// can't be had, nothing is sent, the placeholder neither.
//
// No value is in an error, and what is returned to print names credentials only. Values
// stay in memory until the program ends: Go moves and copies strings as it likes, so
// there is no erasing them.
package credential

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
)

// Host is one that may get the value: a canonical name, or "*.example.org" for its
// strict subdomains, and the port. A wildcard is no use of decide's: there, a rule
// without a port is for every port.
type Host struct {
	Name string
	Port uint16
}

func (h Host) covers(name string, port uint16) bool {
	if port != h.Port || name == "" {
		return false
	}
	if below, ok := strings.CutPrefix(h.Name, "*"); ok {
		return len(name) > len(below) && strings.HasSuffix(name, below)
	}
	return name == h.Name
}

// Spec is one credential.
type Spec struct {
	Name   string // of the variable or the file, for people
	Hosts  []Host
	Bodies bool // put into the bodies of requests, too
	Source Source
}

// Set is all credentials of one session. Its methods may be called from many
// goroutines.
type Set struct{ list []*item }

// item is a credential with what was made of it.
type item struct {
	Spec
	placeholder string
	// sought are the forms of the placeholder that are looked for.
	sought []string

	mu sync.Mutex
	// values are those that it has had, the newest last: any of them may come back.
	values []known
}

// known is a value with the forms in which it may come back. They are made once the
// placeholder is there.
type known struct {
	text   string
	echoes []pair
}

// maxValues that are remembered of one credential; a command that gives another value
// at each call must not make the search for them slow.
const maxValues = 8

// New reads each source once and makes the placeholders of what it is given: their form
// is that of the value. The error says which credential can't be had.
func New(ctx context.Context, specs []Spec, random io.Reader) (*Set, error) {
	s := &Set{list: make([]*item, len(specs))}
	errs := make([]error, len(specs))
	var all sync.WaitGroup
	for i, spec := range specs {
		s.list[i] = &item{Spec: spec}
		all.Go(func() { _, errs[i] = s.list[i].value(ctx) })
	}
	all.Wait()
	for i, x := range s.list {
		if errs[i] != nil {
			return nil, &Unavailable{Name: x.Name, Err: errs[i]}
		}
		var err error
		first := &x.values[0]
		if x.placeholder, err = placeholder(first.text, random); err != nil {
			return nil, err
		}
		first.echoes = echoes(first.text, x.placeholder)
		x.sought = append([]string{x.placeholder}, base64Forms(x.placeholder)...)
	}
	return s, nil
}

// Unavailable: the value of a credential can't be had.
type Unavailable struct {
	Name string
	Err  error
}

func (e *Unavailable) Error() string { return "the credential " + e.Name + ": " + e.Err.Error() }
func (e *Unavailable) Unwrap() error { return e.Err }

// Placeholders are what stands for each credential, in the order that New got.
func (s *Set) Placeholders() []string {
	out := make([]string, len(s.list))
	for i, x := range s.list {
		out[i] = x.placeholder
	}
	return out
}

// File is the content of a file with placeholders for the values. Each credential whose
// value comes from this file has to be in it.
func (s *Set) File(path string) (string, error) {
	content, _, err := readFile(path)
	if err != nil {
		return "", err
	}
	var here, others []*item
	for _, x := range s.list {
		if f, ok := x.Source.(*File); !ok || f.Path != path {
			others = append(others, x)
		} else {
			here = append(here, x)
			v, err := extract(content, f.Extract)
			if err == nil {
				err = usable(v)
			}
			if err != nil {
				return "", err
			}
			x.remember(v)
		}
	}
	// Another may have the same value, for other hosts.
	return hide(content, append(here, others...)), nil
}

// Hide returns content with the placeholder in the place of every known value, of
// whichever credential.
func (s *Set) Hide(content string) string { return hide(content, s.list) }

// hide takes the first of those that have the same value.
func hide(content string, list []*item) string {
	var pairs []pair
	for _, x := range list {
		x.mu.Lock()
		for _, v := range x.values {
			pairs = append(pairs, pair{v.text, x.placeholder})
		}
		x.mu.Unlock()
	}
	return replaceAll(content, pairs)
}

// value is the value as it is now.
func (x *item) value(ctx context.Context) (string, error) {
	v, err := x.Source.Value(ctx)
	if err == nil {
		err = usable(v)
	}
	if err != nil {
		return "", err
	}
	x.remember(v)
	return v, nil
}

func (x *item) remember(v string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if n := len(x.values); n > 0 && x.values[n-1].text == v {
		return
	}
	x.values = slices.DeleteFunc(x.values, func(k known) bool { return k.text == v })
	if len(x.values) == maxValues {
		x.values = x.values[1:]
	}
	k := known{text: v}
	if x.placeholder != "" {
		k.echoes = echoes(v, x.placeholder)
	}
	x.values = append(x.values, k)
}

func (x *item) covers(name string, port uint16) bool {
	return slices.ContainsFunc(x.Hosts, func(h Host) bool { return h.covers(name, port) })
}

// of is covers for any port: what a host was told it may tell at another.
func (x *item) of(name string) bool {
	return slices.ContainsFunc(x.Hosts, func(h Host) bool { return h.covers(name, h.Port) })
}

// Bounds of a value. What is shorter can't be told from other text, so it could not be
// kept out of responses.
const (
	minValue = 8
	maxValue = 4096
)

// usable says why a value can't be put into a header.
func usable(v string) error {
	switch {
	case v == "":
		return fmt.Errorf("the value is empty")
	case len(v) < minValue:
		return fmt.Errorf("the value has fewer than %d characters: it could not be told from other text", minValue)
	case len(v) > maxValue:
		return fmt.Errorf("the value has more than %d characters", maxValue)
	case strings.Trim(v, " ") != v:
		return fmt.Errorf("the value begins or ends with a space")
	}
	for i := range len(v) {
		if v[i] < ' ' || v[i] >= 0x7f {
			return fmt.Errorf("the value has line breaks or characters that are not ASCII, which no header can have; is only a part of it the secret (extract)?")
		}
	}
	return nil
}

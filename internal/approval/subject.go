package approval

import (
	"net"
	"strconv"
	"strings"
)

// Subject is what a question is about. Connections and requests with the same Subject
// are one question, and what a person answers holds for it and nothing else.
type Subject struct {
	// Host is a canonical name, or an address.
	Host string `json:"host"`
	Port uint16 `json:"port"`
	// Of one request within a connection that is allowed: the method, the path as it
	// was sent and without the query, and what it does (decide.Acts). Empty when
	// the connection itself is asked about.
	Method string `json:"method,omitempty"`
	Path   string `json:"path,omitempty"`
	Act    string `json:"act,omitempty"`
	// Refs are what a git push changes, with spaces between.
	Refs string `json:"refs,omitempty"`
}

// Address is host and port as a person writes them.
func (s Subject) Address() string { return net.JoinHostPort(s.Host, strconv.Itoa(int(s.Port))) }

// String is one line for a person; it is hostile text as all of a Subject.
func (s Subject) String() string {
	parts := []string{}
	if s.Act != "" {
		parts = append(parts, s.Act)
	}
	if s.Method != "" {
		parts = append(parts, s.Method)
	}
	parts = append(parts, s.Address()+s.Path)
	if s.Refs != "" {
		parts = append(parts, s.Refs)
	}
	return strings.Join(parts, " ")
}

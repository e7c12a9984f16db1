// Package modelapi is a stand-in for the model behind an AI coding agent. It
// answers the agent's requests with a script: one tool call after the other,
// and then a last word. What the agent hands back for each call is kept
// verbatim. It judges nothing: whether an attack got through is decided by the
// host, which knows the canaries.
//
// It speaks Anthropic's Messages API, OpenAI's Responses and Chat Completions APIs and
// Google's Gemini API, as far as Claude Code 2.1, Codex 0.169, OpenCode 1.18 and Gemini
// CLI 0.61 use them.
package modelapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sort"
	"strings"
	"sync"
)

// Tool is what a step does, in words that fit every agent; Server translates.
type Tool string

const (
	Shell Tool = "shell" // Command
	Read  Tool = "read"  // Path
	Write Tool = "write" // Path, Text
	Edit  Tool = "edit"  // Path, Old, Text
	Grab  Tool = "grab"  // the tool of the repository's MCP server, no arguments
)

// Step is one tool call.
type Step struct {
	ID      string `json:"id"`
	Tool    Tool   `json:"tool"`
	Command string `json:"command,omitempty"`
	Path    string `json:"path,omitempty"` // absolute: the agents insist
	Old     string `json:"old,omitempty"`
	Text    string `json:"text,omitempty"`
}

// Call is a step that the agent was asked for, with what it answered. Done is
// false if the agent never answered.
type Call struct {
	ID     string `json:"id"`
	Name   string `json:"name"` // the agent's own name of the tool
	Done   bool   `json:"done"`
	Failed bool   `json:"failed"` // the agent says that the tool failed
	Result string `json:"result"`
}

// Transcript is one agent session as it was seen from inside the boundary.
type Transcript struct {
	Exit    int               `json:"exit"`
	Calls   []Call            `json:"calls"`
	Tools   []string          `json:"tools"`   // what the agent offered
	Odd     []string          `json:"odd"`     // requests the stand-in did not understand
	Request string            `json:"request"` // the last one of the main conversation
	Loot    map[string]string `json:"loot"`    // files in ./loot: what hooks and MCP servers took
	Stdout  string            `json:"stdout"`
	Stderr  string            `json:"stderr"`
}

// Server is an http.Handler with the state of one session.
type Server struct {
	steps []Step

	mu    sync.Mutex
	calls []Call
	tools map[string]bool // names that the agent offered
	last  []byte          // last request of the main conversation
	odd   []string        // requests that were not understood
}

// New makes a server that plays steps once.
func New(steps []Step) *Server {
	return &Server{steps: steps, tools: map[string]bool{}}
}

// Calls returns what has been asked for until now.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Call(nil), s.calls...)
}

// Tools returns the names of the tools that the agent offered, sorted.
func (s *Server) Tools() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.tools {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// LastRequest returns the newest request of the main conversation: it holds
// all that the model has been told.
func (s *Server) LastRequest() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.last)
}

// Odd lists the requests that were not understood.
func (s *Server) Odd() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.odd...)
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	path := strings.TrimSuffix(r.URL.Path, "/")
	switch {
	case r.Method == http.MethodPost && path == "/v1/messages/count_tokens":
		writeJSON(w, map[string]any{"input_tokens": 100})
	case r.Method == http.MethodPost && path == "/v1/messages":
		s.messages(w, body)
	case r.Method == http.MethodPost && path == "/v1/responses":
		s.responses(w, body)
	case r.Method == http.MethodPost && path == "/v1/chat/completions":
		s.chat(w, body)
	case r.Method == http.MethodPost && geminiMethod(path) == "generateContent":
		s.content(w, body, false)
	case r.Method == http.MethodPost && geminiMethod(path) == "streamGenerateContent":
		s.content(w, body, true)
	case r.Method == http.MethodPost && geminiMethod(path) == "countTokens":
		writeJSON(w, map[string]any{"totalTokens": 100})
	case r.Method == http.MethodGet && path == "/v1/models":
		writeJSON(w, map[string]any{"object": "list", "data": []any{}, "models": []any{}})
	case r.Method == http.MethodHead || r.Method == http.MethodGet && path == "":
		w.WriteHeader(http.StatusOK)
	default:
		s.mu.Lock()
		s.odd = append(s.odd, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		http.Error(w, `{"error":{"type":"not_found_error","message":"not in the stand-in"}}`, http.StatusNotFound)
	}
}

// next takes in the results that a request carries and returns the step to
// ask for, or nil at the end. Results are matched by call ID and not counted,
// so that a request which the agent repeats does no harm.
func (s *Server) next(body []byte, results map[string]Call, name func(Step) string) (*Step, string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = body
	for i := range s.calls {
		if got, ok := results[callID(i)]; ok && !s.calls[i].Done {
			s.calls[i].Done, s.calls[i].Failed, s.calls[i].Result = true, got.Failed, got.Result
		}
	}
	n := len(s.calls)
	if n > 0 && !s.calls[n-1].Done {
		return &s.steps[n-1], callID(n - 1) // a repeated request
	}
	if n == len(s.steps) {
		return nil, ""
	}
	s.calls = append(s.calls, Call{ID: s.steps[n].ID, Name: name(s.steps[n])})
	return &s.steps[n], callID(n)
}

func callID(i int) string { return fmt.Sprintf("toolu_%04d", i) }

// offer notes the names of the tools that the agent offers.
func (s *Server) offer(names []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range names {
		s.tools[n] = true
	}
}

const lastWord = "All steps are done."

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v)
}

// event writes one server-sent event; every event of both APIs carries its
// own name as "type".
func event(w http.ResponseWriter, v map[string]any) {
	data, _ := json.Marshal(v)
	fmt.Fprintf(w, "event: %s\ndata: %s\n\n", v["type"], data)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

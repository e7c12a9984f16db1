package modelapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

var script = []Step{
	{ID: "one", Tool: Shell, Command: "ls"},
	{ID: "two", Tool: Edit, Path: "/w/a", Old: "x", Text: "y"},
}

func post(t *testing.T, s *Server, path string, body any) string {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, path, strings.NewReader(string(data))))
	if w.Code != http.StatusOK {
		t.Fatalf("%s: %d %s", path, w.Code, w.Body)
	}
	return w.Body.String()
}

type object = map[string]any

// A request that the agent sends again must not move the script, nor lose or
// change a result; a side question must not either.
func TestAnthropicPlaysTheScriptOnce(t *testing.T) {
	s := New(script)
	tools := []any{object{"name": "Bash"}, object{"name": "Edit"}}
	ask := func(messages ...any) string {
		return post(t, s, "/v1/messages", object{"model": "m", "stream": true, "tools": tools, "messages": messages})
	}
	result := func(i int, text string) object {
		return object{"role": "user", "content": []any{object{"type": "tool_result", "tool_use_id": fmt.Sprintf("toolu_%04d", i), "content": text}}}
	}
	hello := object{"role": "user", "content": "go"}
	for range 2 {
		if got := ask(hello); !strings.Contains(got, `"name":"Bash"`) {
			t.Fatalf("first answer: %s", got)
		}
	}
	if got := post(t, s, "/v1/messages", object{"model": "small", "messages": []any{hello}}); strings.Contains(got, "tool_use") {
		t.Errorf("side question: %s", got)
	}
	for range 2 {
		if got := ask(hello, result(0, "listing")); !strings.Contains(got, `"name":"Edit"`) {
			t.Fatalf("second answer: %s", got)
		}
	}
	if got := ask(hello, result(0, "listing"), result(1, "edited")); !strings.Contains(got, lastWord) || !strings.Contains(got, "end_turn") {
		t.Fatalf("last answer: %s", got)
	}
	want := []Call{{ID: "one", Name: "Bash", Done: true, Result: "listing"}, {ID: "two", Name: "Edit", Done: true, Result: "edited"}}
	if got := s.Calls(); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("calls %v, want %v", got, want)
	}
}

func TestOpenAIPlaysTheScript(t *testing.T) {
	s := New(script)
	tools := []any{object{"type": "function", "name": "exec_command"}, object{"type": "custom", "name": "apply_patch"}}
	ask := func(input ...any) string {
		return post(t, s, "/v1/responses", object{"model": "m", "tools": tools, "input": input})
	}
	if got := ask(); !strings.Contains(got, `{\"cmd\":\"ls\"`) {
		t.Fatalf("first answer: %s", got)
	}
	one := object{"type": "function_call_output", "call_id": "toolu_0000", "output": "listing"}
	if got := ask(one); !strings.Contains(got, `*** Update File: /w/a\n@@\n-x\n+y\n`) {
		t.Fatalf("second answer: %s", got)
	}
	two := object{"type": "custom_tool_call_output", "call_id": "toolu_0001", "output": "edited"}
	if got := ask(one, two); !strings.Contains(got, lastWord) {
		t.Fatalf("last answer: %s", got)
	}
	for i, want := range []string{"listing", "edited"} {
		if got := s.Calls()[i]; !got.Done || got.Result != want {
			t.Errorf("call %d: %+v, want %q", i, got, want)
		}
	}
}

// The same of Chat Completions and of Gemini's API: a side question has no tools.
func TestOthersPlayTheScript(t *testing.T) {
	for name, api := range map[string]struct {
		path   string
		tools  any
		result func(id, text string) object
		ask    func(tools any, results []any) object
		wants  []string
	}{
		"chat": {
			path: "/v1/chat/completions", tools: []any{object{"type": "function", "function": object{"name": "bash"}}},
			result: func(id, text string) object { return object{"role": "tool", "tool_call_id": id, "content": text} },
			ask: func(tools any, results []any) object {
				return object{"model": "m", "tools": tools, "messages": results}
			},
			wants: []string{`"name":"bash"`, `"name":"edit"`},
		},
		"gemini": {
			path: "/v1beta/models/m:streamGenerateContent", tools: []any{object{"functionDeclarations": []any{object{"name": "run_shell_command"}}}},
			result: func(id, text string) object {
				return object{"role": "user", "parts": []any{object{"functionResponse": object{"id": id, "response": object{"output": text}}}}}
			},
			ask:   func(tools any, results []any) object { return object{"tools": tools, "contents": results} },
			wants: []string{`"name":"run_shell_command"`, `"name":"replace"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := New(script)
			if got := post(t, s, api.path, api.ask(nil, nil)); !strings.Contains(got, lastWord) || len(s.Calls()) != 0 {
				t.Errorf("side question: %s", got)
			}
			var results []any
			for i, want := range api.wants {
				for range 2 {
					if got := post(t, s, api.path, api.ask(api.tools, results)); !strings.Contains(got, want) {
						t.Fatalf("answer %d: %s", i, got)
					}
				}
				results = append(results, api.result(callID(i), "did "+script[i].ID))
			}
			if got := post(t, s, api.path, api.ask(api.tools, results)); !strings.Contains(got, lastWord) {
				t.Errorf("last answer: %s", got)
			}
			for i, c := range s.Calls() {
				if !c.Done || c.Result != "did "+script[i].ID {
					t.Errorf("call %d: %+v", i, c)
				}
			}
		})
	}
}

// What the stand-in does not know is told, so that a new version of an agent
// fails with a reason and not by a silent retry.
func TestUnknownRequestsAreKept(t *testing.T) {
	s := New(nil)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/v2/new", io.NopCloser(strings.NewReader("{}"))))
	if w.Code != http.StatusNotFound || fmt.Sprint(s.Odd()) != "[POST /v2/new]" {
		t.Errorf("status %d, odd %v", w.Code, s.Odd())
	}
}

package modelapi

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// chat answers one request of OpenAI's older API, Chat Completions, which is what
// "compatible" models speak: OpenCode asks it so. Side questions (titles) come without
// tools.
func (s *Server) chat(w http.ResponseWriter, body []byte) {
	var req struct {
		Model    string
		Stream   bool
		Tools    []struct{ Function struct{ Name string } }
		Messages []struct {
			Role       string
			ToolCallID string `json:"tool_call_id"`
			Content    json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	main := false
	var names []string
	for _, t := range req.Tools {
		names = append(names, t.Function.Name)
		main = main || t.Function.Name == opencodeName(Step{Tool: Shell})
	}
	message, finish := map[string]any{"role": "assistant", "content": lastWord}, "stop"
	if main {
		s.offer(names)
		results := map[string]Call{}
		for _, m := range req.Messages {
			if m.Role == "tool" {
				results[m.ToolCallID] = Call{Result: text(m.Content)}
			}
		}
		if step, id := s.next(body, results, opencodeName); step != nil {
			args, _ := json.Marshal(opencodeArgs(*step))
			message["content"], finish = nil, "tool_calls"
			message["tool_calls"] = []any{map[string]any{"index": 0, "id": id, "type": "function",
				"function": map[string]any{"name": opencodeName(*step), "arguments": string(args)}}}
		}
	}
	answer := map[string]any{"id": "chat_1", "object": "chat.completion", "created": 1, "model": req.Model,
		"usage": map[string]any{"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}}
	if !req.Stream {
		answer["choices"] = []any{map[string]any{"index": 0, "message": message, "finish_reason": finish}}
		writeJSON(w, answer)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	answer["object"] = "chat.completion.chunk"
	answer["choices"] = []any{map[string]any{"index": 0, "delta": message, "finish_reason": nil}}
	data(w, answer)
	answer["choices"] = []any{map[string]any{"index": 0, "delta": map[string]any{}, "finish_reason": finish}}
	data(w, answer)
	io.WriteString(w, "data: [DONE]\n\n")
}

// data writes one event without a name.
func data(w http.ResponseWriter, v any) {
	text, _ := json.Marshal(v)
	fmt.Fprintf(w, "data: %s\n\n", text)
	if f, ok := w.(http.Flusher); ok {
		f.Flush()
	}
}

func opencodeName(s Step) string {
	switch s.Tool {
	case Shell:
		return "bash"
	case Read:
		return "read"
	case Write:
		return "write"
	case Edit:
		return "edit"
	}
	return "lab_grab"
}

func opencodeArgs(s Step) map[string]any {
	switch s.Tool {
	case Shell:
		return map[string]any{"command": s.Command, "description": "step " + s.ID}
	case Read:
		return map[string]any{"filePath": s.Path}
	case Write:
		return map[string]any{"filePath": s.Path, "content": s.Text}
	case Edit:
		return map[string]any{"filePath": s.Path, "oldString": s.Old, "newString": s.Text}
	}
	return map[string]any{}
}

package modelapi

import (
	"encoding/json"
	"net/http"
	"strings"
)

// messages answers one request of Anthropic's Messages API. Claude Code also
// asks small side questions (titles, topics) without tools: those get a word
// and don't move the script.
func (s *Server) messages(w http.ResponseWriter, body []byte) {
	var req struct {
		Model    string `json:"model"`
		Stream   bool   `json:"stream"`
		Tools    []struct{ Name string }
		Messages []struct {
			Role    string
			Content json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	main := false
	var names []string
	for _, t := range req.Tools {
		names = append(names, t.Name)
		main = main || t.Name == "Bash"
	}
	block := map[string]any{"type": "text", "text": lastWord}
	if main {
		s.offer(names)
		results := map[string]Call{}
		for _, m := range req.Messages {
			anthropicResults(m.Content, results)
		}
		if step, id := s.next(body, results, claudeName); step != nil {
			block = map[string]any{"type": "tool_use", "id": id, "name": claudeName(*step), "input": claudeInput(*step)}
		}
	}
	anthropicAnswer(w, req.Model, req.Stream, block)
}

func anthropicResults(content json.RawMessage, into map[string]Call) {
	var blocks []struct {
		Type      string
		ToolUseID string `json:"tool_use_id"`
		IsError   bool   `json:"is_error"`
		Content   json.RawMessage
	}
	if json.Unmarshal(content, &blocks) != nil {
		return // a plain string
	}
	for _, b := range blocks {
		if b.Type == "tool_result" {
			into[b.ToolUseID] = Call{Failed: b.IsError, Result: text(b.Content)}
		}
	}
}

// text flattens a content field: a string, or a list of blocks with text.
func text(raw json.RawMessage) string {
	var plain string
	if json.Unmarshal(raw, &plain) == nil {
		return plain
	}
	var blocks []struct{ Text string }
	if json.Unmarshal(raw, &blocks) != nil {
		return string(raw)
	}
	var parts []string
	for _, b := range blocks {
		parts = append(parts, b.Text)
	}
	return strings.Join(parts, "\n")
}

func claudeName(s Step) string {
	switch s.Tool {
	case Shell:
		return "Bash"
	case Read:
		return "Read"
	case Write:
		return "Write"
	case Edit:
		return "Edit"
	}
	return "mcp__lab__grab"
}

func claudeInput(s Step) map[string]any {
	switch s.Tool {
	case Shell:
		return map[string]any{"command": s.Command, "description": "step " + s.ID}
	case Read:
		return map[string]any{"file_path": s.Path}
	case Write:
		return map[string]any{"file_path": s.Path, "content": s.Text}
	case Edit:
		return map[string]any{"file_path": s.Path, "old_string": s.Old, "new_string": s.Text}
	}
	return map[string]any{}
}

func anthropicAnswer(w http.ResponseWriter, model string, stream bool, block map[string]any) {
	stop := "end_turn"
	if block["type"] == "tool_use" {
		stop = "tool_use"
	}
	message := map[string]any{
		"id": "msg_1", "type": "message", "role": "assistant", "model": model,
		"content": []any{block}, "stop_reason": stop, "stop_sequence": nil,
		"usage": map[string]any{"input_tokens": 100, "output_tokens": 20},
	}
	if !stream {
		writeJSON(w, message)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	message["content"], message["stop_reason"] = []any{}, nil
	event(w, map[string]any{"type": "message_start", "message": message})
	start, delta := map[string]any{"type": "text", "text": ""}, map[string]any{"type": "text_delta", "text": block["text"]}
	if block["type"] == "tool_use" {
		input, _ := json.Marshal(block["input"])
		start = map[string]any{"type": "tool_use", "id": block["id"], "name": block["name"], "input": map[string]any{}}
		delta = map[string]any{"type": "input_json_delta", "partial_json": string(input)}
	}
	event(w, map[string]any{"type": "content_block_start", "index": 0, "content_block": start})
	event(w, map[string]any{"type": "content_block_delta", "index": 0, "delta": delta})
	event(w, map[string]any{"type": "content_block_stop", "index": 0})
	event(w, map[string]any{"type": "message_delta", "delta": map[string]any{"stop_reason": stop, "stop_sequence": nil},
		"usage": map[string]any{"output_tokens": 20}})
	event(w, map[string]any{"type": "message_stop"})
}

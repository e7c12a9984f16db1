package modelapi

import (
	"encoding/json"
	"net/http"
	"strings"
)

// responses answers one request of OpenAI's Responses API, always as a stream:
// Codex asks for nothing else.
func (s *Server) responses(w http.ResponseWriter, body []byte) {
	var req struct {
		Model string
		Tools []struct{ Type, Name string }
		Input []struct {
			Type   string
			CallID string `json:"call_id"`
			Output json.RawMessage
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	offered := map[string]string{} // name -> type
	var names []string
	for _, t := range req.Tools {
		offered[t.Name] = t.Type
		names = append(names, t.Name)
	}
	s.offer(names)
	results := map[string]Call{}
	for _, item := range req.Input {
		if strings.HasSuffix(item.Type, "call_output") {
			results[item.CallID] = Call{Result: text(item.Output)}
		}
	}
	item := map[string]any{"type": "message", "id": "msg_1", "role": "assistant", "status": "completed",
		"content": []any{map[string]any{"type": "output_text", "text": lastWord, "annotations": []any{}}}}
	name := func(st Step) string { return codexName(st, offered) }
	if step, id := s.next(body, results, name); step != nil {
		item = codexCall(*step, id, offered)
	}
	w.Header().Set("Content-Type", "text/event-stream")
	response := map[string]any{"id": "resp_1", "object": "response", "status": "in_progress", "model": req.Model, "output": []any{}}
	event(w, map[string]any{"type": "response.created", "response": response})
	event(w, map[string]any{"type": "response.output_item.added", "output_index": 0, "item": item})
	event(w, map[string]any{"type": "response.output_item.done", "output_index": 0, "item": item})
	response["status"], response["output"] = "completed", []any{item}
	response["usage"] = map[string]any{"input_tokens": 100, "output_tokens": 20, "total_tokens": 120,
		"input_tokens_details": map[string]any{"cached_tokens": 0}, "output_tokens_details": map[string]any{"reasoning_tokens": 0}}
	event(w, map[string]any{"type": "response.completed", "response": response})
}

// codexName picks Codex's tool for a step: its shell tool has had three names,
// and it edits by patch. It has no tool for reading: a read is a cat.
func codexName(s Step, offered map[string]string) string {
	switch s.Tool {
	case Write, Edit:
		return "apply_patch"
	case Grab:
		return "grab"
	}
	for _, name := range []string{"exec_command", "shell_command"} {
		if _, ok := offered[name]; ok {
			return name
		}
	}
	return "shell"
}

func codexCall(s Step, id string, offered map[string]string) map[string]any {
	name := codexName(s, offered)
	if name == "apply_patch" && offered[name] == "custom" {
		return map[string]any{"type": "custom_tool_call", "id": "ctc_" + id, "call_id": id, "name": name, "input": codexPatch(s), "status": "completed"}
	}
	command := s.Command
	if s.Tool == Read {
		command = "cat '" + s.Path + "'"
	}
	args := map[string]any{}
	switch name {
	case "apply_patch":
		args["input"] = codexPatch(s)
	case "exec_command":
		args["cmd"], args["yield_time_ms"], args["max_output_tokens"] = command, 10000, 20000
	case "shell_command":
		args["command"] = command
	case "shell":
		args["command"] = []string{"bash", "-c", command}
	}
	data, _ := json.Marshal(args)
	call := map[string]any{"type": "function_call", "id": "fc_" + id, "call_id": id, "name": name, "arguments": string(data), "status": "completed"}
	if s.Tool == Grab {
		call["namespace"] = "mcp__lab" // MCP tools are not offered by name; they are found by search, or known
	}
	return call
}

// codexPatch writes a step in apply_patch's own format.
func codexPatch(s Step) string {
	var b strings.Builder
	b.WriteString("*** Begin Patch\n")
	if s.Tool == Write {
		b.WriteString("*** Add File: " + s.Path + "\n")
		prefixed(&b, "+", s.Text)
	} else {
		b.WriteString("*** Update File: " + s.Path + "\n@@\n")
		prefixed(&b, "-", s.Old)
		prefixed(&b, "+", s.Text)
	}
	b.WriteString("*** End Patch\n")
	return b.String()
}

func prefixed(b *strings.Builder, prefix, text string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		b.WriteString(prefix + line + "\n")
	}
}

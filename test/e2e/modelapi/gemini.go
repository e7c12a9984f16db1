package modelapi

import (
	"encoding/json"
	"net/http"
	"strings"
)

// content answers one request of Google's Gemini API (generateContent). Gemini CLI
// also asks small side questions without tools: those get a word and don't move the
// script.
func (s *Server) content(w http.ResponseWriter, body []byte, stream bool) {
	type part struct {
		FunctionResponse *struct {
			ID       string
			Response map[string]json.RawMessage
		}
	}
	var req struct {
		Contents []struct{ Parts []part }
		Tools    []struct {
			FunctionDeclarations []struct{ Name string }
		}
	}
	if err := json.Unmarshal(body, &req); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	main := false
	var names []string
	for _, t := range req.Tools {
		for _, f := range t.FunctionDeclarations {
			names = append(names, f.Name)
			main = main || f.Name == geminiName(Step{Tool: Shell})
		}
	}
	answer := map[string]any{"text": lastWord}
	if main {
		s.offer(names)
		results := map[string]Call{}
		for _, c := range req.Contents {
			for _, p := range c.Parts {
				if r := p.FunctionResponse; r != nil {
					failed, bad := r.Response["error"]
					results[r.ID] = Call{Failed: bad, Result: text(r.Response["output"]) + text(failed)}
				}
			}
		}
		if step, id := s.next(body, results, geminiName); step != nil {
			answer = map[string]any{"functionCall": map[string]any{"id": id, "name": geminiName(*step), "args": geminiArgs(*step)}}
		}
	}
	response := map[string]any{
		"candidates":    []any{map[string]any{"index": 0, "finishReason": "STOP", "content": map[string]any{"role": "model", "parts": []any{answer}}}},
		"usageMetadata": map[string]any{"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120},
		"modelVersion":  "stand-in",
	}
	if !stream {
		writeJSON(w, response)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	data(w, response)
}

// geminiMethod is the last word of a path: models/NAME:METHOD.
func geminiMethod(path string) string {
	if !strings.HasPrefix(path, "/v1beta/models/") {
		return ""
	}
	_, method, _ := strings.Cut(path, ":")
	return method
}

func geminiName(s Step) string {
	switch s.Tool {
	case Shell:
		return "run_shell_command"
	case Read:
		return "read_file"
	case Write:
		return "write_file"
	case Edit:
		return "replace"
	}
	return "mcp_lab_grab"
}

func geminiArgs(s Step) map[string]any {
	switch s.Tool {
	case Shell:
		return map[string]any{"command": s.Command, "description": "step " + s.ID}
	case Read:
		return map[string]any{"file_path": s.Path}
	case Write:
		return map[string]any{"file_path": s.Path, "content": s.Text}
	case Edit:
		return map[string]any{"file_path": s.Path, "old_string": s.Old, "new_string": s.Text, "instruction": "step " + s.ID}
	}
	return map[string]any{}
}

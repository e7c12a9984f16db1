package cli

import (
	"strconv"
	"strings"

	"cofferdam/internal/flow"
	"cofferdam/internal/report"
)

func cmdCompletion() *command {
	return &command{
		args: "bash|zsh|fish",
		examples: [][2]string{
			{"source <(cofferdam completion bash)", "in ~/.bashrc"},
			{"cofferdam completion zsh > ~/.zfunc/_cofferdam", "with ~/.zfunc in fpath"},
			{"cofferdam completion fish > ~/.config/fish/completions/cofferdam.fish", "for fish"},
		},
		min: 1, max: 1,
		complete: func(_ *call, words []string) []string {
			if len(words) > 0 {
				return nil
			}
			return []string{"bash", "zsh", "fish"}
		},
		run: func(c *call, words []string) (int, error) {
			script, ok := map[string]string{"bash": bashScript, "zsh": zshScript, "fish": fishScript}[words[0]]
			if !ok {
				return 0, &flow.UsageError{Text: "no completion for " + report.Quote(cut(words[0])), Hint: "one of: bash, zsh, fish"}
			}
			return 0, c.print(script)
		},
	}
}

// The scripts ask the program itself: `cofferdam __complete WORD...` with the
// words up to the cursor, the last one unfinished, prints one candidate per
// line, or ":file", ":dir" (complete names of files) or ":command N" (the
// words from N on are somebody else's command line). Nothing is written to
// standard error, so a broken state never disturbs typing.
const (
	bashScript = `# bash completion for cofferdam
_cofferdam() {
    local cur=${COMP_WORDS[COMP_CWORD]} line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
        :file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
        :dir) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
        ":command "*)
            if declare -F _command_offset >/dev/null; then _command_offset $((${line#:command } + 1))
            elif declare -F _comp_command_offset >/dev/null; then _comp_command_offset $((${line#:command } + 1))
            else compopt -o filenames; mapfile -t COMPREPLY < <(compgen -c -f -- "$cur"); fi ;;
        *) COMPREPLY+=("$line") ;;
        esac
    done < <("${COMP_WORDS[0]}" __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _cofferdam cofferdam
`
	zshScript = `#compdef cofferdam
# zsh completion for cofferdam
_cofferdam() {
    local line
    local -a found
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        case $line in
        '') ;;
        :file) _files ;;
        :dir) _files -/ ;;
        ":command "*)
            local n=$((${line#:command } + 1))
            shift $n words
            ((CURRENT -= n))
            _normal ;;
        *) found+=("$line") ;;
        esac
    done
    ((${#found})) && compadd -- "${found[@]}"
}
if [ "$funcstack[1]" = "_cofferdam" ]; then _cofferdam; else compdef _cofferdam cofferdam; fi
`
	fishScript = `# fish completion for cofferdam
function __cofferdam_complete
    set -l words (commandline -opc)
    set -l cur (commandline -ct)
    for line in (command $words[1] __complete $words[2..-1] "$cur" 2>/dev/null)
        switch $line
            case ':file'
                __fish_complete_path "$cur"
            case ':dir'
                __fish_complete_directories "$cur"
            case ':command *'
                __fish_complete_subcommand --fcs-skip=(math (string replace ':command ' '' -- $line) + 1)
            case '*'
                echo $line
        end
    end
end
complete -c cofferdam -f -a '(__cofferdam_complete)'
`
)

// completeWords answers __complete.
func (c *call) completeWords(words []string) (int, error) {
	if len(words) == 0 {
		words = []string{""}
	}
	last := len(words) - 1
	var out []string
	for _, s := range c.candidates(words[:last], words[last], commands(), 0) {
		// ":..." are for the script, the rest must fit what is typed.
		if strings.HasPrefix(s, ":") || strings.HasPrefix(s, words[last]) {
			out = append(out, s+"\n")
		}
	}
	return 0, c.print(strings.Join(out, ""))
}

// candidates lists what may stand at cur after the words before it; offset is
// how many words were taken by commands already.
func (c *call) candidates(before []string, cur string, table []entry, offset int) []string {
	if len(before) == 0 {
		list := names(table)
		if offset == 0 {
			list = append(list, "help")
		}
		return list
	}
	var cmd *command
	for _, e := range table {
		if e.name == before[0] {
			cmd = e.build()
		}
	}
	switch {
	case cmd == nil && before[0] == "help" && offset == 0:
		return append(names(commands()), "exit-codes")
	case cmd == nil:
		return nil
	case cmd.subs != nil:
		return c.candidates(before[1:], cur, cmd.subs(), offset+1)
	}
	return c.arguments(cmd, before[1:], cur, offset+1)
}

// arguments completes flags, their values and words of one command.
func (c *call) arguments(cmd *command, before []string, cur string, offset int) []string {
	var f flags
	if cmd.flags != nil {
		cmd.flags(&f)
	}
	var words []string
	i, open := 0, true // open: flags may still come
	for ; i < len(before); i++ {
		w := before[i]
		switch {
		case open && w == "--":
			open = false
			if cmd.stopAtWord && cmd.complete == nil {
				return []string{commandAt(offset + i + 1)}
			}
		case open && strings.HasPrefix(w, "-"):
			name, _, hasValue := strings.Cut(strings.TrimLeft(w, "-"), "=")
			x := f.find(name)
			if x == nil || x.on != nil || hasValue {
				continue
			}
			if i++; i == len(before) {
				return valueOf(x)
			}
		default:
			words = append(words, w)
			if cmd.stopAtWord && (cmd.complete == nil || len(words) >= cmd.min) {
				return []string{commandAt(offset + i)}
			}
		}
	}
	if open && strings.HasPrefix(cur, "-") {
		out := []string{"--help"}
		for _, x := range f.list {
			out = append(out, "--"+x.name)
		}
		return out
	}
	if cmd.complete != nil {
		if list := cmd.complete(c, words); len(list) > 0 {
			return list
		}
	}
	if cmd.stopAtWord {
		return []string{commandAt(offset + i)}
	}
	return nil
}

func commandAt(n int) string { return ":command " + strconv.Itoa(n) }

func valueOf(x *flag) []string {
	if len(x.complete) == 1 && (x.complete[0] == "file" || x.complete[0] == "dir") {
		return []string{":" + x.complete[0]}
	}
	return x.complete
}

package policy

import (
	"path/filepath"
	"slices"

	"cofferdam/internal/plan"
)

// Seed is a file of the real home that is copied into a new private home, once.
type Seed struct {
	Path   string `json:"path"` // relative to the home
	Secret bool   `json:"secret,omitempty"`
}

// profile is what one agent or toolchain needs beyond the built-in policy.
type profile struct {
	// agent profiles go by the base name of the command, the others by a
	// tool that is on PATH.
	agent bool
	tools []string

	read    []string // may be read, if there
	env     []string // come in
	set     [][2]string
	domains []string // what it talks to, at port 443
	asked   []string // tools that say where packages come from (host/registry)
	// keys are the host to which a key belongs, by its variable.
	keys map[string]string
	seed []Seed
}

// profiles is the table of all of them. To add one: a line here, and one in
// README.md if it is an agent.
var profiles = map[string]profile{
	"claude": {
		agent: true,
		read:  []string{"~/.local/bin", "~/.local/share/claude", "~/.claude/local", "~/.npm-global"},
		env:   []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "ANTHROPIC_BASE_URL", "ANTHROPIC_MODEL", "ANTHROPIC_SMALL_FAST_MODEL", "CLAUDE_CODE_OAUTH_TOKEN", "CLAUDE_CODE_MAX_OUTPUT_TOKENS"},
		set: [][2]string{
			{"CLAUDE_CONFIG_DIR", "~/.claude"}, {"CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"}, {"DISABLE_AUTOUPDATER", "1"},
		},
		domains: []string{"api.anthropic.com", "claude.ai", "platform.claude.com"},
		keys:    map[string]string{"ANTHROPIC_API_KEY": "api.anthropic.com", "ANTHROPIC_AUTH_TOKEN": "api.anthropic.com", "CLAUDE_CODE_OAUTH_TOKEN": "api.anthropic.com"},
		seed: []Seed{
			{Path: ".claude.json"}, {Path: ".claude/.claude.json"}, {Path: ".claude/settings.json"}, {Path: ".claude/CLAUDE.md"},
			{Path: ".claude/.credentials.json", Secret: true},
		},
	},
	"codex": {
		agent:   true,
		read:    []string{"~/.local/bin", "~/.npm-global"},
		env:     []string{"OPENAI_API_KEY", "OPENAI_BASE_URL", "CODEX_API_KEY"},
		set:     [][2]string{{"CODEX_HOME", "~/.codex"}},
		domains: []string{"api.openai.com", "chatgpt.com", "auth.openai.com"},
		keys:    map[string]string{"OPENAI_API_KEY": "api.openai.com", "CODEX_API_KEY": "api.openai.com"},
		seed:    []Seed{{Path: ".codex/config.toml"}, {Path: ".codex/AGENTS.md"}, {Path: ".codex/auth.json", Secret: true}},
	},
	"gemini": {
		agent:   true,
		read:    []string{"~/.local/bin", "~/.npm-global"},
		env:     []string{"GEMINI_API_KEY", "GOOGLE_API_KEY", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_CLOUD_PROJECT", "GEMINI_MODEL"},
		domains: []string{"generativelanguage.googleapis.com", "cloudcode-pa.googleapis.com", "accounts.google.com", "oauth2.googleapis.com"},
		keys:    map[string]string{"GEMINI_API_KEY": "generativelanguage.googleapis.com", "GOOGLE_API_KEY": "generativelanguage.googleapis.com"},
		seed:    []Seed{{Path: ".gemini/settings.json"}, {Path: ".gemini/trustedFolders.json"}, {Path: ".gemini/GEMINI.md"}, {Path: ".gemini/oauth_creds.json", Secret: true}},
	},
	"opencode": {
		agent:   true,
		read:    []string{"~/.local/bin", "~/.opencode/bin", "~/.npm-global"},
		env:     []string{"OPENCODE_API_KEY"},
		set:     [][2]string{{"OPENCODE_DISABLE_AUTOUPDATE", "1"}},
		domains: []string{"models.opencode.ai", "opencode.ai"},
		keys:    map[string]string{"OPENCODE_API_KEY": "opencode.ai"},
		seed: []Seed{
			{Path: ".config/opencode/opencode.json"}, {Path: ".config/opencode/opencode.jsonc"}, {Path: ".config/opencode/AGENTS.md"},
			{Path: ".local/share/opencode/auth.json", Secret: true},
		},
	},

	"go": {
		tools: []string{"go"},
		read:  []string{"~/go/bin", "~/sdk", "~/.goenv", "~/.local/go"},
		env:   []string{"GOFLAGS", "GOPROXY", "GONOSUMDB", "GONOPROXY", "GOPRIVATE", "GOSUMDB", "GOTOOLCHAIN", "CGO_ENABLED", "GOOS", "GOARCH", "GOEXPERIMENT"},
		asked: []string{"go"},
	},
	"node": {
		tools: []string{"node", "npm", "bun", "deno"},
		read:  []string{"~/.nvm", "~/.volta", "~/.fnm", "~/.local/share/fnm", "~/.local/share/mise", "~/.asdf", "~/.npm-global", "~/.bun/bin", "~/.deno/bin", "~/.local/share/pnpm"},
		env:   []string{"NVM_DIR", "NVM_BIN", "VOLTA_HOME", "FNM_DIR", "NODE_ENV", "NODE_OPTIONS", "NODE_EXTRA_CA_CERTS", "PNPM_HOME", "BUN_INSTALL"},
		asked: []string{"npm", "pnpm", "yarn"},
	},
	"python": {
		tools: []string{"python3", "python", "uv", "pip"},
		read:  []string{"~/.pyenv", "~/.local/share/uv/python", "~/.local/share/mise", "~/.asdf", "~/.local/lib", "~/miniconda3", "~/anaconda3"},
		env:   []string{"PYENV_ROOT", "PYENV_VERSION", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"},
		asked: []string{"python3"},
	},
	"rust": {
		tools: []string{"cargo", "rustc"},
		read:  []string{"~/.cargo/bin", "~/.cargo/env", "~/.rustup", "~/.cargo/config.toml"},
		env:   []string{"RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "RUST_BACKTRACE"},
		asked: []string{"cargo"},
	},
	"java": {
		tools: []string{"java", "mvn", "gradle"},
		read:  []string{"~/.sdkman", "~/.jenv", "~/.jdks"},
		env:   []string{"JAVA_HOME", "JDK_HOME", "M2_HOME", "MAVEN_HOME", "GRADLE_HOME", "SDKMAN_DIR"},
	},
	"ruby": {
		tools: []string{"ruby", "bundle"},
		read:  []string{"~/.rbenv", "~/.rvm", "~/.local/share/mise", "~/.asdf"},
		env:   []string{"RBENV_ROOT", "GEM_PATH", "BUNDLE_PATH"},
		asked: []string{"gem"},
	},
}

// ProfileNames are the profiles in alphabetical order.
func ProfileNames() []string { return sortedKeys(profiles) }

// Tools are the programs whose presence on PATH turns a toolchain profile on.
func Tools() []string {
	var out []string
	for _, name := range ProfileNames() {
		out = append(out, profiles[name].tools...)
	}
	return out
}

// chooseProfiles gives the profiles of a run in the order of their strength:
// toolchains, the agent, what was asked for.
func chooseProfiles(s Source) []string {
	var out []string
	add := func(name string) {
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	for _, name := range ProfileNames() {
		if slices.ContainsFunc(profiles[name].tools, func(tool string) bool { return slices.Contains(s.Tools, tool) }) {
			add(name)
		}
	}
	if name := filepath.Base(s.Command); profiles[name].agent {
		add(name)
	}
	for _, name := range s.Profiles {
		if _, ok := profiles[name]; ok {
			add(name)
		}
	}
	return out
}

// profile adds one profile's rules.
func (l *loader) profile(name string) {
	e := l.e
	if slices.Contains(e.Profiles, name) {
		return
	}
	e.Profiles = append(e.Profiles, name)
	e.sources++
	p := profiles[name]
	at := func(key string) plan.Origin { return plan.Origin{Layer: "profile:" + name, Key: key} }
	for _, dir := range p.read {
		r := l.source.Place.resolve(AllowRead, dir, at("tools"))
		r.Optional = true
		e.path(r)
	}
	for _, v := range p.env {
		e.Env = append(e.Env, EnvRule{EnvAllow, v, "", at("environment")})
	}
	for _, kv := range p.set {
		e.Env = append(e.Env, EnvRule{EnvSet, kv[0], kv[1], at("environment")})
	}
	for _, d := range p.domains {
		// Without TLS nobody could check whom the key is sent to.
		// A tunnel: what the agent says to its model is for nobody here to open, and
		// some agents accept no other certificate.
		e.Net = append(e.Net, NetRule{Key: "tunnelDomains", Value: d + ":443", Origin: at("network")})
	}
	for _, tool := range p.asked {
		e.Asked = append(e.Asked, AskedTool{tool, at("registries")})
	}
	e.Seeds = append(e.Seeds, p.seed...)
}

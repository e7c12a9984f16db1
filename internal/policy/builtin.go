package policy

import (
	"slices"

	"cofferdam/internal/glob"
	"cofferdam/internal/plan"
)

// The policy that holds before anybody has written one: the home is hidden, the
// system can be read, the workspace can be written, no secret of the project can
// be read, nothing of the environment but what is harmless comes in. `policy show`
// prints it in full, like every other layer.

const builtinLayer = "built-in"

// ExamplesLayer is where the names stand that look like built-in secrets and are
// documentation: what matches is no such secret, and is treated as all around it.
const ExamplesLayer = builtinLayer + " exceptions"

func builtinOrigin(key string) plan.Origin { return plan.Origin{Layer: builtinLayer, Key: key} }

// systemDirs are read by every program. What is secret in them is taken out below.
var systemDirs = []string{
	"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt", "/nix/store",
	"/var/lib/dpkg", "/var/lib/ca-certificates", "/var/lib/ca-certificates-java",
	// What /etc/resolv.conf leads to. Not the directory: the resolver's socket in
	// it answers whoever connects, and a name to resolve carries data out.
	"/run/systemd/resolve/resolv.conf", "/run/systemd/resolve/stub-resolv.conf",
}

// systemSecrets are below systemDirs.
var systemSecrets = []string{
	"/etc/shadow", "/etc/shadow-", "/etc/gshadow", "/etc/gshadow-", "/etc/sudoers", "/etc/sudoers.d",
	"/etc/ssl/private", "/etc/ssh/ssh_host_rsa_key", "/etc/ssh/ssh_host_ecdsa_key", "/etc/ssh/ssh_host_ed25519_key",
	"/etc/krb5.keytab", "/etc/kubernetes", "/etc/rancher", "/etc/docker/key.json", "/etc/cofferdam", "/etc/wireguard", "/etc/openvpn",
	"/etc/NetworkManager/system-connections",
}

// homeSecrets are hidden with the whole home. They are named all the same: an
// attempt to read one is refused as such, and is seen.
var homeSecrets = []string{
	"~/.ssh", "~/.gnupg", "~/.aws", "~/.azure", "~/.config/gcloud", "~/.kube", "~/.docker", "~/.oci", "~/.config/doctl",
	"~/.netrc", "~/.git-credentials", "~/.config/git/credentials", "~/.config/gh", "~/.config/glab-cli", "~/.config/hub",
	"~/.npmrc", "~/.yarnrc.yml", "~/.pypirc", "~/.config/pip", "~/.gem/credentials", "~/.m2/settings.xml", "~/.m2/settings-security.xml",
	"~/.gradle/gradle.properties", "~/.cargo/credentials", "~/.cargo/credentials.toml", "~/.terraform.d", "~/.terraformrc",
	"~/.vault-token", "~/.password-store", "~/.local/share/keyrings", "~/.config/keybase", "~/.config/op", "~/.config/sops",
	"~/.mozilla", "~/.config/google-chrome", "~/.config/chromium", "~/.config/BraveSoftware", "~/.config/microsoft-edge", "~/.thunderbird",
	"~/.bash_history", "~/.zsh_history", "~/.python_history", "~/.node_repl_history", "~/.psql_history", "~/.mysql_history", "~/.lesshst",
	"~/.pgpass", "~/.my.cnf", "~/.s3cfg", "~/.boto", "~/.config/rclone", "~/.config/cofferdam",
}

// homeReadable is harmless and wanted: who commits, and how git behaves.
var homeReadable = []string{"~/.gitconfig", "~/.config/git/config", "~/.config/git/ignore", "~/.config/git/attributes"}

// workspaceSecrets can't be read in any depth of the workspace. The way to open
// one is one line or flag: filesystem.allowRead ["./.env"], --allow-read .env.
var workspaceSecrets = []struct{ pattern, reason string }{
	{"**/.env", "holds the secrets of a deployment"},
	{"**/.env.*", "holds the secrets of a deployment"}, {"**/.env-*", "holds the secrets of a deployment"},
	{"**/.env~", "a copy of secrets"}, {"**/*.env", "holds the secrets of a deployment"},
	{"**/id_rsa", "a private key"}, {"**/id_ed25519", "a private key"}, {"**/id_ecdsa", "a private key"}, {"**/id_dsa", "a private key"},
	{"**/*.key", "a private key"}, {"**/*.p12", "a private key"}, {"**/*.pfx", "a private key"}, {"**/*-key.pem", "a private key"},
	{"**/key.pem", "a private key"}, {"**/privkey.pem", "a private key"}, {"**/*.keystore", "a private key"}, {"**/*.jks", "a private key"},
	{"**/.netrc", "holds passwords"}, {"**/.pypirc", "holds passwords"}, {"**/.git-credentials", "holds passwords"}, {"**/.pgpass", "holds passwords"},
	{"**/.aws/credentials", "cloud credentials"}, {"**/service-account*.json", "cloud credentials"}, {"**/*.tfstate", "Terraform keeps secrets in it"},
	{"**/.vault-token", "a token"}, {"**/.dockerconfigjson", "registry credentials"}, {"**/kubeconfig", "cluster credentials"},
}

// workspaceExamples look like secrets and are documentation.
var workspaceExamples = []string{
	"**/.env.example", "**/example.env", "**/sample.env", "**/.env-example", "**/.env-sample", "**/.env.sample", "**/.env.template", "**/.env.dist", "**/.env.defaults", "**/.env.schema", "**/.env.test.example",
	"**/.env.*.example", "**/.env.*.sample", "**/.env.*.template",
}

// gitConfigGuards are lifted by filesystem.allowGitConfig.
var gitConfigGuards = []string{"**/.git/config"}

// guarded are names in the workspace that programs on the host obey. What exists
// can't be changed inside; what appears is set aside before the run ends.
var guarded = []struct{ pattern, reason string }{
	{"**/.git/hooks/", "git runs them at the next commit, checkout or push"},
	{"**/.git/config", "git runs programs that it names"},
	{"**/.git/config.worktree", "git runs programs that it names"},
	{"**/.git/commondir", "git takes configuration and hooks from where it points"},
	{"**/.git/info/attributes", "it can send files through filter programs"},
	{"**/.git/objects/info/alternates", "git takes objects from where it points"},
	{"**/.git/modules/**/config", "git runs programs that it names"},
	{"**/.git/modules/**/hooks/", "git runs them in the submodule"},
	{"**/.git/worktrees/*/commondir", "git takes configuration and hooks from where it points"},
	{"**/.git/worktrees/*/gitdir", "git looks for the worktree where it points"},
	{"**/.git/worktrees/*/config.worktree", "git runs programs that it names"},
	{"**/.git", "a repository or a pointer to one: git obeys what it finds there"},
	{"**/.claude/settings.json", "Claude Code runs hooks that it names"},
	{"**/.claude/settings.local.json", "Claude Code runs hooks that it names"},
	{"**/.claude/hooks/", "Claude Code runs them"},
	{"**/.claude/commands/", "Claude Code obeys them"},
	{"**/.claude/agents/", "Claude Code obeys them"},
	{"**/.claude/skills/", "Claude Code obeys them"},
	{"**/.mcp.json", "agents start servers that it names"},
	{"**/.cursor/", "Cursor starts servers and obeys rules that it names"},
	{"**/.codex/", "Codex starts servers that it names"},
	{"**/.gemini/", "Gemini CLI starts servers that it names"},
	{"**/.opencode/", "opencode runs plugins in it"},
	{"**/opencode.json", "opencode starts servers that it names"},
	{"**/opencode.jsonc", "opencode starts servers that it names"},
	{"**/.vscode/", "the editor runs tasks in it"},
	{"**/*.code-workspace", "the editor runs tasks in it"},
	{"**/.idea/", "the editor runs configurations in it"},
	{"**/.devcontainer/", "its initializeCommand runs on your machine"},
	{"**/.devcontainer.json", "its initializeCommand runs on your machine"},
	{"**/.envrc", "direnv runs it when you enter the directory"},
	{"**/.husky/", "git runs them at the next commit, if husky is set up"},
	{"**/.cofferdam/", "it is the project's policy"},
	{".bashrc", "a shell runs it"}, {".bash_profile", "a shell runs it"}, {".profile", "a shell runs it"},
	{".zshrc", "a shell runs it"}, {".zshenv", "a shell runs it"}, {".zprofile", "a shell runs it"}, {".gitconfig", "git obeys it"},
	{".ripgreprc", "ripgrep obeys it"},
}

// environment is what comes in from the caller: how the terminal behaves, the
// language, the time zone, and where programs are. Nothing that holds secrets.
var environment = []string{
	"PATH", "TERM", "COLORTERM", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "NO_COLOR", "FORCE_COLOR", "CLICOLOR", "CLICOLOR_FORCE",
	"LANG", "LANGUAGE", "LC_ALL", "LC_CTYPE", "LC_COLLATE", "LC_MESSAGES", "LC_MONETARY", "LC_NUMERIC", "LC_TIME",
	"LC_PAPER", "LC_NAME", "LC_ADDRESS", "LC_TELEPHONE", "LC_MEASUREMENT", "LC_IDENTIFICATION", "TZ", "SHELL", "EDITOR", "VISUAL", "PAGER", "COLUMNS", "LINES", "CI", "SOURCE_DATE_EPOCH",
}

// ceilings keep a fork bomb or a memory hog from hurting the host; they are far
// above what work needs. Memory and time have none: what is much depends on the
// machine and the work.
var ceilings = []LimitRule{
	{Name: "processes", Value: 4096, Unit: "count"},
	{Name: "open-files", Value: 65536, Unit: "count"},
	{Name: "temp-size", Value: 4 << 30, Unit: "bytes"},
}

func (e *Effective) builtin(p Place) {
	e.Paths = slices.Grow(e.Paths, 2*(len(systemDirs)+len(systemSecrets)+len(homeSecrets)+len(workspaceSecrets)))
	rule := func(access Access, text, reason, key string) {
		r := p.resolve(access, text, builtinOrigin(key))
		r.Reason, r.Optional = reason, true
		e.path(r)
	}
	for _, d := range systemDirs {
		rule(AllowRead, d, "", "system directories")
	}
	for _, d := range systemSecrets {
		rule(DenyRead, d, "a secret of the system", "system secrets")
	}
	homes := []string{"~"}
	if p.Login != "" && p.Login != p.Home {
		homes = append(homes, glob.Escape(p.Login))
	}
	for _, home := range homes {
		rule(DenyRead, home, "your home: keys, settings, other projects", "home")
		for _, d := range homeSecrets {
			rule(DenyRead, home+d[1:], "credentials or private data", "home secrets")
		}
	}
	for _, d := range homeReadable {
		rule(AllowRead, d, "", "git settings")
	}
	rule(AllowWrite, ".", "", "workspace")
	for _, s := range workspaceSecrets {
		rule(DenyRead, s.pattern, s.reason, "workspace secrets")
	}
	e.sources++
	for _, t := range workspaceExamples {
		// An example is more specific than what it is an example of, but a
		// pattern can't say so: it is a stronger source.
		r := p.resolve(AllowRead, t, plan.Origin{Layer: ExamplesLayer, Key: "workspace examples"})
		r.Optional = true
		e.path(r)
	}
	for _, g := range guarded {
		e.Guards = append(e.Guards, GuardRule{Pattern: g.pattern, Reason: g.reason, Origin: builtinOrigin("guards")})
	}
	for _, name := range environment {
		e.Env = append(e.Env, EnvRule{EnvAllow, name, "", builtinOrigin("environment")})
	}
	for _, c := range ceilings {
		c.Origin = builtinOrigin("ceilings")
		e.Limits = append(e.Limits, c)
	}
	e.Boundary = Setting[string]{"native", builtinOrigin("boundary")}
	e.WorkspaceMode = Setting[string]{"live", builtinOrigin("workspace.mode")}
	e.Unlisted = Setting[string]{Deny, builtinOrigin("network.unlisted")}
	e.Home = Setting[string]{"private", builtinOrigin("workspace.home")}
	e.AllowRoot = Setting[bool]{false, builtinOrigin("identity.allowRoot")}
	e.AllowGitConfig = Setting[bool]{false, builtinOrigin("filesystem.allowGitConfig")}
	e.Registries = Setting[bool]{true, builtinOrigin("network.registries")}
}

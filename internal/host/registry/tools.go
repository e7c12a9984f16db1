package registry

import (
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"cofferdam/internal/host"
)

// tool is one program that can say where it gets packages from.
type tool struct {
	name string // on PATH, and as a profile calls it
	args []string
	// environ are the person's variables that count; set are ours.
	environ, set []string
	// files are those of the person that its answer depends on. "~" is the home,
	// "$NAME" such a variable.
	files []string
	// links come to be in its working directory, by their last names.
	links []string
	// fails: it can only be asked by a question that ends in an error.
	fails bool
	read  func(out string, p person) reply
}

// reply is what a tool's words come to.
type reply struct {
	urls     []string // of registries
	files    []string // more that the answer depends on
	settings []host.Setting
}

// tools is the table of all of them. What a tool does not say is left out: no address
// of a registry is written here.
var tools = []tool{
	{
		name: "npm", args: []string{"config", "list", "--json"},
		environ: []string{"npm_config_registry", "NPM_CONFIG_REGISTRY", "npm_config_userconfig", "NPM_CONFIG_USERCONFIG", "npm_config_globalconfig", "NPM_CONFIG_GLOBALCONFIG"},
		set:     []string{"npm_config_update_notifier=false"},
		files:   []string{"~/.npmrc"},
		read: func(out string, p person) reply {
			var all map[string]any
			if json.Unmarshal([]byte(out), &all) != nil {
				return reply{}
			}
			r, own, lines := reply{}, p.environ["npm_config_registry"]+p.environ["NPM_CONFIG_REGISTRY"] != "", ""
			for _, key := range slices.Sorted(maps.Keys(all)) {
				text, _ := all[key].(string)
				switch {
				case key == "registry" || strings.HasSuffix(key, ":registry"): // also "@scope:registry"
					r.urls = append(r.urls, text)
					if text = bare(text); text != "" && !strings.ContainsAny(key, "=\n\r") {
						lines += key + "=" + text + "\n"
					}
				case key == "userconfig" || key == "globalconfig":
					r.files = append(r.files, text)
					if data, err := readSmall(text); err == nil && strings.Contains(string(data), "registry") {
						own = true
					}
				}
			}
			// As the weakest of npm's files, so that a project's own goes before it.
			if own {
				r.settings = []host.Setting{{Name: "NPM_CONFIG_GLOBALCONFIG", Value: lines, File: true}}
			}
			return r
		},
	},
	{
		name: "pnpm", args: []string{"config", "get", "registry"},
		environ: []string{"npm_config_registry", "NPM_CONFIG_REGISTRY"},
		set:     []string{"COREPACK_ENABLE_NETWORK=0"}, // a shim of Node would download it
		files:   []string{"~/.npmrc", "~/.config/pnpm/rc"},
		read:    words,
	},
	{
		name: "yarn", args: []string{"config", "get", "registry"},
		environ: []string{"YARN_REGISTRY", "npm_config_registry", "NPM_CONFIG_REGISTRY"},
		set:     []string{"COREPACK_ENABLE_NETWORK=0"},
		files:   []string{"~/.yarnrc", "~/.npmrc"},
		read:    words,
	},
	{
		name: "go", args: []string{"env", "-json", "GOPROXY", "GOSUMDB", "GOENV", "GOROOT"},
		environ: []string{"GOPROXY", "GOSUMDB", "GOENV"},
		set:     []string{"GOTOOLCHAIN=local", "GOWORK=off", "GOFLAGS="},
		files:   []string{"~/.config/go/env"},
		read: func(out string, _ person) reply {
			var v struct{ GOPROXY, GOSUMDB, GOENV, GOROOT string }
			if json.Unmarshal([]byte(out), &v) != nil {
				return reply{}
			}
			r := reply{files: []string{v.GOENV, filepath.Join(v.GOROOT, "go.env")}}
			proxies := v.GOPROXY
			for _, u := range strings.FieldsFunc(v.GOPROXY, func(r rune) bool { return r == ',' || r == '|' }) {
				// "direct" and "off" are no addresses; what is fetched directly is git's.
				r.urls = append(r.urls, u)
				if b := bare(u); b != "" {
					proxies = strings.ReplaceAll(proxies, u, b)
				}
			}
			// A name, or a key with a name in it, and perhaps where it is instead.
			sum := strings.Fields(v.GOSUMDB)
			switch {
			case len(sum) > 1:
				r.urls = append(r.urls, sum[1])
				sum[1] = bare(sum[1])
			case len(sum) == 1 && sum[0] != "off":
				name, _, _ := strings.Cut(sum[0], "+")
				r.urls = append(r.urls, "https://"+name)
			}
			r.settings = []host.Setting{{Name: "GOPROXY", Value: proxies}, {Name: "GOSUMDB", Value: strings.Join(sum, " ")}}
			return r
		},
	},
	{
		// Its index, from its configuration or else as it has it built in, and where
		// that one keeps its files. -E: no variable says what is loaded.
		name: "python3", args: []string{"-E", "-c", askPip},
		environ: []string{"PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CONFIG_FILE"},
		files:   []string{"~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf", "/etc/xdg/pip/pip.conf", "$PIP_CONFIG_FILE", "~/.pyenv/version"},
		read: func(out string, p person) reply {
			r := words(out, p)
			named := map[string]string{}
			for line := range strings.Lines(out) {
				name, urls, ok := strings.Cut(strings.TrimSpace(line), " ")
				if !ok {
					continue
				}
				for _, u := range strings.Fields(urls) {
					if u = bare(u); u != "" {
						named[name] = strings.TrimSpace(named[name] + " " + u)
					}
				}
			}
			for _, name := range slices.Sorted(maps.Keys(named)) {
				r.settings = append(r.settings, host.Setting{Name: name, Value: named[name]})
			}
			return r
		},
	},
	{
		name: "gem", args: []string{"sources", "--list"},
		files: []string{"~/.gemrc", "~/.config/gem/gemrc", "/etc/gemrc"},
		read:  words,
	},
	{
		// It has no command for that. With a proxy where nobody is, it says what it
		// could not reach.
		name: "cargo", args: []string{"search", "--limit", "1", "cofferdam"}, fails: true,
		set:   []string{"CARGO_HOME=.", "CARGO_NET_RETRY=0", "CARGO_HTTP_PROXY=http://127.0.0.1:9", "CARGO_TERM_COLOR=never"},
		files: []string{"~/.cargo/config.toml", "~/.cargo/config", "~/.cargo/registry/index", "~/.rustup/settings.toml"},
		links: []string{"~/.cargo/config.toml", "~/.cargo/config"},
		read: func(out string, p person) reply {
			var r reply
			for _, u := range addresses(out) {
				if !strings.Contains(u, "//127.0.0.1:9") {
					r.urls = append(r.urls, u)
				}
			}
			if len(r.urls) == 0 {
				return r
			}
			// Where the packages themselves are is a thing of the index; there is a
			// copy of what it says once it was used.
			copies, _ := filepath.Glob(filepath.Join(p.home, ".cargo/registry/index/*/config.json"))
			for _, name := range copies {
				var v struct{ DL string }
				if data, err := readSmall(name); err == nil && json.Unmarshal(data, &v) == nil {
					r.urls = append(r.urls, v.DL)
				}
			}
			return r
		},
	},
}

const askPip = `
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
c = Configuration(isolated=False)
c.load()
found = {}
for key, value in c.items():
    for k, v in value.items() if isinstance(value, dict) else [(key, value)]:
        section, _, name = k.rpartition(".")
        # What is empty is no setting, as for pip itself.
        if name in ("index-url", "extra-index-url") and v.strip():
            # A variable goes before what is for one command, and that before the rest.
            rank = (section.startswith(":env:"), section != "global")
            if name not in found or rank >= found[name][0]:
                found[name] = (rank, " ".join(v.split()))
for name, (_, v) in sorted(found.items()):
    print("PIP_" + name.upper().replace("-", "_"), v)
own = "index-url" not in found
if own:
    print(PyPI.simple_url)
    print("https://" + PyPI.file_storage_domain)
`

func words(out string, _ person) reply { return reply{urls: addresses(out)} }

// addresses are those in a text.
func addresses(out string) []string {
	var urls []string
	for _, w := range strings.FieldsFunc(out, func(r rune) bool { return strings.ContainsRune(" \t\r\n`'\"(),;<>", r) }) {
		if strings.Contains(w, "://") {
			urls = append(urls, w)
		}
	}
	return urls
}

// parse makes a registry of an address. It keeps no more than the host and the port:
// an address can have a password in it.
func parse(url string) (host.Registry, bool) {
	scheme, authority, _, ok := split(url)
	if !ok {
		return host.Registry{}, false
	}
	name, port := authority, "80"
	if strings.HasSuffix(strings.ToLower(scheme), "s") {
		port = "443"
	}
	if h, p, err := net.SplitHostPort(authority); err == nil {
		name, port = h, p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return host.Registry{}, false
	}
	name = strings.Trim(name, "[]")
	if a, err := netip.ParseAddr(name); err == nil && a.Zone() == "" {
		return host.Registry{Host: a.Unmap().String(), Port: port}, true
	}
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "" || len(name) > 253 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
		return host.Registry{}, false
	}
	return host.Registry{Host: name, Port: port}, true
}

// bare is an address without what may be a password; "" if it is none.
func bare(url string) string {
	scheme, authority, rest, ok := split(url)
	if rest, _, _ = strings.Cut(rest, "?"); !ok || strings.ContainsFunc(url, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		return ""
	}
	return scheme + "://" + authority + rest
}

// split takes an address over HTTP apart, and drops the user with the password.
func split(url string) (scheme, authority, rest string, ok bool) {
	scheme, rest, ok = strings.Cut(url, "://")
	if !slices.Contains([]string{"http", "https", "sparse+http", "sparse+https"}, strings.ToLower(scheme)) {
		return "", "", "", false
	}
	authority = rest
	if i := strings.IndexAny(rest, "/?#\\"); i >= 0 {
		authority, rest = rest[:i], rest[i:]
	} else {
		rest = ""
	}
	return scheme, authority[strings.LastIndexByte(authority, '@')+1:], rest, ok
}

// readSmall reads a small file of the person's; of a larger one there is nothing.
func readSmall(name string) ([]byte, error) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO has no end
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxAnswer {
		return nil, errors.Join(err, errors.New("no small file"))
	}
	buf := make([]byte, st.Size())
	_, err = io.ReadFull(f, buf)
	return buf, err
}

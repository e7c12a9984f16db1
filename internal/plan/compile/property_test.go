package compile

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cofferdam/internal/glob"
	"cofferdam/internal/host"
	"cofferdam/internal/plan"
	"cofferdam/internal/policy"
)

// judge is the second opinion: what the path rules say of p, read off their
// description in policy.Filesystem, one directory after the other from p upwards. It
// shares nothing with decide.
type judge struct {
	rules []policy.PathRule // patterns as found: each rule names one path
}

// newJudge spells the rules out with what is on the machine.
func newJudge(in Input) judge {
	var j judge
	for _, r := range in.Policy.Paths {
		if !r.Glob {
			j.rules = append(j.rules, r)
			continue
		}
		for _, m := range in.Facts.Found {
			if m.Pattern == r.Pattern {
				one := r
				one.Pattern = m.Path
				j.rules = append(j.rules, one)
			}
		}
	}
	for _, g := range in.Policy.Guards {
		for _, m := range in.Facts.Found {
			if m.Pattern == g.Pattern && !(path.Base(m.Path) == ".git" && m.Kind == host.KindDir) {
				j.rules = append(j.rules, policy.PathRule{Access: policy.DenyWrite, Pattern: m.Path, Glob: true, Origin: g.Origin, Strength: g.Strength})
			}
		}
	}
	// What is an example is no built-in secret; that is all an example is.
	examples := map[string]bool{}
	for _, r := range j.rules {
		if r.Origin.Key == "workspace examples" {
			examples[r.Pattern] = true
		}
	}
	j.rules = slices.DeleteFunc(j.rules, func(r policy.PathRule) bool {
		return r.Origin.Key == "workspace examples" || r.Origin.Key == "workspace secrets" && examples[r.Pattern]
	})
	return j
}

// verdict is the answer of the rules that speak: "yes", "no", or "" for none.
func (j judge) verdict(p string, speaks func(policy.PathRule) bool) string {
	for dir := p; ; dir = path.Dir(dir) {
		answer, best := "", [2]int{-1, -1}
		for _, r := range j.rules {
			if r.Pattern != dir || !speaks(r) {
				continue
			}
			rank := [2]int{1, r.Strength}
			if r.Glob {
				rank[0] = 0
			}
			no := strings.HasPrefix(string(r.Access), "deny")
			switch c := slices.Compare(rank[:], best[:]); {
			case c > 0:
				best, answer = rank, "yes"
				if no {
					answer = "no"
				}
			case c == 0 && no:
				answer = "no"
			}
		}
		if answer != "" || dir == "/" {
			return answer
		}
	}
}

func (j judge) access(p string) string {
	managed := func(r policy.PathRule) bool { return r.Origin.Layer == "managed" }
	reading := func(r policy.PathRule) bool { return r.Access != policy.DenyWrite }
	// What may be neither read nor written is not written where a part may be read.
	writing := func(r policy.PathRule) bool { return r.Access != policy.AllowRead }
	say := func(about func(policy.PathRule) bool) bool {
		if j.verdict(p, func(r policy.PathRule) bool { return managed(r) && about(r) }) == "no" {
			return false
		}
		return j.verdict(p, about) == "yes"
	}
	switch {
	case !say(reading):
		return "none"
	case say(writing):
		return "write"
	}
	return "read"
}

// dice are where random policies come from: a generator, or the bytes of a fuzzer.
type dice func(n int) int

func seeded(seed uint64) dice {
	r := rand.New(rand.NewPCG(seed, 11))
	return r.IntN
}

func fromBytes(data []byte) dice {
	return func(n int) int {
		if len(data) == 0 {
			return 0
		}
		v := int(data[0]) % n
		data = data[1:]
		return v
	}
}

var (
	randomPaths = []string{
		"~", "~/", "~/docs", "~/docs/private", "~/docs/private/open", "~/.ssh", "~/.ssh/config", "~/.gitconfig", "~/absent", ".", "./a", "./a/b", "./a/b/.env",
		"./a/gen", "./a/absent", "./.git", "./.git/config", "./.git/hooks", "**/.env", "**/.env.example", "./.env", "./.vscode", "**/gen", "*", "a/*",
		"/opt", "/etc", "/etc/shadow", "/", "/srv", "/home", "/usr", "/tmp", "/var",
	}
	randomGuards = []string{"**/gen", "**/.vscode/", "a/", "**/.env", "**/.git/config", "new"}
	accesses     = []string{"allowRead", "allowWrite", "denyRead", "denyWrite"}
)

// document is a random policy as JSON.
func (d dice) document() map[string]any {
	fs := map[string]any{}
	for _, k := range accesses {
		var list []string
		for range d(4) {
			list = append(list, randomPaths[d(len(randomPaths))])
		}
		if list != nil {
			fs[k] = list
		}
	}
	doc := map[string]any{"filesystem": fs}
	ws := map[string]any{}
	for _, k := range []string{"protect", "unprotect"} {
		if d(3) == 0 {
			ws[k] = []string{randomGuards[d(len(randomGuards))]}
		}
	}
	doc["workspace"] = ws
	if d(4) == 0 {
		fs["allowGitConfig"] = d(2) == 0
	}
	if d(4) == 0 {
		doc["identity"] = map[string]any{"allowRoot": d(2) == 0}
	}
	if d(4) == 0 {
		ws["home"] = []string{"private", "ephemeral"}[d(2)]
	}
	env := map[string]any{}
	for _, k := range []string{"allow", "deny"} {
		if d(2) == 0 {
			env[k] = []string{[]string{"A", "B", "A*", "TERM", "C"}[d(5)]}
		}
	}
	if d(3) == 0 {
		env["set"] = map[string]any{[]string{"A", "X", "PATH"}[d(3)]: "v"}
	}
	doc["environment"] = env
	if d(3) == 0 {
		doc["resources"] = map[string]any{"processes": 1 + d(9000), "memory": []string{"1GiB", "2GiB"}[d(2)]}
	}
	return doc
}

func text(doc map[string]any) string {
	out, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return string(out)
}

// outside is the environment of the caller.
var outside = []string{"A=1", "AB=2", "B=3", "C=4", "TERM=x", "PATH=/usr/bin"}

// looked are the paths that are looked at: what is there, and a name in each
// directory of which no rule speaks.
func looked(in Input) []string {
	var out []string
	for p, fact := range in.Facts.Paths {
		if fact.RealKind == host.KindDir || fact.RealKind == host.KindFile {
			out = append(out, p)
		}
		if fact.RealKind == host.KindDir {
			out = append(out, strings.TrimSuffix(p, "/")+"/zz", strings.TrimSuffix(p, "/")+"/zz/yy")
		}
	}
	slices.Sort(out)
	return out
}

func below(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// private: the inside has something of its own at p, so the host's is not there.
func private(in Input, p string) bool {
	if below(in.Workspace, p) {
		return false
	}
	for _, dir := range []string{"/proc", "/dev", "/run", "/sys", "/tmp", "/var/tmp"} {
		if below(dir, p) {
			return true
		}
	}
	return false
}

// agree compares a plan with the second opinion.
func agree(t testing.TB, in Input, p *plan.Plan) {
	t.Helper()
	j := newJudge(in)
	c := &compiler{in: in, p: &plan.Plan{}}
	c.rules()
	for _, name := range looked(in) {
		want := j.access(name)
		a := c.decide(name)
		decided := "none"
		if a.read {
			decided = "read"
		}
		if a.write {
			decided = "write"
		}
		if decided != want && !private(in, name) {
			t.Errorf("decide says of %s: %s, want %s", name, decided, want)
		}
		if private(in, name) && !below(in.Facts.Home, name) {
			want = "none"
		}
		if got := shows(p.Mounts, name); got != want {
			t.Errorf("the mounts show %s: %s, want %s", name, got, want)
		}
	}
}

func loadText(t testing.TB, dir, home string, managed, user, flags, project string) *policy.Effective {
	t.Helper()
	src := policy.Source{Place: policy.Place{Home: home, Workspace: home + strings.TrimPrefix(annWork, annHome)}}
	for name, s := range map[string]struct {
		text string
		at   *string
	}{"managed": {managed, &src.Managed}, "user": {user, &src.UserFile}} {
		if s.text != "" {
			*s.at = filepath.Join(dir, name)
			if err := os.WriteFile(*s.at, []byte(s.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	if flags != "" {
		doc, err := policy.Parse("flags", []byte(flags))
		if err != nil {
			t.Fatal(err)
		}
		src.Flags = doc
	}
	file := filepath.Join(src.Workspace, policy.ProjectFile)
	os.Remove(file)
	if project != "" {
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(project), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	eff, err := policy.Load(src)
	if err != nil {
		t.Fatal(err)
	}
	return eff
}

// The mounts do what the rules say, for random policies in random layers; and the
// same input gives the same bytes.
func TestMountsDoWhatTheRulesSay(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(250) {
		d := seeded(seed)
		docs := [3]string{}
		for i := range docs {
			if d(3) > 0 {
				docs[i] = text(d.document())
			}
		}
		in := inputAt(loadText(t, dir, annHome, docs[0], docs[1], docs[2], ""), annHome)
		in.Environ = outside
		p, err := Plan(in)
		if err != nil {
			continue // a run that is refused does nothing
		}
		agree(t, in, p)
		accounted(t, in, p)
		first, _ := json.Marshal(p)
		p, _ = Plan(in)
		if second, _ := json.Marshal(p); string(first) != string(second) {
			t.Errorf("the same input gives other bytes:\n%s\n%s", first, second)
		}
		if t.Failed() {
			t.Fatalf("seed %d:\nmanaged %s\nuser %s\nflags %s", seed, docs[0], docs[1], docs[2])
		}
	}
}

// Whatever others say, what the organisation denies is denied.
func TestManagedDenialsCannotBeWidened(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(200) {
		d := seeded(1000 + seed)
		managed, user, flags := text(d.document()), text(d.document()), text(d.document())
		in := inputAt(loadText(t, dir, annHome, managed, user, flags, ""), annHome)
		in.Environ = outside
		p, err := Plan(in)
		if err != nil {
			continue
		}
		j := newJudge(in)
		j.rules = slices.DeleteFunc(j.rules, func(r policy.PathRule) bool { return r.Origin.Layer != "managed" })
		for _, name := range looked(in) {
			got := shows(p.Mounts, name)
			if j.verdict(name, func(r policy.PathRule) bool { return r.Access != policy.DenyWrite }) == "no" && got != "none" ||
				j.verdict(name, func(r policy.PathRule) bool { return r.Access != policy.AllowRead }) == "no" && got == "write" {
				t.Errorf("%s: %s", name, got)
			}
		}
		for _, r := range in.Policy.Env {
			if r.Origin.Layer == "managed" && r.Action == policy.EnvDeny {
				for _, v := range p.Environment {
					if matchName(r.Name, v.Name) {
						t.Errorf("the variable %s comes in", v.Name)
					}
				}
			}
		}
		doc, err := policy.Parse("managed", []byte(managed))
		if err != nil {
			t.Fatal(err)
		}
		if n := doc.Resources.Processes; n != nil {
			if l, ok := p.Limit("processes"); !ok || l.Value > int64(n.V) {
				t.Errorf("the limit of processes: %+v, the organisation's is %v", l, n.V)
			}
		}
		for _, pattern := range doc.Workspace.Protect {
			if !slices.ContainsFunc(p.Guards, func(g plan.Guard) bool { return g.Pattern == pattern.V }) {
				t.Errorf("the guard %s is gone", pattern.V)
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d:\nmanaged %s\nuser %s\nflags %s", seed, managed, user, flags)
		}
	}
}

var rank = map[string]int{"none": 0, "read": 1, "write": 2}

// notWider fails if the plan b lets the inside do more than a.
func notWider(t testing.TB, in Input, a, b *plan.Plan) {
	t.Helper()
	for _, name := range looked(in) {
		if x, y := shows(a.Mounts, name), shows(b.Mounts, name); rank[y] > rank[x] {
			t.Errorf("%s was %s, is %s", name, x, y)
		}
	}
	before := map[string]string{}
	for _, v := range a.Environment {
		before[v.Name] = v.Value
	}
	for _, v := range b.Environment {
		if before[v.Name] != v.Value {
			t.Errorf("the variable %s was %q, is %q", v.Name, before[v.Name], v.Value)
		}
	}
	for _, l := range a.Limits {
		if now, ok := b.Limit(l.Name); !ok || now.Value > l.Value {
			t.Errorf("the limit %s was %d, is %+v", l.Name, l.Value, now)
		}
	}
	for _, g := range a.Guards {
		if !glob.HasMeta(g.Pattern) && shows(b.Mounts, in.Workspace+"/"+strings.TrimSuffix(g.Pattern, "/")) != "write" {
			continue // no such name can be made any more
		}
		if !slices.ContainsFunc(b.Guards, func(n plan.Guard) bool {
			return n.Pattern == g.Pattern && !slices.ContainsFunc(n.Except, func(e string) bool { return !slices.Contains(g.Except, e) })
		}) {
			t.Errorf("the guard %s is gone, or excepts more", g.Pattern)
		}
	}
	for _, m := range a.Mounts { // what keeps a name in its place
		if m.Kind == plan.Pin && shows(b.Mounts, m.Target) == "write" && !slices.ContainsFunc(b.Mounts, func(n plan.Mount) bool { return n.Target == m.Target }) {
			t.Errorf("%s is not pinned any more", m.Target)
		}
	}
	if len(b.RequiredGaps()) < len(a.RequiredGaps()) {
		t.Error("a gap is gone")
	}
}

// A project's file that nobody trusts takes rights away, or does nothing.
func TestUntrustedProjectNeverWidens(t *testing.T) {
	dir := t.TempDir()
	home, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	narrowed := 0
	for seed := range uint64(200) {
		d := seeded(2000 + seed)
		user, flags, project := text(d.document()), text(d.document()), text(d.document())
		run := func(project string) (Input, *plan.Plan, error) {
			in := inputAt(loadText(t, dir, home, "", user, flags, project), home)
			in.Environ, in.Facts.UID = outside, 0
			p, err := Plan(in)
			return in, p, err
		}
		_, a, err1 := run("")
		in, b, err2 := run(project)
		if err2 != nil {
			continue
		}
		if err1 != nil {
			t.Errorf("a run that is refused without the project's file is not with it: %v", err1)
		} else {
			notWider(t, in, a, b)
			if !slices.EqualFunc(a.Mounts, b.Mounts, func(a, b plan.Mount) bool { a.Rule, b.Rule = 0, 0; return a == b }) {
				narrowed++
			}
		}
		if t.Failed() {
			t.Fatalf("seed %d:\nuser %s\nflags %s\nproject %s", seed, user, flags, project)
		}
	}
	if narrowed < 20 {
		t.Errorf("only %d of the project's files did anything: this test is not one", narrowed)
	}
}

// One more denial in any layer never lets the inside do more.
func TestOneMoreDenialNeverWidens(t *testing.T) {
	dir := t.TempDir()
	for seed := range uint64(250) {
		d := seeded(3000 + seed)
		docs := []map[string]any{d.document(), d.document(), d.document()}
		run := func() (Input, *plan.Plan, error) {
			in := inputAt(loadText(t, dir, annHome, text(docs[0]), text(docs[1]), text(docs[2]), ""), annHome)
			in.Environ = outside
			p, err := Plan(in)
			return in, p, err
		}
		_, a, err1 := run()
		key, at, layer := []string{"denyRead", "denyWrite"}[d(2)], randomPaths[d(len(randomPaths))], d(3)
		fs := maps.Clone(docs[layer]["filesystem"].(map[string]any))
		list, _ := fs[key].([]string)
		fs[key] = append(slices.Clone(list), at)
		docs[layer]["filesystem"] = fs
		in, b, err2 := run()
		if err2 != nil {
			continue
		}
		if err1 != nil {
			t.Errorf("a denial makes a refused run possible: %v", err1)
		} else {
			notWider(t, in, a, b)
		}
		if t.Failed() {
			t.Fatalf("seed %d: %s %s in layer %d\n%v", seed, key, at, layer, docs)
		}
	}
}

// FuzzDecide: the decision, the mounts and the second opinion are one.
func FuzzDecide(f *testing.F) {
	f.Add([]byte("0"))
	f.Add([]byte("the quick brown fox jumps over the lazy dog and writes policies"))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := fromBytes(data)
		in := inputAt(loadText(t, t.TempDir(), annHome, text(d.document()), text(d.document()), text(d.document()), ""), annHome)
		in.Environ = outside
		p, err := Plan(in)
		if err != nil {
			return
		}
		agree(t, in, p)
	})
}

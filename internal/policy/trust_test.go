package policy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrust(t *testing.T) {
	s := newSite(t)
	state := s.dir + "/state"
	trust := TrustIn(state)
	const text = `{"filesystem": {"allowRead": ["/x"]}}`
	s.write(s.project(), text)
	if trust.Trusted(s.project(), []byte(text)) {
		t.Error("trusted by nobody")
	}
	path, hash, changed, err := trust.Add(s.Workspace)
	if err != nil || path != s.project() || len(hash) != 64 || !changed {
		t.Fatalf("%s %s %v %v", path, hash, changed, err)
	}
	if !trust.Trusted(s.project(), []byte(text)) {
		t.Error("not trusted")
	}
	for i := range len(text) {
		other := []byte(text)
		other[i] ^= 1
		if trust.Trusted(s.project(), other) {
			t.Fatalf("byte %d changed, and trusted still", i)
		}
	}
	for _, other := range []string{text + "\n", text[:len(text)-1], ""} {
		if trust.Trusted(s.project(), []byte(other)) {
			t.Errorf("%q is trusted", other)
		}
	}
	if trust.Trusted(s.dir+"/elsewhere/"+ProjectFile, []byte(text)) {
		t.Error("the same content elsewhere is trusted")
	}
	if _, _, changed, err = trust.Add(s.Workspace); err != nil || changed {
		t.Errorf("again: %v %v", changed, err)
	}
	s.Trusted = trust.Trusted
	if len(said(s.load(), "/x")) != 1 {
		t.Error("the loader does not trust it")
	}
	if _, changed, err = trust.Remove(s.Workspace); err != nil || !changed || trust.Trusted(s.project(), []byte(text)) {
		t.Errorf("removed: %v %v", changed, err)
	}
	if _, changed, err = trust.Remove(s.Workspace); err != nil || changed {
		t.Errorf("removed again: %v %v", changed, err)
	}
	// Nobody else reads or writes it, and no half of it is ever there.
	for file, want := range map[string]os.FileMode{state: 0o700, state + "/trust.json": 0o600} {
		if st, err := os.Stat(file); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v %v", file, st.Mode(), err)
		}
	}
	if entries, _ := os.ReadDir(state); len(entries) != 1 {
		t.Errorf("left in the state directory: %v", entries)
	}
}

// Writing replaces the file; whoever has the old one open keeps the old one whole.
func TestTrustIsReplacedAsAWhole(t *testing.T) {
	s := newSite(t)
	trust := TrustIn(s.dir)
	s.write(s.project(), `{}`)
	if _, _, _, err := trust.Add(s.Workspace); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(s.dir, "trust.json")
	old, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	before, _ := os.ReadFile(file)
	s.write(s.project(), `{ }`)
	if _, _, _, err := trust.Add(s.Workspace); err != nil {
		t.Fatal(err)
	}
	again := make([]byte, len(before)+1)
	if n, _ := old.Read(again); string(again[:n]) != string(before) {
		t.Error("the old file has been written into")
	}
	// A directory that takes no new file: an error, and the old content stays.
	now, _ := os.ReadFile(file)
	s.write(s.project(), `{  }`)
	blocked := Trust{filepath.Join(s.project(), "trust.json")} // below a file
	if _, _, _, err := blocked.Add(s.Workspace); err == nil {
		t.Error("no error")
	}
	if after, _ := os.ReadFile(file); string(after) != string(now) {
		t.Error("changed")
	}
}

func TestDamagedTrustFile(t *testing.T) {
	s := newSite(t)
	s.write(s.project(), `{}`)
	trust := TrustIn(s.dir)
	if _, _, _, err := trust.Add(s.Workspace); err != nil {
		t.Fatal(err)
	}
	file := s.dir + "/trust.json"
	good, _ := os.ReadFile(file)
	for name, text := range map[string]string{
		"half": string(good[:len(good)/2]), "empty": "", "null": "null", "other version": strings.Replace(string(good), `"version": 1`, `"version": 2`, 1),
		"no files": `{"version": 1, "files": null}`, "list": `[]`, "rest": string(good) + "x",
	} {
		s.write(file, text)
		if trust.Trusted(s.project(), []byte(`{}`)) {
			t.Errorf("%s: trusts", name)
		}
		if _, _, _, err := trust.Add(s.Workspace); err == nil || !strings.Contains(err.Error(), "is damaged: remove it") || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: add says %v", name, err)
		}
		if _, _, err := trust.Remove(s.Workspace); err == nil {
			t.Errorf("%s: remove says nothing", name)
		}
		if now, _ := os.ReadFile(file); string(now) != text {
			t.Errorf("%s: it has been overwritten", name)
		}
	}
	os.Remove(file)
	makeFifo(t, file)
	if trust.Trusted(s.project(), []byte(`{}`)) {
		t.Error("a FIFO trusts")
	}
}

// Only what is a policy can be trusted, and only as a file of the project.
func TestTrustNeedsAPolicy(t *testing.T) {
	s := newSite(t)
	trust := TrustIn(s.dir)
	if _, _, _, err := trust.Add(s.Workspace); err == nil {
		t.Error("trusts what is not there")
	}
	s.write(s.project(), `{"x": 1}`)
	if _, _, _, err := trust.Add(s.Workspace); err == nil {
		t.Error("trusts what is no policy")
	}
	os.Remove(s.project())
	s.write(s.dir+"/outside", `{}`)
	must(t, os.Symlink(s.dir+"/outside", s.project()))
	if _, _, _, err := trust.Add(s.Workspace); err == nil {
		t.Error("trusts what a symlink leads to")
	}
	if _, err := os.Stat(s.dir + "/trust.json"); err == nil {
		t.Error("something has been written")
	}
}

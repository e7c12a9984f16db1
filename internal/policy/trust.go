package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Trust remembers which content of which project files the person has read and
// accepted: a file of ours below the state directory, never visible inside. Path
// and content are both pinned, so a changed file is a stranger again.
type Trust struct{ file string }

// TrustIn is the trust file in a state directory.
func TrustIn(dir string) Trust { return Trust{filepath.Join(dir, "trust.json")} }

type trustFile struct {
	Version int               `json:"version"`
	Files   map[string]string `json:"files"` // path -> hex SHA-256
}

func (t Trust) read() (trustFile, error) {
	f := trustFile{Version: 1, Files: map[string]string{}}
	data, err := readFile(t.file)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, err
	}
	f = trustFile{} // "null" leaves all as it is, and is no trust file
	if err := json.Unmarshal(data, &f); err != nil || f.Version != 1 || f.Files == nil {
		return f, fmt.Errorf("%s is damaged: remove it, and trust again what you trust", t.file)
	}
	return f, nil
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// Trusted reports whether this content of this file is trusted. A trust file
// that can't be read trusts nothing.
func (t Trust) Trusted(path string, content []byte) bool {
	f, err := t.read()
	return err == nil && f.Files[path] == digest(content)
}

// Add trusts a project file as it is now; it must be a valid policy. It returns
// the content's hash, and whether it was not trusted before.
func (t Trust) Add(workspace string) (path, hash string, changed bool, err error) {
	path = filepath.Join(workspace, ProjectFile)
	content, err := readBelow(workspace, ProjectFile)
	if err != nil {
		return path, "", false, err
	}
	if _, err := Parse(path, content); err != nil {
		return path, "", false, err
	}
	hash = digest(content)
	err = t.change(func(f *trustFile) {
		changed = f.Files[path] != hash
		f.Files[path] = hash
	})
	return path, hash, changed, err
}

// Remove forgets a project file.
func (t Trust) Remove(workspace string) (path string, changed bool, err error) {
	path = filepath.Join(workspace, ProjectFile)
	err = t.change(func(f *trustFile) {
		_, changed = f.Files[path]
		delete(f.Files, path)
	})
	return path, changed, err
}

// change writes the file anew beside itself and renames it over the old one.
func (t Trust) change(edit func(*trustFile)) error {
	f, err := t.read()
	if err != nil {
		return err
	}
	edit(&f)
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(t.file), 0o700); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(t.file), "trust-*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(data, '\n'))
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), t.file)
}

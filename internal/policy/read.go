package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// readFile reads a policy file once, through one descriptor, so that what is
// hashed is what is parsed. A FIFO must not make us wait and a device must not
// be touched twice: O_NONBLOCK, then the kind of what was opened is looked at.
func readFile(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC|syscall.O_NOCTTY, 0)
	return readOpened(path, f, err)
}

// readBelow is readFile for a file of the workspace, which is hostile: no
// symlink may lead out of it.
func readBelow(dir, name string) ([]byte, error) {
	path := filepath.Join(dir, name)
	root, err := os.OpenRoot(dir)
	if err != nil {
		return readOpened(path, nil, err)
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	return readOpened(path, f, err)
}

func readOpened(path string, f *os.File, err error) ([]byte, error) {
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err // without the path a second time
		}
		return nil, fmt.Errorf("%w", fileError{path, err})
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fileError{path, err}
	}
	if !info.Mode().IsRegular() {
		return nil, Problems{{File: path, Text: "not a regular file but " + modeName(info.Mode()), Hint: "a policy is a text file"}}
	}
	// One more byte than allowed tells "too long" from "just fits"; the size
	// in the file's status may be old or a lie.
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fileError{path, err}
	}
	if len(data) > maxFile {
		return nil, Problems{{File: path, Text: "more than 1 MiB: not a policy file"}}
	}
	return data, nil
}

// fileError is a file that can't be read; errors.Is sees fs.ErrNotExist.
type fileError struct {
	path string
	err  error
}

func (e fileError) Error() string { return "read policy " + e.path + ": " + e.err.Error() }
func (e fileError) Unwrap() error { return e.err }

func modeName(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeDevice != 0:
		return "a device"
	}
	return "something else"
}

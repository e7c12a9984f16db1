package commits

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"strconv"
	"strings"

	"cofferdam/internal/workspace/change"
)

// Bounds of what is brought in, over all.
const (
	maxObjects = 2_000_000
	maxBytes   = 8 << 30  // inflated, of loose objects
	maxMeta    = 64 << 20 // inflated, of a commit, tree or tag: git holds these in memory
)

var (
	loosePath = regexp.MustCompile(`^objects/[0-9a-f]{2}/(?:[0-9a-f]{38}|[0-9a-f]{62})$`)
	packPath  = regexp.MustCompile(`^objects/pack/pack-(?:[0-9a-f]{40}|[0-9a-f]{64})\.pack$`)
)

// objects lists the files of new objects, and of new packs.
func (src Source) objects() (loose, packs []string, err error) {
	for _, e := range src.Set.Entries {
		name, ok := strings.CutPrefix(e.Path, src.Dir+"/")
		if !ok || e.New == nil || e.New.Type != change.File {
			continue
		}
		switch {
		case loosePath.MatchString(name):
			loose = append(loose, e.Path)
		case packPath.MatchString(name):
			packs = append(packs, e.Path)
		}
	}
	if len(loose) > maxObjects {
		return nil, nil, fmt.Errorf("more than %d objects", maxObjects)
	}
	return loose, packs, nil
}

// kinds are the numbers of types in a pack (gitformat-pack(5)).
var kinds = map[string]byte{"commit": 1, "tree": 2, "blob": 3, "tag": 4}

// writePack writes loose objects as one pack. What they are called is not looked at:
// who reads the pack computes that from the content.
func writePack(w io.Writer, side change.Side, loose []string, sum256 bool) error {
	var h hash.Hash = sha1.New()
	if sum256 {
		h = sha256.New()
	}
	buffered := bufio.NewWriterSize(io.MultiWriter(w, h), 64<<10)
	var head [12]byte
	copy(head[:], "PACK")
	binary.BigEndian.PutUint32(head[4:], 2)
	binary.BigEndian.PutUint32(head[8:], uint32(len(loose)))
	if _, err := buffered.Write(head[:]); err != nil {
		return err
	}
	left := int64(maxBytes)
	out := zlib.NewWriter(buffered)
	for _, path := range loose {
		size, err := packObject(buffered, out, side, path)
		if err != nil {
			return fmt.Errorf("object %q: %w", path, err)
		}
		if left -= size; left < 0 {
			return fmt.Errorf("the objects have more than %d bytes", int64(maxBytes))
		}
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	_, err := w.Write(h.Sum(nil))
	return err
}

// packObject writes one loose object as an entry of a pack, and tells its size.
func packObject(w *bufio.Writer, z *zlib.Writer, side change.Side, path string) (int64, error) {
	f, err := side.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	in, err := zlib.NewReader(bufio.NewReader(f))
	if err != nil {
		return 0, err
	}
	content := bufio.NewReader(in)
	kind, size, err := looseHeader(content)
	if err != nil {
		return 0, err
	}
	if err := writeEntryHeader(w, kinds[kind], size); err != nil {
		return 0, err
	}
	z.Reset(w)
	switch n, err := io.Copy(z, io.LimitReader(content, size)); {
	case err != nil:
		return 0, err
	case n != size:
		return 0, errors.New("it ends too early")
	}
	if _, err := content.ReadByte(); err != io.EOF {
		return 0, errors.New("it has more than its header says, or is broken at its end")
	}
	return size, z.Close()
}

// looseHeader reads "TYPE SP SIZE NUL".
func looseHeader(r *bufio.Reader) (kind string, size int64, err error) {
	var b bytes.Buffer
	for {
		c, err := r.ReadByte()
		if err != nil || b.Len() > 32 {
			return "", 0, errors.New("it has no header")
		}
		if c == 0 {
			break
		}
		b.WriteByte(c)
	}
	kind, text, _ := strings.Cut(b.String(), " ")
	size, err = strconv.ParseInt(text, 10, 64)
	switch {
	case kinds[kind] == 0:
		return "", 0, fmt.Errorf("it is no commit, tree, blob or tag: %q", kind)
	case err != nil || size < 0 || strconv.FormatInt(size, 10) != text:
		return "", 0, fmt.Errorf("its size is %q", text)
	case size > maxBytes || kind != "blob" && size > maxMeta:
		return "", 0, fmt.Errorf("a %s of %d bytes is too large", kind, size)
	}
	return kind, size, nil
}

// writeEntryHeader writes type and size: four bits of the size in the first byte, seven
// in each other, the least significant first.
func writeEntryHeader(w *bufio.Writer, kind byte, size int64) error {
	c := kind<<4 | byte(size&15)
	for size >>= 4; size > 0; size >>= 7 {
		if err := w.WriteByte(c | 0x80); err != nil {
			return err
		}
		c = byte(size & 0x7f)
	}
	return w.WriteByte(c)
}

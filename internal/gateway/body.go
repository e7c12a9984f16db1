package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"

	"cofferdam/internal/gateway/credential"
)

// chunks is a chunked body as it is read.
type chunks struct {
	r *bufio.Reader
	m *room // for the trailer

	begun bool
	left  int64 // of the chunk
	end   bool  // the last chunk and the trailer have been read
}

// next reads the size of the next chunk, or the trailer, unless there is something left
// of a chunk.
func (b *chunks) next() error {
	if b.end || b.left > 0 {
		return nil
	}
	if b.begun {
		var end [2]byte
		if _, err := io.ReadFull(b.r, end[:]); err != nil {
			return noEOF(err)
		}
		if string(end[:]) != "\r\n" {
			return errSyntax("a chunk longer than its size")
		}
	}
	b.begun = true
	line, err := b.r.ReadSlice('\n')
	if err != nil {
		return noEOF(err)
	}
	size, ok := strings.CutSuffix(string(line), "\r\n")
	size, extension, _ := strings.Cut(size, ";")
	size = strings.TrimRight(size, " \t")
	n, perr := strconv.ParseUint(size, 16, 63)
	if !ok || perr != nil || len(size) > 16 || strings.Trim(size, "0123456789abcdefABCDEF") != "" || !isValue(extension) {
		return errSyntax("a chunk without a size")
	}
	if b.left = int64(n); n > 0 {
		return nil
	}
	b.end = true
	defer b.m.free()
	trailer, err := readLines(b.r, b.m)
	if err != nil {
		return noEOF(err)
	}
	return (&head{length: -1}).parseFields(trailer)
}

// copy carries what is left of the body and writes the chunks anew: sizes in one
// notation, no extensions, no trailer. With plain, only what is in them. What has come
// is passed on before more is waited for, so that a stream of events does not wait.
func (b *chunks) copy(to io.Writer, plain bool) (total int64, err error) {
	w := bufio.NewWriter(to) // keeps its error
	for {
		if err := b.next(); err != nil {
			return total, err
		}
		if b.end {
			break
		}
		if !plain {
			_, _ = w.WriteString(strconv.FormatInt(b.left, 16) + "\r\n")
		}
		for b.left > 0 {
			if b.r.Buffered() == 0 {
				if err := w.Flush(); err != nil {
					return total, err
				}
			}
			if _, err := b.r.Peek(1); err != nil {
				return total, noEOF(err)
			}
			part, _ := b.r.Peek(int(min(b.left, int64(b.r.Buffered()))))
			n, err := w.Write(part)
			_, _ = b.r.Discard(n)
			b.left -= int64(n)
			if total += int64(n); err != nil {
				return total, err
			}
		}
		if !plain {
			_, _ = w.WriteString("\r\n")
		}
		// Unless the next chunk has begun to come, behind the end of this one.
		if ahead, _ := b.r.Peek(b.r.Buffered()); bytes.Count(ahead, []byte("\n")) < 2 {
			if err := w.Flush(); err != nil {
				return total, err
			}
		}
	}
	if !plain {
		_, _ = w.WriteString("0\r\n\r\n")
	}
	return total, w.Flush()
}

// Read gives what is in the chunks.
func (b *chunks) Read(p []byte) (int, error) {
	if err := b.next(); err != nil {
		return 0, err
	}
	if b.end {
		return 0, io.EOF
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, noEOF(err)
}

// body is the body of a request on its way out, the beginning of which may have been
// read to decide on it.
type body struct {
	first []byte
	room  room    // for first
	in    *chunks // what follows first, if it is chunked
	// asked: the client has been told to go on (100), so the server is not asked.
	asked bool
	// fields, if not nil, are what is passed on of the head: something was put in.
	fields []field
	// change, if not nil, puts something into the body; then unrecorded is why it must
	// not be carried on.
	change     *credential.Stream
	unrecorded *error
}

// passed is head.passed, but for what was answered already.
func (b *body) passed(req *head) []field {
	switch {
	case b.fields != nil:
		return b.fields
	case b.asked:
		return withoutExpect(req.passed())
	}
	return req.passed()
}

func withoutExpect(list []field) []field {
	out := list[:0]
	for _, f := range list {
		if !strings.EqualFold(f.name, "Expect") {
			out = append(out, f)
		}
	}
	return out
}

func (b *body) copyChunks(to io.Writer, c *client) (total int64, err error) {
	if b.in == nil {
		b.in = &chunks{r: c.r, m: &c.room}
	}
	if len(b.first) > 0 {
		n := len(b.first)
		if _, err := fmt.Fprintf(to, "%x\r\n%s\r\n", n, b.first); err != nil {
			return 0, err
		}
		total, b.first = int64(n), nil
		b.room.free()
	}
	n, err := b.in.copy(to, false)
	return total + n, err
}

func (b *body) copyLength(to io.Writer, c *client, length int64) (total int64, err error) {
	if len(b.first) > 0 {
		n, err := to.Write(b.first)
		if total = int64(n); err != nil {
			return total, err
		}
		b.first = nil
		b.room.free()
	}
	n, err := copyLength(to, c.r, c.conn, length-total)
	return total + n, err
}

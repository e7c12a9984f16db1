package credential

import (
	"fmt"
	"io"
	"strings"
)

// formats are beginnings that say of whom a token is. They are published by who issues
// it, and programs look at them, so a placeholder keeps them. A longer one comes before
// its own beginning.
var formats = []string{
	"sk-ant-api03-", "sk-ant-oat01-", "sk-ant-", "sk-proj-", "sk-svcacct-", "sk-or-v1-", "sk-", // model APIs
	"AIzaSy", "AIza", "ya29.", "gsk_", "xai-", "hf_", "r8_",
	"github_pat_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "glpat-", "gldt-", "glrt-", "ATATT3xFfGF0", "ATBB", // code hosts
	"npm_", "pypi-", "cio", "rubygems_", "dckr_pat_", // registries
	"xoxb-", "xoxp-", "xoxa-", "xapp-", "sk_live_", "sk_test_", "rk_live_", "rk_test_", "SG.", "dop_v1_", "hvs.", "lin_api_", "ntn_", "secret_",
}

const (
	digits = "0123456789"
	hex    = digits + "abcdef"
	letter = "abcdefghijklmnopqrstuvwxyz"
	alnum  = digits + letter + "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
)

// placeholder is random text that looks like the value: it begins with the format's
// published beginning, is of the same alphabet (digits, hexadecimal, lower case with
// digits, else letters of both cases with digits) and as long, if that leaves room for
// 128 bits. Nothing else of the value is in it. In every alphabet it goes through URLs,
// JSON, shells and netrc files as it is.
func placeholder(value string, random io.Reader) (string, error) {
	start := ""
	for _, f := range formats {
		// A value that is little more than the beginning is of no such format.
		if strings.HasPrefix(value, f) && len(value) >= len(f)+minValue {
			start = f
			break
		}
	}
	rest := value[len(start):]
	alphabet, room := alnum, 22 // characters for 128 bits
	for _, a := range []struct {
		chars string
		room  int
	}{{digits, 39}, {hex, 32}, {digits + letter, 25}} {
		if strings.Trim(rest, a.chars) == "" {
			alphabet, room = a.chars, a.room
			break
		}
	}
	out := make([]byte, max(len(rest), room))
	// Bytes beyond the largest multiple of the alphabet's size would make its
	// first characters likelier.
	limit := 256 / len(alphabet) * len(alphabet)
	var buf [64]byte
	for i := 0; i < len(out); {
		if _, err := io.ReadFull(random, buf[:]); err != nil {
			return "", fmt.Errorf("read random bytes: %w", err)
		}
		for _, b := range buf {
			if int(b) < limit && i < len(out) {
				out[i] = alphabet[int(b)%len(alphabet)]
				i++
			}
		}
	}
	return start + string(out), nil
}

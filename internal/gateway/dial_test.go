package gateway

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
)

func TestAnswersAreUsedAgain(t *testing.T) {
	asked, fail := 0, errors.New("no such host")
	a := &answers{ask: func(context.Context, string) ([]netip.Addr, error) {
		asked++
		return []netip.Addr{netip.AddrFrom4([4]byte{192, 0, 2, byte(asked)})}, fail
	}}
	for want := 1; want < 3; want++ {
		if _, err := a.resolve(t.Context(), "x"); !errors.Is(err, fail) || asked != want {
			t.Errorf("an error was remembered: %v, asked %d times", err, asked)
		}
	}
	fail = nil
	first, err := a.resolve(t.Context(), "x")
	again, err2 := a.resolve(t.Context(), "x")
	if err != nil || err2 != nil || asked != 3 || first[0] != again[0] {
		t.Errorf("%v %v %v %v, asked %d times", first, again, err, err2, asked)
	}
	if other, _ := a.resolve(t.Context(), "y"); other[0] == first[0] {
		t.Errorf("the answer for another name: %v", other)
	}
	a.last["x"] = resolved{first, a.last["x"].until.Add(-answerTime)}
	if later, _ := a.resolve(t.Context(), "x"); later[0] == first[0] {
		t.Error("an old answer was used")
	}
	for i := range 2 * maxAnswers {
		_, _ = a.resolve(t.Context(), fmt.Sprint(i))
	}
	if len(a.last) > maxAnswers {
		t.Errorf("%d answers", len(a.last))
	}
}

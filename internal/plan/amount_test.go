package plan

import "testing"

func TestAmount(t *testing.T) {
	for _, c := range []struct {
		value int64
		unit  string
		want  string
	}{
		{2 << 30, "bytes", "2 GiB"}, {209715200, "bytes", "200 MiB"}, {217436160, "bytes", "207.4 MiB"},
		{1, "bytes", "1 bytes"}, {1 << 10, "bytes", "1 KiB"}, {10 << 40, "bytes", "10 TiB"}, {5000 << 40, "bytes", "5000 TiB"},
		{0, "bytes", "0 bytes"},
		{1500, "ms", "1.5s"}, {60_000, "ms", "1m"}, {1_800_000, "ms", "30m"}, {7_200_000, "ms", "2h"}, {5_430_000, "ms", "1h30m30s"}, {600_000, "ms", "10m"}, {36_000_000, "ms", "10h"}, {20_000, "ms", "20s"},
		{1000, "millicpu", "1 CPU"}, {1500, "millicpu", "1.5 CPUs"}, {250, "millicpu", "0.25 CPUs"}, {10000, "millicpu", "10 CPUs"},
		{4096, "count", "4096"}, {7, "other", "7 other"}, {7, "", "7"},
	} {
		if got := Amount(c.value, c.unit); got != c.want {
			t.Errorf("%d %s is written %q, want %q", c.value, c.unit, got, c.want)
		}
	}
}

package plan

import (
	"strconv"
	"strings"
	"time"
)

// Amount writes a quantity as a person would: "2 GiB", "30m", "1.5 CPUs", "4096".
// What is no whole number of a unit has one decimal; JSON has the exact value.
func Amount(value int64, unit string) string {
	switch unit {
	case "bytes":
		units := []string{"KiB", "MiB", "GiB", "TiB"}
		if value < 1024 {
			return strconv.FormatInt(value, 10) + " bytes"
		}
		size, i := float64(value)/1024, 0
		for size >= 1024 && i+1 < len(units) {
			size, i = size/1024, i+1
		}
		return decimal(size, 1) + " " + units[i]
	case "ms":
		s := (time.Duration(value) * time.Millisecond).String()
		// "30m0s" and "2h0m0s" are what nobody writes.
		if strings.HasSuffix(s, "m0s") {
			s = strings.TrimSuffix(s, "0s")
		}
		if strings.HasSuffix(s, "h0m") {
			s = strings.TrimSuffix(s, "0m")
		}
		return s
	case "millicpu":
		if value == 1000 {
			return "1 CPU"
		}
		return decimal(float64(value)/1000, 3) + " CPUs"
	case "count":
		return strconv.FormatInt(value, 10)
	}
	return strings.TrimSpace(strconv.FormatInt(value, 10) + " " + unit)
}

// decimal writes at most places decimals, and none that are zero.
func decimal(f float64, places int) string {
	s := strconv.FormatFloat(f, 'f', places, 64)
	return strings.TrimRight(strings.TrimRight(s, "0"), ".")
}

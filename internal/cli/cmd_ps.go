package cli

import (
	"fmt"
	"strings"
	"time"

	"cofferdam/internal/report"
	"cofferdam/internal/session"
)

func cmdPs() *command {
	var all, asJSON bool
	return &command{
		long: "A session is running as long as its supervisor holds the session's lock; one that was\nkilled is listed as interrupted.",
		examples: [][2]string{
			{"cofferdam ps", "what is running"},
			{"cofferdam ps --all --json", "every session that is kept, for a program"},
		},
		exits: []int{exitState},
		flags: func(f *flags) {
			f.flag(&all, "all", 'a', "also those that have ended")
			f.flag(&asJSON, "json", 0, "as JSON")
		},
		run: func(c *call, _ []string) (int, error) {
			store, err := session.Open(c.env)
			if err != nil {
				return 0, err
			}
			defer store.Close()
			list, err := store.List()
			if err != nil {
				return 0, err
			}
			shown := []session.Info{}
			for _, i := range list {
				if all || i.Status == session.Live {
					shown = append(shown, i)
				}
			}
			if asJSON {
				return 0, c.printJSON(shown)
			}
			return 0, c.print(psText(shown, time.Now(), report.StyleOf(c.out, c.env)))
		},
	}
}

func psText(list []session.Info, now time.Time, s report.Style) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%-20s  %-12s  %-11s  %-8s  %6s  %s\n", "SESSION", "NAME", "STATUS", "BOUNDARY", "AGE", "COMMAND")
	for _, i := range list {
		what := strings.Join(i.State.Command, " ")
		if i.Status == session.Damaged {
			what = i.Problem
		}
		line := fmt.Sprintf("%-20s  %-12s  %-11s  %-8s  %6s  %s", i.ID, or(i.State.Name, "-"), i.Status,
			or(report.Plain(i.State.Boundary), "-"), age(now, i.State.Created), report.Plain(what))
		// One line each on a terminal; whole when a program reads.
		if r := []rune(line); s.Width > 0 && len(r) > s.Width {
			line = string(r[:max(1, s.Width-3)]) + "..."
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

func age(now, then time.Time) string {
	d := now.Sub(then)
	switch {
	case then.IsZero() || d < 0:
		return "-"
	case d < time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

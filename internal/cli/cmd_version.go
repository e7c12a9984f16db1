package cli

import (
	"fmt"
	"runtime"
)

func cmdVersion() *command {
	var asJSON bool
	return &command{
		examples: [][2]string{{"cofferdam version", "for a bug report"}},
		flags:    func(f *flags) { f.flag(&asJSON, "json", 0, "as JSON") },
		run: func(c *call, _ []string) (int, error) {
			v := or(c.app.Version, "development")
			if asJSON {
				return 0, c.printJSON(map[string]string{"version": v, "go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH})
			}
			return 0, c.print(fmt.Sprintf("cofferdam %s (%s, %s/%s)\n", v, runtime.Version(), runtime.GOOS, runtime.GOARCH))
		},
	}
}

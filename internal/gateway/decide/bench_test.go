package decide

import "testing"

// What a look at one request costs: budgets of the gateway count microseconds.
func BenchmarkRequest(b *testing.B) {
	r := compiled(b, effect("allow", "a.test", 0, 1, nil), effect("allow", "a.test", 0, 2, some("", "/v1/**", "package-install", "")), effect("deny", "*", 0, 3, some("DELETE", "", "", "")))
	for name, path := range map[string]string{"plain": "/v1/accounts/7/items/9", "encoded": "/v1/@me%2flib;x//y"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r.Request(Request{Name: "a.test", Port: 443, Method: "GET", Path: path, Query: "a=b&c=d"})
			}
		})
	}
}

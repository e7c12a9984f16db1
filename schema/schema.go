// Package schema holds the published JSON Schema of the policy file. The file
// is made from the types in internal/policy by
// `go test ./internal/policy -run TestSchema -update`.
package schema

import _ "embed"

// Policy is the JSON Schema (draft 2020-12) of a policy file.
//
//go:embed policy.schema.json
var Policy []byte

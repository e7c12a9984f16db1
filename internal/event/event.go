// Package event is the record of what happened in one session: a versioned
// stream of facts that reports read. It holds no opinions and no secrets:
// never a variable's value, never a file's content.
package event

import "time"

// Version of the stream's format.
const Version = 1

// Event is one fact. Fields that do not apply are empty.
type Event struct {
	Version int       `json:"v"`
	Seq     int64     `json:"seq"` // 1, 2, 3 ... without holes
	Time    time.Time `json:"time"`
	Kind    Kind      `json:"kind"`
	// Subject is the path, name, syscall or limit that the event is about.
	Subject string `json:"subject,omitempty"`
	// Action is what was tried: "open", "readdir", "ptrace", ...
	Action string `json:"action,omitempty"`
	// Access is the sort of right that was missing: "read", "write",
	// "connect", "env", "syscall", "budget". Reports find out from it what would have
	// allowed the act.
	Access  string `json:"access,omitempty"`
	PID     int    `json:"pid,omitempty"` // on the host
	Process string `json:"process,omitempty"`
	// Rule is the text of the deciding rule, Origin where it stands
	// ("policy.jsonc:12", "built-in").
	Rule   string `json:"rule,omitempty"`
	Origin string `json:"origin,omitempty"`
	Reason string `json:"reason,omitempty"`
	// To is where a set-aside name was moved, where a connection really went, or what a
	// request was: "GET /path".
	To string `json:"to,omitempty"`
	// Count is how many like events in a row this one stands for; 0 means 1.
	Count int `json:"count,omitempty"`
	// Status is the exit status of the command (exit), Detail anything else.
	Status int    `json:"status,omitempty"`
	Detail string `json:"detail,omitempty"`
	// What a closed connection carried, and for how long, in nanoseconds; of several
	// that one event stands for, the sums.
	BytesOut int64 `json:"bytesOut,omitempty"`
	BytesIn  int64 `json:"bytesIn,omitempty"`
	Lasted   int64 `json:"lastedNanoseconds,omitempty"`
	// Prev is the hex SHA-256 of the line before (the hash chain).
	Prev string `json:"prev,omitempty"`
}

// Kind of event.
type Kind string

const (
	Start    Kind = "start"     // the plan is made, the boundary is about to start
	Running  Kind = "running"   // the command has been executed inside
	Denied   Kind = "denied"    // something was refused
	SetAside Kind = "set-aside" // a guarded name appeared and was moved away
	LimitHit Kind = "limit"     // a ceiling was reached
	Network  Kind = "network"   // a name was answered; a connection to the outside was opened, ended, or failed; a request was let through
	Ask      Kind = "ask"       // something waits for a person's answer
	Answer   Kind = "answer"    // a person has answered: Action is what, PID and Detail who
	Notice   Kind = "notice"    // told to the person, nothing refused
	Entered  Kind = "entered"   // exec into the session
	Exit     Kind = "exit"      // the command ended
	End      Kind = "end"       // everything inside is gone
)

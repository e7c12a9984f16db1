package compile

import (
	"fmt"
	"strings"

	"cofferdam/internal/host"
	"cofferdam/internal/plan"
)

// modeCopy is the value of workspace.mode for a copy.
const modeCopy = "copy"

// inCopyOnly is why a rule for the project needs no mount in a copy of it.
const inCopyOnly = "written in the copy only, of which nothing reaches the project by itself"

// copies: the inside writes to a copy of the workspace.
func (c *compiler) copies() bool { return c.in.Policy.WorkspaceMode.Value == modeCopy }

// copying says how the copy is made, and refuses what would be written live all the
// same, or be missing in it.
func (c *compiler) copying() {
	if !c.copies() {
		return
	}
	origin := c.in.Policy.WorkspaceMode.Origin
	c.liveWrites()
	if _, ok := c.p.Copied(); !ok {
		c.rule("workspace.mode copy", origin, plan.Enforced, "mount", "nothing in the workspace can be written, so there is no copy")
		return
	}
	id := c.rule("workspace.mode copy", origin, plan.Enforced, "overlay", "")
	st := &c.p.Rules[id-1]
	required := func(missing, because, remedy string) {
		st.Status, st.Note = plan.Impossible, because
		c.p.Gaps = append(c.p.Gaps, plan.Gap{Required: true, Rule: id, Missing: missing, Because: because, Remedy: remedy})
	}
	f := c.in.Facts.Copying
	if f == nil {
		required("a copy of the workspace", "nobody has looked whether it can be made", "work in the project itself: --mode live")
		return
	}
	if len(f.Mounts) > 0 {
		required("a copy of the whole workspace", "something else is mounted at "+some(f.Mounts)+", which a copy does not have",
			"unmount it, or work in the project itself: --mode live")
	}
	c.outsideGit(f.GitDir, id)
	switch m := c.in.Facts.Mechanism(host.Overlay); {
	case m.Answer == host.Yes && m.Level >= 2:
		c.p.Copy = plan.CopyOverlay
	case m.Answer == host.Yes:
		c.p.Copy = plan.CopyOverlayPaths
	case f.Problem != "":
		required("a copy of the workspace", "there is no overlay ("+m.Detail+"), and not all of it can be copied: "+f.Problem, m.Remedy)
	default:
		c.p.Copy = plan.CopyFull
		st.Mechanism = "copied files"
		st.Note = fmt.Sprintf("each file is copied before the start: %d entries, %s", f.Entries, plan.Amount(f.Bytes, "bytes"))
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Rule: id, Missing: "overlay for the copy of the workspace",
			Because: m.Detail + "; so " + st.Note, Remedy: m.Remedy,
		})
	}
}

// liveWrites refuses a mount below the workspace through which the project itself would
// be written: a place that is open in a part that is closed.
func (c *compiler) liveWrites() {
	for _, m := range c.p.Mounts {
		if m.Kind != plan.Bind || !m.Write || !covers(c.in.Workspace, m.Target) {
			continue
		}
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Rule: m.Rule, Missing: "a copy of " + m.Target,
			Because: "what lies around it can't be read or written, so it would not be in the copy, and be written in the project itself",
			Remedy:  "open what lies around it, or work in the project itself: --mode live",
		})
	}
}

// outsideGit deals with the directory of git that a worktree or a submodule has
// elsewhere: it is not in the copy, so it must not be written.
func (c *compiler) outsideGit(dir string, rule int) {
	if dir == "" {
		return
	}
	switch a := c.decide(dir); {
	case a.write:
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Required: true, Rule: a.by, Missing: "a copy of " + dir,
			Because: "git has there what belongs to this workspace; it lies outside, so it would be written in the place itself",
			Remedy:  "let it only be read (--allow-read " + dir + "), or work in the project itself: --mode live",
		})
	case !a.read:
		c.p.Gaps = append(c.p.Gaps, plan.Gap{
			Rule: rule, Missing: "git inside",
			Because: dir + ", where git has what belongs to this workspace, lies outside of it and can't be read",
			Remedy:  "let it be read, for status and history: --allow-read " + dir,
		})
	}
}

// some names a few paths.
func some(paths []string) string {
	if n := len(paths); n > 3 {
		return strings.Join(paths[:3], ", ") + fmt.Sprintf(" and %d more places", n-3)
	}
	return strings.Join(paths, ", ")
}

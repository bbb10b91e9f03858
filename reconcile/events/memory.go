package events

import (
	"cmp"
	"strings"
	"time"

	"towpath.dev/towpath/reconcile"
)

// lasting is how long something has to fail before that is told: what is tried
// again and works is no news. It is a few polls, and most of what passes by
// itself has passed then.
const lasting = 5 * time.Minute

// memory is what was told of each delivery, so that the next round, which finds
// the same, tells nothing. It is lost with the process: what stands wrong may
// then be told once more.
type memory struct {
	deliveries map[string]*remembered // by image and target
	commits    map[string]string      // by GitRepository, image and reason: the commit that it was told of last
}

// remembered is how a delivery stood when it was last heard of.
type remembered struct {
	state  reconcile.State
	reason string
	commit string
	kind   kind
	since  time.Time // when it came to be of this kind
	told   kind      // what somebody was told is wrong with it; none: nothing
}

func newMemory() *memory {
	return &memory{deliveries: map[string]*remembered{}, commits: map[string]string{}}
}

// note takes an outcome in and returns what is to be told of it. about is where
// that goes: deliveries of one image to several targets that Flux sees as one
// repository are told of a build once.
func (m *memory) note(o reconcile.Outcome, about string) []told {
	if o.State == reconcile.Outdated || o.State == reconcile.Suspended {
		return nil // says nothing about how things stand
	}
	name := o.Image + " " + o.Target
	before := cmp.Or(m.deliveries[name], &remembered{})
	// The same commit that is proposed again, on a newer base, is no news.
	proposes := o.State == reconcile.Proposed && o.Branch != "" && (before.state != reconcile.Proposed || before.commit != o.Commit)
	bumps := proposes || o.State == reconcile.Promoted
	now := &remembered{state: o.State, reason: o.Reason, commit: o.Commit, kind: kindOf(o, bumps), since: o.Time, told: before.told}
	if now.kind == before.kind {
		now.since = before.since
	}
	m.deliveries[name] = now

	var all []told
	first := func(reason, commit string) bool {
		key := about + " " + o.Image + " " + reason
		if m.commits[key] == commit {
			return false
		}
		m.commits[key] = commit
		return true
	}
	if o.Build != nil && o.Ref != "" && first(ImageBuilt, o.Commit) {
		all = append(all, built(o))
	}
	if len(o.Refused) > 0 && o.Head != o.Commit && first(CommitRefused, o.Head) {
		_, why, _ := strings.Cut(o.Refused[0], " ")
		all = append(all, refused(o, o.Head, why))
	}
	switch now.kind {
	case fault:
		now.told = fault
		if first(BuildFailed, o.Commit) {
			all = append(all, buildFailed(o))
		}
	case refusal:
		now.told = refusal
		if first(CommitRefused, o.Commit) {
			all = append(all, refused(o, o.Commit, o.Reason))
		}
	case trouble:
		if before.told != trouble && (o.State != reconcile.Failed || o.Time.Sub(now.since) >= lasting) {
			now.told = trouble
			all = append(all, stands(o, Failed, "failed", true))
		}
	case hold:
		now.told = hold
		if before.state != o.State || before.reason != o.Reason {
			all = append(all, stands(o, Held, string(o.State), false))
		}
	case well:
		now.told = none
		switch {
		case bumps:
			all = append(all, promoted(o))
		case before.told != none:
			all = append(all, stands(o, Recovered, "recovered", false))
		}
	}
	return all
}

// recall takes in what an earlier process had found, as the history has it,
// oldest first: of that somebody was told already.
func (m *memory) recall(past []reconcile.Outcome, about func(target string) string, now time.Time) {
	for _, o := range past {
		m.note(o, about(o.Target))
	}
	for _, r := range m.deliveries {
		if r.kind == trouble && now.Sub(r.since) >= lasting {
			r.told = trouble // the history has changes alone, and this one lasted
		}
	}
}

// kind groups states by what people make of them.
type kind int

const (
	none    kind = iota
	well         // nothing to mend
	hold         // a person's word, or a branch that was set back, stands in the way
	refusal      // the commit may not be promoted
	fault        // the commit does not build
	trouble      // something does not work
)

// kindOf is an outcome's. One that came to rest without a new bump and left
// files alone, which a person must mend, is trouble.
func kindOf(o reconcile.Outcome, bumps bool) kind {
	switch o.State {
	case reconcile.Held, reconcile.Behind:
		return hold
	case reconcile.Refused:
		return refusal
	case reconcile.Faulty:
		return fault
	case reconcile.Failed, reconcile.Broken:
		return trouble
	}
	if len(o.Problems) > 0 && !bumps {
		return trouble
	}
	return well
}

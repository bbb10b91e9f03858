package reconcile

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/kaniko"
)

// State is how a delivery stands, in the words that users read.
type State string

const (
	Done      State = "done"      // the markers hold the newest commit's image
	Promoted  State = "promoted"  // a bump was pushed to the branch that Flux applies
	Planned   State = "planned"   // a bump would be pushed
	Proposed  State = "proposed"  // a bump was pushed to its review branch, or waits there
	Watching  State = "observing" // promotes from the next change on
	Held      State = "held"      // reverted, rejected or taken over: a person's word stands
	Behind    State = "behind"    // the branch is older than what was promoted
	Refused   State = "refused"   // the newest commit may not be promoted
	Broken    State = "broken"    // a person must mend the GitOps repository or the config
	Failed    State = "failed"    // something did not work and is tried again
	Faulty    State = "faulty"    // the commit does not build
	Outdated  State = "outdated"  // the config or the ledger changed meanwhile; the next round decides anew
	Suspended State = "suspended" // the brake is on
)

// Class says what the loop does with an outcome.
type Class int

const (
	Rested Class = iota // ask again at the next poll
	Retry               // ask again soon, with back-off
	Wait                // wait for a new commit or a changed config
)

// Outcome is what one round of one delivery came to. It is all that logs,
// status and exit codes are made of.
type Outcome struct {
	Time     time.Time `json:"time"`
	Image    string    `json:"image"`
	Target   string    `json:"target"`
	State    State     `json:"state"`
	Step     string    `json:"step,omitempty"` // where it stopped, if it failed: observe, build, seal, promote
	Reason   string    `json:"reason,omitempty"`
	Output   []string  `json:"output,omitempty"` // the last lines that a failed build printed
	Hint     string    `json:"hint,omitempty"`
	Head     string    `json:"head,omitempty"`     // the source branch's tip
	Commit   string    `json:"commit,omitempty"`   // the newest commit that may be built
	Subject  string    `json:"subject,omitempty"`  // its first line
	Base     string    `json:"base,omitempty"`     // the source commit that the ledger names
	Promoted string    `json:"promoted,omitempty"` // the image that the ledger names: repository:tag@digest
	Ref      string    `json:"ref,omitempty"`      // the image of Commit, once it is built and sealed
	Bump     string    `json:"bump,omitempty"`     // the newest bump commit
	Refused  []string  `json:"refused,omitempty"`  // commits that may not be built, and why
	Problems []string  `json:"problems,omitempty"` // files of the GitOps repository that a person must mend; the others were edited
	Notices  []string  `json:"notices,omitempty"`  // what a person should know although nothing failed
	Others   int       `json:"others,omitempty"`   // markers in the target that belong to no image of ours
	OthersAt []string  `json:"othersAt,omitempty"` // where the first of them are, and of which policy
	Took     Length    `json:"took,omitempty"`
	Source   string    `json:"source,omitempty"`  // URL of the source repository, without credentials
	Behind   int       `json:"behind,omitempty"`  // how many commits of the source branch follow the one promoted or proposed last
	Build    *Span     `json:"build,omitempty"`   // of the image, where this round built it or tried to
	Promote  *Span     `json:"promote,omitempty"` // of the bump, where this round made one or tried to
	Branch   string    `json:"branch,omitempty"`  // that the bump was pushed to; empty where there was nothing to change
	Pushed   string    `json:"pushed,omitempty"`  // head of the branch that Flux applies, after the bump was pushed to it
	// Tip is the head of the branch that Flux applies, as this round read it. It is
	// only set where the markers there hold the newest promotion.
	Tip   string `json:"-"`
	Class Class  `json:"-"`
	Err   error  `json:"-"`
}

// Length is how long something took. In JSON it is written as Go and the config
// write durations: "1.5s".
type Length time.Duration

func (l Length) String() string { return time.Duration(l).Round(time.Microsecond).String() }

// MarshalText writes the length.
func (l Length) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalJSON reads a length, also one that an older Towpath left in its
// history as a number of nanoseconds.
func (l *Length) UnmarshalJSON(text []byte) error {
	if json.Unmarshal(text, (*int64)(l)) == nil {
		return nil
	}
	var written string
	if err := json.Unmarshal(text, &written); err != nil {
		return err
	}
	d, err := time.ParseDuration(written)
	*l = Length(d)
	return err
}

// Span is how long a step took.
type Span struct {
	Started  time.Time `json:"started"`
	Finished time.Time `json:"finished"`
}

// Took is the length of the span.
func (s Span) Took() time.Duration { return s.Finished.Sub(s.Started) }

// OK tells whether a person has nothing to mend.
func (o Outcome) OK() bool { return !o.Stopped() && len(o.Problems) == 0 }

// Stopped tells whether the round ended before it came to rest.
func (o Outcome) Stopped() bool {
	switch o.State {
	case Failed, Faulty, Broken, Refused:
		return true
	}
	return false
}

// failed ends a round at a step. Unknown errors are tried again.
func (o Outcome) failed(step string, err error) Outcome {
	o.State, o.Step, o.Err, o.Class = Failed, step, err, Retry
	o.Reason = err.Error()
	if !strings.HasPrefix(o.Reason, step+": ") {
		o.Reason = step + ": " + o.Reason
	}
	var fault *kaniko.BuildError
	switch {
	case errors.As(err, &fault):
		o.State, o.Class = Faulty, Wait
		if fault.Tail != "" {
			o.Reason = strings.TrimSuffix(o.Reason, ": "+fault.Tail)
			o.Output = strings.Split(fault.Tail, "\n")
		}
	case errors.Is(err, fleet.ErrMoved):
		o.State = Outdated
		o.Reason = "another copy of Towpath was faster: decided anew"
	case errors.Is(err, fleet.ErrNoMarker):
		o.State, o.Class = Broken, Rested
	case errors.Is(err, fleet.ErrForeign):
		o.State, o.Class = Held, Rested
	case errors.Is(err, context.Canceled):
		o.Class = Rested
	}
	o.Hint = hintOf(err)
	return o
}

// Ended is when the round had come to this.
func (o Outcome) Ended() time.Time { return o.Time.Add(time.Duration(o.Took)) }

// hintOf says what a person can do about an error, where that is known.
func hintOf(err error) string {
	var hinted interface{ Hint() string }
	if errors.As(err, &hinted) && hinted.Hint() != "" {
		return hinted.Hint()
	}
	if errors.Is(err, syscall.ENOSPC) {
		return "make room, or move the cache to a larger disk"
	}
	return ""
}

// settled ends a round by a verdict that asks for nothing.
func (o Outcome) settled(v Verdict) Outcome {
	o.State, o.Reason, o.Hint = v.State, v.Reason, v.Hint
	if v.State == Failed {
		o.Class = Retry
	}
	return o
}

// pushed ends a round by a promotion. applied is the branch that Flux applies.
func (o Outcome) pushed(done fleet.Promotion, applied string) Outcome {
	o.Bump, o.Branch = hash(done.Bump), done.Branch
	switch done.Branch {
	case "": // nothing had to change but the ledger
	case applied:
		o.Pushed = hash(done.Head)
	default:
		o.State, o.Hint = Proposed, reviewHint
		o.Reason = "proposed for review on branch " + done.Branch + ": " + o.Reason
	}
	o.Problems = noted(o.Problems, done.Problems)
	if done.Mirror != nil {
		o.Notices = append(o.Notices, fmt.Sprintf("the bump was pushed, but the push to push.refspec failed and is tried again with the next one: %v", done.Mirror))
	}
	return o
}

// hash is a commit's hash as outcomes have it; empty: there is no commit.
func hash(h gitops.Hash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

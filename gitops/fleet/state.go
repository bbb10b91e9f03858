package fleet

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
)

// State is how an image stands in a target, read from the repository.
type State struct {
	Head  gitops.Hash // of the branch, on which all else was judged
	Entry *Entry      // what was promoted last; nil: nothing, ever, but see Lost
	// Lost, without Entry: there may have been one. Nothing is promoted without a
	// person's word (Bump.Accepted).
	Lost     *LostError
	Standing Standing
	Sites    []Found   // the image's markers on the branch
	Foreign  *Foreign  // with TakenOver: whose value it is
	Problems []Problem // files that a person must look at
	Others   int       // markers of policies that nobody here edits
	OthersAt []Found   // the first few of them, by file and line

	// Branch is where the next bump goes: the target's, or the review branch.
	Branch string
	// Stale, with Proposed: the review branch no longer merges into the branch.
	// A Promote with Bump.Fill proposes the same image on the newest base.
	Stale bool
	// Rejected, with Undone: the branch never held what the entry's bump wrote, so
	// it was proposed for review and not merged.
	Rejected bool
	// Unmerged, with Undone where bumps go to the branch itself: the branch never
	// held what the entry's bump wrote. It was proposed for review, while the
	// target still had reviews, and not merged; or the branch was reset to before it.
	Unmerged bool
	// Stranger: a commit that is not ours on the review branch. Nothing is
	// proposed there until a person has taken it away.
	Stranger *Stranger
	// Rewritten tells that the branch does not descend from the head seen
	// before, in words. Empty: it does, or this is the first reading.
	Rewritten string
	// LedgerRefused: the server refuses ledger refs, or holds none of this target
	// although the branch has a bump of ours; so Entry comes from the branch's
	// history. What was squashed, rebased or reset away is forgotten: see LedgerLost.
	LedgerRefused bool
	// LedgerBehind: Entry is on the branch and the ledger does not name it yet,
	// as a server without atomic pushes leaves it when we die. Mend brings the
	// ledger forward; Promote does so, too.
	LedgerBehind bool
}

// Standing is how an image's markers stand to what was promoted.
type Standing int

const (
	// Unpromoted: there is no entry. The markers hold whatever people wrote.
	Unpromoted Standing = iota
	// Holds: every marker holds the entry's image.
	Holds
	// Proposed: the entry's bump waits on its review branch.
	Proposed
	// Undone: reverted, reset away, or rejected in review. A person's word.
	Undone
	// TakenOver: a marker that we wrote holds a value that is neither ours nor
	// older than ours. Somebody else writes there, see State.Foreign.
	TakenOver
	// Unfilled: a marker never held a value of ours, all the others hold the
	// entry's image. It goes there without a build (Bump.Fill).
	Unfilled
	// Observed: the entry records a start and promoted nothing.
	Observed
	// NoMarker: no file below the target's path has a marker for the policy.
	NoMarker
)

func (s Standing) String() string {
	switch s {
	case Unpromoted:
		return "not promoted"
	case Holds:
		return "holds"
	case Proposed:
		return "proposed"
	case Undone:
		return "undone"
	case TakenOver:
		return "taken over"
	case Unfilled:
		return "unfilled"
	case Observed:
		return "observed"
	case NoMarker:
		return "no marker"
	default:
		return "unknown"
	}
}

// Entry is one promotion as its signed commit tells it.
type Entry struct {
	Image      string
	Bump       gitops.Hash // the commit that says so, in the GitOps repository
	Source     gitops.Hash // the source commit that was promoted
	SourceURL  string
	SourceRef  string
	Policy     string
	Ref        string // name:tag@digest; empty: Observed
	Provenance string // digest of the provenance's manifest
	Accepted   string // a person's reason, where a person's word was used
	// AcceptedBefore lists the source commits of earlier entries where one was,
	// as the trailer of that name does.
	AcceptedBefore string
	Observed       bool
	When           time.Time
	Signer         string // the key that signed, "ssh key SHA256:…"
}

// Accepts tells whether a person's word for a source commit still has something
// to say: it counts once, and what was used stays used whatever was promoted
// since.
func (e *Entry) Accepts(source gitops.Hash) bool {
	return !strings.Contains(e.acceptedSoFar(), source.String())
}

// maxAccepted bounds how many used words an entry carries on.
const maxAccepted = 100

// acceptedSoFar is what the next entry says of words that were used before it.
func (e *Entry) acceptedSoFar() string {
	used := strings.Fields(e.AcceptedBefore)
	if own := e.Source.String(); e.Accepted != "" && !slices.Contains(used, own) {
		used = slices.Insert(used, 0, own)
	}
	return strings.Join(used[:min(len(used), maxAccepted)], " ")
}

// Found is one marker of the branch.
type Found struct {
	File string // path in the repository
	marker.Site
}

// Foreign is a value that somebody else wrote over ours.
type Foreign struct {
	File   string
	Line   int
	Value  string
	Author gitops.Person // who wrote it, as their commit claims
	Commit gitops.Hash   // zero: not found in the history at hand
}

// Stranger is a commit on the review branch that is not ours.
type Stranger struct {
	Branch string
	Commit gitops.Commit
	Reason string // why it is not ours
}

// Problem is something about a file that a person must mend.
type Problem struct {
	File string
	Line int // 0: the whole file
	Text string
	Ours bool // it concerns the policy that was asked about, and not the target as a whole
}

// place identifies a marker across commits.
type place struct {
	File, Path, Field string
	Policy            marker.Policy
}

func placeOf(f Found) place {
	return place{File: f.File, Path: f.Path, Field: f.Field, Policy: f.Policy}
}

func (p place) compare(q place) int {
	return cmp.Or(strings.Compare(p.File, q.File), strings.Compare(p.Path, q.Path), strings.Compare(p.Field, q.Field), strings.Compare(p.Policy.String(), q.Policy.String()))
}

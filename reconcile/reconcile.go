// Package reconcile knows the order: it observes what the newest commit of an
// image is and what was promoted, decides, has the image built and sealed, and
// promotes it. How any of that is done is for other packages; what is asked of
// them stands in the interfaces here.
//
// Nothing here keeps state that matters. Each step asks the world before it
// acts, so that dying between any two costs time and nothing else, and a round
// that was cut short is finished by the next one, in this process or another.
package reconcile

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/kaniko"
)

// Source is an application repository.
type Source interface {
	// Choose finds the newest commit that may be built and how it stands to
	// the base. It changes nothing anywhere; it may be called concurrently.
	Choose(ctx context.Context, query source.Query) (source.Choice, error)
}

// Images builds images and vouches for them.
type Images interface {
	// Find returns the image of the order that we sealed, if there is one. An
	// image without our seal over the order's key is not found, whatever its
	// tag. Notices are given in any case.
	Find(ctx context.Context, order kaniko.Order) (found kaniko.Result, ok bool, err error)
	// Build builds the order and pushes the image by digest, without a tag and
	// without a seal. A *kaniko.BuildError is the commit's own fault; anything
	// else is worth another try.
	Build(ctx context.Context, order kaniko.Order) (kaniko.Result, error)
	// Seal signs the image's provenance, attaches it, reads it back and then
	// writes the tag. On return all of it is durable. Sealing again is
	// harmless; where another copy of us was faster, its image is returned.
	Seal(ctx context.Context, order kaniko.Order, built kaniko.Result) (kaniko.Result, error)
	// Size is the size of an image in compressed bytes, for people to read.
	Size(ctx context.Context, ref string) (int64, error)
}

// Fleet is one target: a branch of the GitOps repository with its ledger.
type Fleet interface {
	// Promoted tells what the ledger and the markers say about an image.
	Promoted(ctx context.Context, image fleet.Image) (fleet.State, error)
	// Promote joins the next batch and returns when the bump was read back as
	// ours. fleet.ErrMoved says that the ledger is not what the bump was
	// decided on: decide again. It never forces and may be called concurrently.
	Promote(ctx context.Context, bump fleet.Bump) (fleet.Promotion, error)
	// Mend brings a ledger forward that does not name the newest bump yet.
	Mend(ctx context.Context, image fleet.Image) error
}

// Delivery is one image on its way to one target, as the config said at one
// moment.
type Delivery struct {
	Image     fleet.Image
	Target    string
	Rules     Rules
	Query     source.Query // Base is filled from the ledger
	SourceURL string
	SourceRef string
	Suspended bool
	// Hosts are those that the delivery needs: when one of them is reached
	// again after an outage, it does not wait out its back-off.
	Hosts []string
	// Order says what to build for a commit.
	Order func(gitops.Commit) (kaniko.Order, error)
	// Current tells whether the config still says what this delivery was made
	// from. A result is promoted only if it does.
	Current func() bool

	Source Source
	Images Images
	Builds *Builds // shared by all deliveries
	Fleet  Fleet
}

// Deliver is the story: one round for one image and one target, from top to
// bottom. It returns when there is nothing left to do until something changes,
// or when a step failed.
func (d *Delivery) Deliver(ctx context.Context) Outcome {
	began := time.Now()
	outcome := d.deliver(ctx)
	outcome.Time, outcome.Took = began, Length(time.Since(began))
	return outcome
}

func (d *Delivery) deliver(ctx context.Context) Outcome {
	if d.Suspended {
		return d.suspended()
	}
	o := Outcome{Image: d.Image.Name, Target: d.Target, Source: d.SourceURL}

	// Observe: what was promoted, what is the newest commit that may be built?
	// A crash here leaves nothing behind.
	promoted, choice, err := d.observe(ctx, &o)
	if err != nil {
		return o.failed("observe", err)
	}
	verdict := Decide(d.Rules, promoted, choice)
	switch verdict.Action {
	case Rest:
		return o.settled(verdict)
	case Mend:
		if err := d.Fleet.Mend(ctx, d.Image); err != nil {
			return o.failed("mend the ledger", err)
		}
		return o.settled(verdict)
	}
	bump := d.bump(promoted, choice, verdict)

	// Build and seal: is there an image of this commit that we sealed? A crash
	// before the seal leaves layers that no tag names, and the build is done
	// again; after it the image is found.
	if verdict.Action == Promote {
		image, err := d.image(ctx, choice.Commit)
		o.Notices = append(o.Notices, image.Notices...)
		if !image.Started.IsZero() {
			o.Build = &Span{image.Started, image.Finished}
		}
		if err != nil {
			return o.failed("build", err)
		}
		bump.Name, bump.Tag, bump.Digest, bump.Provenance = image.Repository, image.Tag, image.Digest, image.Provenance
		bump.Size, bump.SizeBefore = image.Size, d.sizeBefore(ctx, promoted)
		o.Ref = image.Ref()
	}
	if !d.Current() {
		o.State, o.Class = Outdated, Retry
		o.Reason = "the config of the image changed meanwhile: the result is not promoted"
		return o
	}

	// Promote: the point of no return. The ledger decides: a crash before the
	// push leaves nothing, after it the next round finds the ledger's entry.
	o.Promote = &Span{Started: time.Now()}
	done, err := d.Fleet.Promote(ctx, bump)
	o.Promote.Finished = time.Now()
	if err != nil {
		return o.failed("promote", err)
	}
	o.Behind = len(choice.Refused)
	return o.settled(verdict).pushed(done, d.Rules.Branch)
}

func (d *Delivery) suspended() Outcome {
	return Outcome{
		Image: d.Image.Name, Target: d.Target, State: Suspended,
		Reason: "suspended by the config", Hint: "set suspend to false",
	}
}

// stepPatience bounds what one step of a round asks of an application repository or a
// registry. That takes seconds, except for the first fetch of a repository that is
// large and far away. Package fleet bounds its own work, which several deliveries
// share, and builders bound theirs. sizePatience is for the size of an image, which
// only people want to know.
const (
	stepPatience = time.Hour
	sizePatience = time.Minute
)

// patiently runs a step with a bound on its time.
func patiently(ctx context.Context, patience time.Duration, step func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := step(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("given up after %s: %w", patience, err)
	}
	return err
}

// observe asks the target and then the source, since what may be built depends
// on what was promoted.
func (d *Delivery) observe(ctx context.Context, o *Outcome) (fleet.State, source.Choice, error) {
	promoted, err := d.Fleet.Promoted(ctx, d.Image)
	if err != nil {
		return promoted, source.Choice{}, err // it names the target
	}
	query := d.Query
	o.Others = promoted.Others
	for _, other := range promoted.OthersAt {
		o.OthersAt = append(o.OthersAt, fmt.Sprintf("%s:%d (%s)", other.File, other.Line, other.Policy))
	}
	var ours, others []fleet.Problem
	for _, problem := range promoted.Problems {
		if problem.Ours {
			ours = append(ours, problem)
		} else {
			others = append(others, problem)
		}
	}
	o.Problems, o.Notices = noted(o.Problems, ours), noted(o.Notices, others)
	if promoted.Rewritten != "" {
		o.Notices = append(o.Notices, promoted.Rewritten)
	}
	if entry := promoted.Entry; entry != nil {
		query.Base = entry.Source
		// A person's word that was used once must not choose a commit again: a branch
		// that was set back to before that commit is judged by its own tip.
		query.Accept = maps.Clone(query.Accept)
		maps.DeleteFunc(query.Accept, func(commit gitops.Hash, _ string) bool { return !entry.Accepts(commit) })
		o.Base, o.Promoted, o.Bump = hash(entry.Source), entry.Ref, hash(entry.Bump)
		if promoted.Standing == fleet.Holds && !entry.Observed {
			o.Tip = hash(promoted.Head)
		}
	}
	var choice source.Choice
	err = patiently(ctx, stepPatience, func(ctx context.Context) (err error) {
		choice, err = d.Source.Choose(ctx, query)
		return err
	})
	if err != nil {
		return promoted, choice, fmt.Errorf("source: %w", err)
	}
	if !query.Base.IsZero() {
		o.Behind = len(choice.Commits) + choice.More + len(choice.Refused)
	}
	o.Head, o.Commit, o.Subject = hash(choice.Head.Hash), hash(choice.Commit.Hash), choice.Commit.Subject
	for _, refusal := range choice.Refused {
		o.Refused = append(o.Refused, gitops.Short(refusal.Commit.Hash)+" "+refusal.Reason)
	}
	return promoted, choice, nil
}

// maxNotes is how many files an outcome names, and maxNote how many bytes it says of
// one. One commit to the GitOps repository may spoil fifty thousand files, and every
// round is logged, kept in the history and told to others.
const (
	maxNotes = 100
	maxNote  = 2000
)

// noted adds to known notes what is wrong with files, each once. Where that is more
// than maxNotes, the last note says how many are left out.
func noted(known []string, problems []fleet.Problem) []string {
	if len(known) > maxNotes {
		return known // it was told already that there are more
	}
	for i, problem := range problems {
		text := notice(problem)
		switch {
		case slices.Contains(known, text):
		case len(known) == maxNotes:
			return append(known, fmt.Sprintf("and so on, %d more", len(problems)-i))
		default:
			known = append(known, text)
		}
	}
	return known
}

// notice says what is wrong with a file of the GitOps repository.
func notice(p fleet.Problem) string {
	text := p.File + ": " + p.Text
	if p.Line != 0 {
		text = fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
	}
	if len(text) > maxNote {
		text = gitops.Line(text, maxNote/4)
	}
	return text
}

// image finds the commit's image, or has it built and sealed. Deliveries of
// one image to several targets that ask at once share the work.
func (d *Delivery) image(ctx context.Context, commit gitops.Commit) (kaniko.Result, error) {
	order, err := d.Order(commit)
	if err != nil {
		return kaniko.Result{}, err
	}
	return d.Builds.Once(ctx, order, func(ctx context.Context) (kaniko.Result, error) {
		var found kaniko.Result
		var ok bool
		err := patiently(ctx, stepPatience, func(ctx context.Context) (err error) {
			found, ok, err = d.Images.Find(ctx, order)
			return err
		})
		if err != nil || ok {
			return found, err
		}
		built, err := d.Builds.Slot(ctx, func() (kaniko.Result, error) { return d.Images.Build(ctx, order) })
		if err != nil {
			return built, err
		}
		built.Notices = append(built.Notices, found.Notices...)
		var sealed kaniko.Result
		err = patiently(ctx, stepPatience, func(ctx context.Context) (err error) {
			sealed, err = d.Images.Seal(ctx, order, built)
			return err
		})
		return sealed, err
	})
}

// bump is what to commit, without the image, which may not be built yet.
func (d *Delivery) bump(promoted fleet.State, choice source.Choice, verdict Verdict) fleet.Bump {
	bump := fleet.Bump{
		Image: d.Image, SourceURL: d.SourceURL, SourceRef: d.SourceRef,
		Commit: choice.Commit, Commits: choice.Commits, More: choice.More,
		Accepted: verdict.Accepted,
		Observe:  verdict.Action == Watch, Fill: verdict.Action == Fill,
	}
	if entry := promoted.Entry; entry != nil {
		bump.Base, bump.BaseBump = entry.Source, entry.Bump
	}
	return bump
}

// sizeBefore is the size of the image that the bump replaces, or 0 where that
// cannot be had: it is for people to read and stops nothing.
func (d *Delivery) sizeBefore(ctx context.Context, promoted fleet.State) int64 {
	if promoted.Entry == nil || promoted.Entry.Ref == "" || promoted.Standing != fleet.Holds && promoted.Standing != fleet.Unfilled {
		return 0
	}
	var size int64
	err := patiently(ctx, sizePatience, func(ctx context.Context) (err error) {
		size, err = d.Images.Size(ctx, promoted.Entry.Ref)
		return err
	})
	if err != nil {
		return 0
	}
	return size
}

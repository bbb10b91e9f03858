package reconcile

import (
	"context"
	"fmt"
	"time"

	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/kaniko"
)

// Sight is what the world says about a delivery at one moment, and what the
// next round would make of it.
type Sight struct {
	Outcome  Outcome
	Promoted fleet.State
	Choice   source.Choice
	Verdict  Verdict
	Order    kaniko.Order  // of the newest commit that may be built
	Image    kaniko.Result // its image, if Built
	Built    bool          // there is an image of it that we sealed
	Unasked  bool          // the registry did not say whether there is
}

// Look is the story up to where it would change something. It changes nothing
// anywhere.
func (d *Delivery) Look(ctx context.Context) Sight {
	began := time.Now()
	s := d.look(ctx)
	s.Outcome.Time, s.Outcome.Took = began, Length(time.Since(began))
	return s
}

func (d *Delivery) look(ctx context.Context) (s Sight) {
	s.Outcome = Outcome{Image: d.Image.Name, Target: d.Target, Source: d.SourceURL}
	var err error
	if s.Promoted, s.Choice, err = d.observe(ctx, &s.Outcome); err != nil {
		s.Outcome = s.Outcome.failed("observe", err)
		return s
	}
	s.Verdict = Decide(d.Rules, s.Promoted, s.Choice)
	if s.Order, err = d.Order(s.Choice.Commit); err != nil {
		s.Outcome = s.Outcome.failed("build", err)
		return s
	}
	if s.Image, s.Built, err = d.Images.Find(ctx, s.Order); err != nil {
		if s.Verdict.Action == Promote {
			s.Outcome = s.Outcome.failed("build", err)
			return s
		}
		// The next round would not ask, so this is for people to know.
		notice := fmt.Sprintf("whether its image is there is not known: %v", err)
		if hint := hintOf(err); hint != "" {
			notice += " (" + hint + ")"
		}
		s.Outcome.Notices, s.Unasked = append(s.Outcome.Notices, notice), true
	}
	s.Outcome = s.Outcome.settled(s.Verdict)
	s.Outcome.Reason = s.Verdict.Plan()
	if s.Verdict.Action == Promote || s.Verdict.Action == Fill {
		s.Outcome.State = Planned
	}
	s.Outcome.Notices = append(s.Outcome.Notices, s.Image.Notices...)
	if s.Built {
		s.Outcome.Ref = s.Image.Ref()
	}
	if d.Suspended {
		stopped := d.suspended()
		s.Outcome.State, s.Outcome.Reason, s.Outcome.Hint = stopped.State, stopped.Reason, stopped.Hint
		s.Verdict = Verdict{State: stopped.State, Reason: stopped.Reason, Hint: stopped.Hint}
	}
	return s
}

// Previewer shows what a promotion would commit.
type Previewer interface {
	// Preview is the unified diff that Promote would commit. It pushes nothing. A
	// bump without a digest is of an image that is not built yet, and is shown with
	// fleet.Unbuilt in place of one.
	Preview(ctx context.Context, bump fleet.Bump) (diff string, err error)
}

// Plan is what Deliver would do now, and the diff that it would commit. Where the
// image is not built yet, both have fleet.Unbuilt in place of its digest. It
// changes nothing anywhere.
func (d *Delivery) Plan(ctx context.Context, preview Previewer) (o Outcome, diff string) {
	s := d.Look(ctx)
	if s.Outcome.State == Failed || s.Verdict.Action != Promote && s.Verdict.Action != Fill {
		return s.Outcome, ""
	}
	o = s.Outcome
	bump := d.bump(s.Promoted, s.Choice, s.Verdict)
	if s.Verdict.Action == Promote {
		image := s.Image.Image
		if !s.Built {
			to := s.Order.Destination
			image = kaniko.Image{Repository: to.Repository, Tag: to.Tag, Digest: fleet.Unbuilt}
			o.Reason += "; its image would be built"
		}
		o.Ref = image.Ref()
		bump.Name, bump.Tag = image.Repository, image.Tag
		if s.Built {
			bump.Digest, bump.Provenance = image.Digest, image.Provenance
		}
	}
	diff, err := preview.Preview(ctx, bump)
	if err != nil {
		return o.failed("promote", err), ""
	}
	return o, diff
}

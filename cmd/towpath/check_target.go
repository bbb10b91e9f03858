package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops/automation"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/trust"
)

// target checks a GitOps repository: that it answers, has its branch and
// markers, and takes what Towpath pushes; and the key that signs there.
func (c *checker) target(ctx context.Context, target *config.Target) []finding {
	subject := "target " + target.Name
	found := []finding{c.signer(target)}
	open, err := c.w.openFleet(c.cfg, target)
	if err != nil {
		return append(found, findingOf(subject, err))
	}
	if found[0].Verdict == problem {
		// Whatever else is asked of a target begins with our keys.
		if _, err := open.Remote.Refs(ctx, "refs/heads/"+open.Branch); err != nil {
			return append(found, findingOf(subject, err))
		}
		return append(found, finding{subject, warning, "it answers; what else it needs is not looked at without the signing key", ""})
	}
	rights, err := open.Check(ctx)
	if err != nil {
		return append(found, findingOf(subject, err))
	}
	if rights.Branch != nil {
		found = append(found, findingOf(subject+": push bumps", rights.Branch))
	}
	if rights.Ledger != nil {
		ledger := findingOf(subject+": push refs/towpath", rights.Ledger)
		ledger.Verdict, ledger.Hint = warning, fleet.LedgerLost
		found = append(found, ledger)
	}
	if rights.Signing != nil {
		found = append(found, findingOf(subject+": sign", rights.Signing))
	}
	if !rights.Atomic {
		found = append(found, finding{subject, warning, "the server knows no atomic pushes: branch and ledger move one after the other, and the next start mends what a crash leaves between", ""})
	}
	if len(found) == 1 {
		found = append(found, finding{subject, good, open.Target() + " takes bumps and their ledger", ""})
	}
	return slices.Concat(found, c.markers(ctx, target, open), c.automation(ctx, target, open))
}

// signer checks the key that signs a target's bumps, and foresees its end.
func (c *checker) signer(target *config.Target) finding {
	key := target.Git.Commit.SigningKey
	subject := "signing key " + key.SecretRef.Name
	keys, err := c.secrets().Read(key.SecretRef.Name)
	if err != nil {
		return findingOf(subject, err)
	}
	signer, err := trust.LoadSigner(string(key.Type), keys)
	if err != nil {
		found := findingOf(subject, err)
		found.Text = strings.TrimPrefix(found.Text, "signing key: ")
		return found
	}
	if end, expires := signer.Expires(); expires && time.Until(end) < soon {
		return finding{subject, warning, fmt.Sprintf("%s expires on %s", signer.Fingerprint(), end.Format(time.DateOnly)), "make the next key, and keep the public half of this one beside it as former.asc"}
	}
	return finding{subject, good, signer.Fingerprint(), ""}
}

// markers checks that a target has a marker for every image that goes there,
// in files that can be edited.
func (c *checker) markers(ctx context.Context, target *config.Target, open *fleet.Fleet) []finding {
	var found []finding
	for i := range c.cfg.Images {
		image := &c.cfg.Images[i]
		if !slices.Contains(image.GitOps, target.Name) {
			continue
		}
		subject := image.Name + " in " + target.Name
		policy, err := marker.ParsePolicy(image.Policy)
		if err != nil {
			found = append(found, findingOf(subject, err))
			continue
		}
		state, err := open.Promoted(ctx, fleet.Image{Name: image.Name, Policy: policy, Pin: image.Pin == config.PinDigest})
		if err == nil && state.Standing == fleet.NoMarker {
			err = &fleet.NoMarkerError{Policy: policy.String(), Path: "./" + strings.TrimPrefix(target.Path(), "."), Branch: target.Branch()}
		}
		if err != nil {
			found = append(found, findingOf(subject, err))
		} else {
			found = append(found, standstill(subject, target, image, state)...)
		}
		for _, p := range state.Problems {
			if !p.Ours {
				continue // plan and run tell of it once, and it stops nothing
			}
			place := p.File
			if p.Line > 0 {
				place = fmt.Sprintf("%s:%d", p.File, p.Line)
			}
			found = append(found, finding{subject, problem, place + ": " + p.Text, ""})
		}
	}
	return found
}

// automation reports images whose markers Flux's own image automation still writes:
// after each bump it would put back the image that it takes for the newest.
func (c *checker) automation(ctx context.Context, target *config.Target, open *fleet.Fleet) []finding {
	var objects automation.Objects
	if err := open.Manifests(ctx, objects.Add); err != nil {
		return []finding{findingOf("target "+target.Name+": Flux's automation", err)}
	}
	var found []finding
	for i := range c.cfg.Images {
		image := &c.cfg.Images[i]
		policy, err := marker.ParsePolicy(image.Policy)
		if err != nil || !slices.Contains(image.GitOps, target.Name) {
			continue // markers reports a policy that does not parse
		}
		told := map[string]bool{}
		subject, remedy := image.Name+" in "+target.Name, "delete "+join(objects.Of(policy))
		tell := func(writers []automation.Update, verdict, text, hint string) {
			for _, writer := range writers {
				if !told[writer.String()] {
					told[writer.String()] = true
					found = append(found, finding{subject, verdict, fmt.Sprintf("%s (%s) %s", writer, writer.File, text), hint})
				}
			}
		}
		for _, file := range objects.Markers[policy] {
			tell(objects.Writers(policy, file, target.URL), problem, "writes the same markers, as in "+file,
				"two writers undo each other: "+remedy+"; or suspend the automation")
			tell(objects.Resting(policy, file, target.URL), warning, "is suspended: once it is resumed it writes the same markers, as in "+file, remedy)
		}
	}
	return found
}

// join lists objects and the files that they are in.
func join(objects []automation.Object) string {
	var all []string
	for _, o := range objects {
		all = append(all, fmt.Sprintf("%s (%s)", o, o.File))
	}
	return strings.Join(all, ", ")
}

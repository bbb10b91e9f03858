package main

import (
	"context"
	"errors"
	"slices"

	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/kaniko/registry"
	"towpath.dev/towpath/reconcile"
)

// gone warns of a promoted or proposed image that its registry has no more: what runs goes
// on running, until a node has to pull it again. Where the registry cannot be
// asked, nothing is said: the round tells of that.
func gone(ctx context.Context, d *reconcile.Delivery, s reconcile.Sight) []string {
	entry := s.Promoted.Entry
	deployed := []fleet.Standing{fleet.Holds, fleet.Unfilled, fleet.Proposed}
	if entry == nil || entry.Ref == "" || !slices.Contains(deployed, s.Promoted.Standing) {
		return nil
	}
	if _, err := d.Images.Size(ctx, entry.Ref); !errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	return []string{entry.Ref + " is " + reconcile.Fate(s.Promoted) + ", and the registry has no such image any more: no node can pull it again; " +
		"push the next source commit, or restore the image, and have the registry's clean-up spare what is deployed"}
}

package main

import (
	"context"
	"fmt"
	"path"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/flux"
)

// What stands still although nothing is broken is a warning: a person wanted it
// so, once. Whoever asks why nothing happens finds it here.

// brakes are what the config itself holds back.
func (c *checker) brakes(context.Context) []finding {
	if len(c.cfg.Images) == 0 {
		return []finding{{"images", warning, noImages + ": there is nothing to build or promote", ""}}
	}
	if c.cfg.Suspend {
		return []finding{{"suspend", warning, "the config suspends everything: nothing is built or promoted", "set suspend to false at its top"}}
	}
	var found []finding
	for i := range c.cfg.Images {
		if image := &c.cfg.Images[i]; image.Suspended(c.cfg) {
			found = append(found, finding{"image " + image.Name, warning, "suspended: it is neither built nor promoted", "set suspend to false at this image, or in defaults"})
		}
	}
	return found
}

// standstill is what holds an image back in a target, by what its repository says.
func standstill(subject string, target *config.Target, image *config.Image, state fleet.State) []finding {
	switch {
	case state.Stranger != nil:
		return []finding{lesser(subject, &fleet.StrangerError{Stranger: *state.Stranger})}
	case state.Lost != nil && len(image.Source.Accept) == 0:
		return []finding{findingOf(subject, state.Lost)}
	case state.Standing == fleet.TakenOver && state.Foreign != nil:
		return []finding{lesser(subject, &fleet.ForeignError{Image: image.Name, Foreign: *state.Foreign})}
	case state.Standing == fleet.Undone && target.AfterRevert == config.RevertHold:
		return []finding{{
			subject, warning, "its newest promotion was undone by a person, and afterRevert says hold: nothing is promoted",
			"name the commit to go on with in source.accept, with a reason",
		}}
	}
	return nil
}

// stalled is what of Flux takes a bump no further.
func stalled(subject string, target *config.Target, repository types.NamespacedName, applied flux.Applied) []finding {
	var found []finding
	hint := func(why, kind, name, namespace string) string {
		if why != flux.Suspended {
			return ""
		}
		return fmt.Sprintf("flux resume %s %s -n %s", kind, name, namespace)
	}
	if why := applied.Artifact.Stuck; why != "" {
		found = append(found, finding{
			subject, warning, fmt.Sprintf("GitRepository %s fetches no bump: %s", repository, why), hint(why, "source git", repository.Name, repository.Namespace),
		})
	}
	for _, k := range applied.Kustomizations {
		if k.Stuck != "" && (liesIn(k.Path, target.Path()) || liesIn(target.Path(), k.Path)) {
			found = append(found, finding{
				subject, warning, fmt.Sprintf("Kustomization %s applies no bump: %s", k.Name, k.Stuck), hint(k.Stuck, "kustomization", k.Name.Name, k.Name.Namespace),
			})
		}
	}
	return found
}

// liesIn tells whether a path of the repository is another, or lies below it.
func liesIn(inner, outer string) bool {
	inner, outer = path.Clean("/"+inner), path.Clean("/"+outer)
	return outer == "/" || inner == outer || strings.HasPrefix(inner, outer+"/")
}

package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/flux"
	"towpath.dev/towpath/reconcile"
)

// applied is what Flux has made of an image's promotion, as far as it may be
// read.
type applied struct {
	// Live: what applies the image's manifests has applied its newest bump. nil:
	// that is not known.
	Live           *bool       `json:"live,omitempty"`
	Repository     string      `json:"gitRepository"`      // namespace/name
	Artifact       string      `json:"artifact,omitempty"` // revision that source-controller has fetched
	Stuck          string      `json:"stuck,omitempty"`    // why it fetches no further
	Kustomizations []appliedBy `json:"kustomizations,omitempty"`
	Unknown        string      `json:"unknown,omitempty"` // why more is not known
}

// appliedBy is how far one Kustomization has come.
type appliedBy struct {
	Name     string `json:"name"`               // namespace/name
	Revision string `json:"revision,omitempty"` // that it applied last
	Live     *bool  `json:"live,omitempty"`     // that revision holds the newest bump; nil: not known
	Stuck    string `json:"stuck,omitempty"`    // why it applies no further
}

// fluxView reads what Flux has applied, each GitRepository once. A nil view,
// outside a cluster, knows nothing.
type fluxView struct {
	client  *flux.Client
	targets []config.Target

	mu   sync.Mutex
	read map[types.NamespacedName]func() (flux.Applied, error)
}

// patience bounds one question to the API server while somebody waits at a terminal.
const patience = 5 * time.Second

// fluxView connects to the cluster; nil where there is none, or no target names a
// GitRepository.
func (g *globals) fluxView(cfg *config.Config) *fluxView {
	if !slices.ContainsFunc(cfg.GitOps, func(t config.Target) bool { return t.Flux != nil }) {
		return nil
	}
	in := g.cluster(cfg)
	if in == nil {
		return nil
	}
	client, err := flux.New(in.config)
	if err != nil {
		g.log.Warn("what Flux has applied is not known", "error", oneLine(err.Error()))
		return nil
	}
	return &fluxView{client: client, targets: cfg.GitOps, read: map[types.NamespacedName]func() (flux.Applied, error){}}
}

// applied reads a GitRepository, or joins who reads it already.
func (v *fluxView) applied(ctx context.Context, repository types.NamespacedName) (flux.Applied, error) {
	v.mu.Lock()
	read := v.read[repository]
	if read == nil {
		read = sync.OnceValues(func() (flux.Applied, error) {
			ctx, cancel := context.WithTimeout(ctx, patience)
			defer cancel()
			return v.client.Applied(ctx, repository)
		})
		v.read[repository] = read
	}
	v.mu.Unlock()
	return read()
}

// of tells how far an image's newest bump has come. nil: Flux is not
// asked about this target.
func (v *fluxView) of(ctx context.Context, d *reconcile.Delivery, promoted fleet.State) *applied {
	if v == nil {
		return nil
	}
	repository, ok := gitRepository(v.targets, d.Target)
	if !ok {
		return nil
	}
	a := &applied{Repository: repository.String()}
	said, err := v.applied(ctx, repository)
	if err != nil {
		a.Unknown = oneLine(err.Error())
		return a
	}
	a.Artifact, a.Stuck = said.Artifact.Revision, said.Artifact.Stuck
	if said.Unknown != nil {
		a.Unknown = oneLine(said.Unknown.Error())
	}
	target, ok := d.Fleet.(*fleet.Fleet)
	if promoted.Entry == nil || promoted.Entry.Observed || !ok {
		return a
	}
	var files []string
	for _, site := range promoted.Sites {
		files = append(files, site.File)
	}
	for _, k := range said.Applies(files) {
		by := appliedBy{Name: k.Name.String(), Revision: k.Revision, Stuck: k.Stuck}
		if by.Live, err = holdsBump(ctx, target, d.Image, k.Standing); err != nil {
			a.Unknown = oneLine(err.Error())
		}
		a.Kustomizations = append(a.Kustomizations, by)
	}
	a.Live = together(a.Kustomizations)
	return a
}

// holdsBump tells whether a revision holds an image's newest bump; nil
// with an error: it is not known.
func holdsBump(ctx context.Context, target *fleet.Fleet, image fleet.Image, at flux.Standing) (*bool, error) {
	live := false
	if at.Revision == "" {
		return &live, nil
	}
	commit, ok := at.Commit()
	if !ok {
		return nil, fmt.Errorf("revision %s names no commit", at.Revision)
	}
	arrival, err := target.Arrival(ctx, image, commit)
	if err != nil {
		return nil, err
	}
	live = arrival == fleet.Arrived
	return &live, nil
}

// together tells whether a bump is live: where all Kustomizations hold it. nil where
// that is not known of one of them, or there is none.
func together(all []appliedBy) *bool {
	if len(all) == 0 {
		return nil
	}
	live := true
	for _, k := range all {
		if k.Live == nil {
			return nil
		}
		live = live && *k.Live
	}
	return &live
}

// gitRepository is the object of Flux that watches a target's repository.
func gitRepository(targets []config.Target, name string) (types.NamespacedName, bool) {
	for i := range targets {
		if f := targets[i].Flux; targets[i].Name == name && f != nil {
			return types.NamespacedName{Namespace: f.GitRepository.Namespace, Name: f.GitRepository.Name}, true
		}
	}
	return types.NamespacedName{}, false
}

// column is the cell in status's column LIVE.
func (a *applied) column() string {
	switch {
	case a == nil || a.Live == nil:
		return "-"
	case *a.Live:
		return "yes"
	default:
		return "no"
	}
}

// printUnknown says once for each GitRepository why it is not known what Flux
// has applied of it.
func printUnknown(out io.Writer, rows []row) {
	told := map[string]bool{}
	for _, r := range rows {
		if a := r.Applied; a != nil && a.Unknown != "" && !told[a.Repository] {
			told[a.Repository] = true
			fmt.Fprintf(out, "%s: what Flux has applied is not known: %s\n", r.Target, gitops.Line(a.Unknown, 400))
		}
	}
}

// liveGate is the last gate of `why`: has Flux applied the bump?
func liveGate(a *applied) gate {
	g := gate{Gate: "live", Verdict: unknown}
	switch {
	case a.Live != nil && *a.Live:
		g.Verdict = passed
	case a.Live != nil:
		g.Verdict = waiting
	}
	var said []string
	for _, k := range a.Kustomizations {
		text := fmt.Sprintf("Kustomization %s has applied %s", k.Name, orNothing(k.Revision))
		switch {
		case k.Live == nil:
		case *k.Live:
			text += ", which holds the bump"
		default:
			text += ", which does not hold the bump"
		}
		said = append(said, text+stuck(k.Stuck))
	}
	if g.Verdict != passed && (a.Artifact != "" || a.Stuck != "") {
		said = append(said, fmt.Sprintf("GitRepository %s has fetched %s%s", a.Repository, orNothing(a.Artifact), stuck(a.Stuck)))
	}
	if a.Unknown != "" {
		said = append(said, a.Unknown)
	}
	if len(said) == 0 {
		said = []string{"no Kustomization beside GitRepository " + a.Repository + " applies it"}
	}
	g.Detail = strings.Join(said, "; ")
	return g
}

func orNothing(revision string) string {
	if revision == "" {
		return "nothing yet"
	}
	return revision
}

func stuck(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

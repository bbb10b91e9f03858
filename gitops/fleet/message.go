package fleet

import (
	"errors"
	"strings"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/gitops/marker"
)

// message says what a bump commit says.
func (f *Fleet) message(b Bump, changes []FileChange) (string, error) {
	t := bump.Trailers{
		Image: b.Image.Name, Policy: b.Image.Policy.String(), Target: f.Target(),
		Source: b.SourceURL + " " + b.SourceRef, Commit: b.Commit.Hash.String(), Accepted: b.Accepted, AcceptedBefore: b.acceptedBefore,
	}
	if !b.Observe {
		t.Ref, t.Provenance = b.Name+":"+b.Tag+"@"+b.Digest, b.Provenance
	}
	d := bump.Data{
		Trailers: t, Commit: b.Commit, Commits: b.Commits, More: b.More, Base: b.Base,
		Size: b.Size, SizeBefore: b.SizeBefore, Fill: b.Fill,
		Automation: types.NamespacedName{Namespace: f.Namespace, Name: f.Name},
		Template:   f.Template, Values: f.Values,
	}
	for _, c := range changes {
		d.Changes = append(d.Changes, bump.Change{File: c.File, Object: object(c.Path), Old: c.Old, New: c.New, Setter: setter(c.Site)})
	}
	return bump.Message(d)
}

// refill is the bump that brings an entry's image to new markers: it says again
// what the entry says, so that the ledger loses nothing by naming it.
func (b Bump) refill(e *Entry) Bump {
	commit := b.Commit
	if commit.Hash != e.Source {
		commit = gitops.Commit{Hash: e.Source}
	}
	full := Bump{
		Image: b.Image, Base: e.Source, BaseBump: b.BaseBump, Fill: true, Commit: commit,
		SourceURL: e.SourceURL, SourceRef: e.SourceRef, Provenance: e.Provenance, Accepted: e.Accepted, Size: b.Size,
		acceptedBefore: e.AcceptedBefore,
	}
	full.Name, full.Tag, full.Digest = marker.Split(e.Ref)
	return full
}

// pinned tells in which form markers hold an image, with its digest or without;
// where none does, the form that the config asks for.
func pinned(sites []Found, ref string, asked bool) bool {
	without := false
	for _, site := range sites {
		if site.Field != marker.FieldImage {
			continue
		}
		if site.Value == valueOf(ref, true).Text(site.Field) {
			return true
		}
		without = without || site.Value == valueOf(ref, false).Text(site.Field)
	}
	return asked && !without
}

// setter is a marker as it refers to its policy, as Flux's templates show it.
func setter(site marker.Site) string {
	if site.Field == "" {
		return site.Policy.String()
	}
	return site.Policy.String() + ":" + site.Field
}

// object is the Kubernetes object that a marker's path begins with: "Deployment.apps
// prod/podinfo /spec/…". A file without one leaves all of it empty.
func object(path string) bump.ObjectIdentifier {
	head, _, _ := strings.Cut(path, " /")
	kind, name, found := strings.Cut(head, " ")
	if !found || kind == "doc" {
		return bump.ObjectIdentifier{}
	}
	var id bump.ObjectIdentifier
	id.Kind, id.APIVersion, _ = strings.Cut(kind, ".")
	if namespace, rest, found := strings.Cut(name, "/"); found {
		id.Namespace, name = namespace, rest
	}
	id.Name = name
	return id
}

// problemOf tells of a file that could not be edited.
func problemOf(file string, err error) Problem {
	p := Problem{File: file, Text: gitops.Line(err.Error(), 300), Ours: true}
	var located *marker.Error
	if errors.As(err, &located) {
		p.Line, p.Text = located.Line, located.Reason
	}
	return p
}

package bump

import (
	"cmp"
	"slices"

	"towpath.dev/towpath/gitops"
)

// The types below are what Flux's message templates work with, by the names
// of its documentation (ImageUpdateAutomation, message template): so that a
// template written for Flux says the same here.

// Change is one value that a bump changes.
type Change struct {
	File   string           // from the repository's root
	Object ObjectIdentifier // the object it is in, as far as known
	Old    string
	New    string
	Setter string // the marker's policy: namespace:name, and its field if it has one
}

// ObjectIdentifier names a Kubernetes object. Its parts are empty where the
// file has none, as in a kustomization.yaml.
type ObjectIdentifier struct{ APIVersion, Kind, Namespace, Name string }

// Result is .Changed.
type Result struct {
	// FileChanges are the changes by file and object.
	FileChanges map[string]ObjectChanges
}

// ObjectChanges are the changes by object. Templates range over it in the
// order of the objects' API version, kind, namespace and name.
type ObjectChanges map[ObjectIdentifier][]ValueChange

// ValueChange is one change, by Flux's names.
type ValueChange struct{ OldValue, NewValue, Setter string }

// newResult takes the changes over. Files, objects and old values come from
// the GitOps repository, where anybody may have put anything: they become one
// line, too.
func newResult(changes []Change) Result {
	const limit = 1000
	line := func(s string) string { return gitops.Line(s, limit) }
	r := Result{FileChanges: map[string]ObjectChanges{}}
	for _, c := range changes {
		file := line(c.File)
		object := ObjectIdentifier{line(c.Object.APIVersion), line(c.Object.Kind), line(c.Object.Namespace), line(c.Object.Name)}
		if r.FileChanges[file] == nil {
			r.FileChanges[file] = ObjectChanges{}
		}
		r.FileChanges[file][object] = append(r.FileChanges[file][object], ValueChange{line(c.Old), line(c.New), line(c.Setter)})
	}
	return r
}

// Changes are the changes of all files, each once, in order.
func (r Result) Changes() []ValueChange {
	var all []ValueChange
	for _, objects := range r.FileChanges {
		for _, changes := range objects {
			all = append(all, changes...)
		}
	}
	slices.SortFunc(all, func(a, b ValueChange) int {
		return cmp.Or(cmp.Compare(a.Setter, b.Setter), cmp.Compare(a.OldValue, b.OldValue), cmp.Compare(a.NewValue, b.NewValue))
	})
	return slices.Compact(all)
}

// Objects are the changes by object, of all files.
func (r Result) Objects() ObjectChanges {
	all := ObjectChanges{}
	files := make([]string, 0, len(r.FileChanges))
	for file := range r.FileChanges {
		files = append(files, file)
	}
	slices.Sort(files)
	for _, file := range files {
		for object, changes := range r.FileChanges[file] {
			all[object] = append(all[object], changes...)
		}
	}
	return all
}

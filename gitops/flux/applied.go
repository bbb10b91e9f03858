package flux

import (
	"cmp"
	"context"
	"path"
	"slices"
	"strings"

	"github.com/fluxcd/pkg/apis/meta"
	"github.com/fluxcd/pkg/git"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops"
)

// Applied is what Flux says of a GitRepository and of what reads from it.
type Applied struct {
	URL      string   // that the GitRepository watches
	Branch   string   // of it; empty: by a tag, a commit or another name, or the default
	Artifact Standing // of the GitRepository: what source-controller has fetched
	// Kustomizations of the GitRepository's namespace that apply it, by name.
	Kustomizations []Kustomization
	// Unknown is why the Kustomizations could not be read, often that it is not
	// allowed. nil: they are all there.
	Unknown error
}

// Kustomization applies a path of a GitRepository.
type Kustomization struct {
	Name types.NamespacedName
	Path string // spec.path, cleaned and relative: "clusters/production", "." is all of the repository
	Standing
}

// Suspended is why an object of Flux that is suspended does not get further.
const Suspended = "suspended"

// Standing is what an object of Flux has come to.
type Standing struct {
	Revision string // as Flux writes it: "main@sha1:5394cb7f…"; empty: none yet
	// Stuck is why it does not get further: the message of a Ready condition
	// that is False, or Suspended. Empty: it does.
	Stuck string
}

// Commit is the commit that a revision names; ok is false where it names none.
func (s Standing) Commit() (commit gitops.Hash, ok bool) {
	_, hash := git.SplitRevision(s.Revision)
	commit, err := gitops.ParseHash(string(hash))
	return commit, err == nil
}

// Applied reads a GitRepository, and the Kustomizations of its namespace that
// name it as their source. Those of other namespaces are not looked for: that
// would need a right over the whole cluster. Errors are of type *Error.
func (c *Client) Applied(ctx context.Context, repository types.NamespacedName) (Applied, error) {
	source, err := c.source(ctx, repository)
	if err != nil {
		return Applied{}, err
	}
	applied := Applied{URL: gitops.Line(source.Spec.URL, 300), Branch: gitops.Line(source.Spec.Ref.Branch, 200), Artifact: source.standing(source.Status.Artifact.Revision)}

	applied.Kustomizations, applied.Unknown = c.readers(ctx, repository)
	return applied, nil
}

// Fetched is what source-controller has fetched of a GitRepository. It is one
// request. Errors are of type *Error.
func (c *Client) Fetched(ctx context.Context, repository types.NamespacedName) (Standing, error) {
	source, err := c.source(ctx, repository)
	if err != nil {
		return Standing{}, err
	}
	return source.standing(source.Status.Artifact.Revision), nil
}

func (c *Client) source(ctx context.Context, repository types.NamespacedName) (*fluxObject, error) {
	object, err := c.objects.Resource(gitRepositories).Namespace(repository.Namespace).Get(ctx, repository.Name, metav1.GetOptions{})
	source := &fluxObject{}
	if err == nil {
		err = source.read(object)
	}
	if err != nil {
		return nil, &Error{"get", "GitRepository", repository, err}
	}
	return source, nil
}

// readers are the Kustomizations of a GitRepository's namespace that apply it.
func (c *Client) readers(ctx context.Context, repository types.NamespacedName) (all []Kustomization, err error) {
	list, err := c.objects.Resource(kustomizations).Namespace(repository.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, &Error{"list", "Kustomizations", types.NamespacedName{Namespace: repository.Namespace, Name: "*"}, err}
	}
	for i := range list.Items {
		var k fluxObject
		if err := k.read(&list.Items[i]); err != nil {
			return nil, &Error{"list", "Kustomizations", types.NamespacedName{Namespace: repository.Namespace, Name: "*"}, err}
		}
		if k.reads(repository) {
			all = append(all, Kustomization{
				Name: types.NamespacedName{Namespace: k.Metadata.Namespace, Name: k.Metadata.Name},
				Path: path.Clean(strings.TrimLeft(path.Clean("/"+k.Spec.Path), "/")), Standing: k.standing(k.Status.LastAppliedRevision),
			})
		}
	}
	slices.SortFunc(all, func(a, b Kustomization) int { return cmp.Compare(a.Name.String(), b.Name.String()) })
	return all, nil
}

// Applies names the Kustomizations that most likely apply the given files: for
// each file those with the longest path that it lies below, since others leave
// a directory with a Kustomization of its own alone. Where none has a file
// below its path, as with bases that an overlay refers to, it may be any: all
// of them then.
func (a Applied) Applies(files []string) []Kustomization {
	chosen := map[types.NamespacedName]bool{}
	for _, file := range files {
		longest := -1
		for _, k := range a.Kustomizations {
			if k.holds(file) {
				longest = max(longest, len(k.Path))
			}
		}
		for _, k := range a.Kustomizations {
			if k.holds(file) && len(k.Path) == longest {
				chosen[k.Name] = true
			}
		}
		if longest < 0 {
			return a.Kustomizations
		}
	}
	return slices.DeleteFunc(slices.Clone(a.Kustomizations), func(k Kustomization) bool { return !chosen[k.Name] })
}

func (k Kustomization) holds(file string) bool {
	return k.Path == "." || strings.HasPrefix(path.Clean(file), k.Path+"/")
}

// fluxObject is what is read of both kinds: the fields of Flux's API documents
// source.toolkit.fluxcd.io/v1 and kustomize.toolkit.fluxcd.io/v1.
type fluxObject struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
	Spec     struct {
		Suspend bool   `json:"suspend"`
		Path    string `json:"path"`
		URL     string `json:"url"`
		Ref     struct {
			Branch string `json:"branch"`
		} `json:"ref"`
		SourceRef struct {
			Kind      string `json:"kind"`
			Namespace string `json:"namespace"`
			Name      string `json:"name"`
		} `json:"sourceRef"`
	} `json:"spec"`
	Status struct {
		Conditions []metav1.Condition `json:"conditions"`
		Artifact   struct {
			Revision string `json:"revision"`
		} `json:"artifact"`
		LastAppliedRevision string `json:"lastAppliedRevision"`
	} `json:"status"`
}

func (o *fluxObject) read(from *unstructured.Unstructured) error {
	return runtime.DefaultUnstructuredConverter.FromUnstructured(from.Object, o)
}

// reads tells whether a Kustomization's source is the GitRepository.
func (o *fluxObject) reads(repository types.NamespacedName) bool {
	from := o.Spec.SourceRef
	return from.Kind == "GitRepository" && from.Name == repository.Name &&
		cmp.Or(from.Namespace, o.Metadata.Namespace) == repository.Namespace
}

func (o *fluxObject) standing(revision string) Standing {
	s := Standing{Revision: gitops.Line(revision, 200)}
	if o.Spec.Suspend {
		s.Stuck = Suspended
		return s
	}
	for _, condition := range o.Status.Conditions {
		if condition.Type == meta.ReadyCondition && condition.Status == metav1.ConditionFalse {
			s.Stuck = gitops.Line(condition.Message, 300)
		}
	}
	return s
}

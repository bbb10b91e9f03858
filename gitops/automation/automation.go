// Package automation reads what a GitOps repository says of Flux's own image
// automation: the objects that scan registries, choose tags and write them into
// marked files.
//
// It reads files and nothing else: it asks no cluster, so what lies elsewhere it
// does not know. What does not parse as an object of Flux's is passed over; it is
// for others to say that a file is broken.
//
// See https://fluxcd.io/flux/components/image/ for what the objects mean.
package automation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"path"
	"slices"
	"strings"

	flux "github.com/fluxcd/image-automation-controller/api/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"towpath.dev/towpath/gitops/marker"
)

// maxFile bounds what is parsed of one file.
const maxFile = 1 << 20

// Object is what every object says of itself. A namespace that a kustomization
// sets is not in the file: then it is empty, and counts as any.
type Object struct {
	File      string            `json:"-"` // where it is written
	Kind      string            `json:"-"`
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
}

// String is kind, namespace and name, as people write them.
func (o Object) String() string {
	if o.Namespace == "" {
		return o.Kind + " " + o.Name
	}
	return o.Kind + " " + o.Namespace + "/" + o.Name
}

// Update is an ImageUpdateAutomation.
type Update struct {
	Object
	Spec flux.ImageUpdateAutomationSpec
}

// Policy is an ImagePolicy.
type Policy struct {
	Object
	Repository Reference // its ImageRepository
}

// Repository is an ImageRepository.
type Repository struct {
	Object
	Image  string // host/path
	Secret string // of the registry; empty: none
}

// Source is a GitRepository.
type Source struct {
	Object
	URL    string
	Branch string
	Secret string
}

// Reference names an object; without a namespace, one beside who refers to it.
type Reference struct {
	Name      string `json:"name"`
	Namespace string `json:"namespace"`
}

// Objects is all that was read.
type Objects struct {
	Updates      []Update
	Policies     []Policy
	Repositories []Repository
	Sources      []Source
	Markers      map[marker.Policy][]string // files that a policy's markers are in, each once
}

// Add reads a file of the repository.
func (o *Objects) Add(file string, content []byte) {
	if len(content) > maxFile {
		return
	}
	if marker.Mentions(content) {
		o.addMarkers(file, content)
	}
	if !bytes.Contains(content, []byte(".toolkit.fluxcd.io/")) {
		return
	}
	documents := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for {
		document, err := documents.Read()
		if err != nil {
			return
		}
		var found object
		if yaml.Unmarshal(document, &found) == nil {
			o.add(file, found)
		}
	}
}

func (o *Objects) addMarkers(file string, content []byte) {
	parsed, err := marker.Parse(content)
	if err != nil {
		return
	}
	if o.Markers == nil {
		o.Markers = map[marker.Policy][]string{}
	}
	for _, site := range parsed.Sites() {
		if !slices.Contains(o.Markers[site.Policy], file) {
			o.Markers[site.Policy] = append(o.Markers[site.Policy], file)
		}
	}
}

// object is what is read of any object.
type object struct {
	APIVersion string          `json:"apiVersion"`
	Kind       string          `json:"kind"`
	Metadata   Object          `json:"metadata"`
	Items      []object        `json:"items"` // of a List
	Spec       json.RawMessage `json:"spec"`
}

func (o *Objects) add(file string, d object) {
	for _, item := range d.Items {
		o.add(file, item)
	}
	group, _, _ := strings.Cut(d.APIVersion, "/")
	head := d.Metadata
	head.File, head.Kind = file, d.Kind
	if head.Name == "" {
		return
	}
	switch group + " " + d.Kind {
	case "image.toolkit.fluxcd.io ImageUpdateAutomation":
		update := Update{Object: head}
		if json.Unmarshal(d.Spec, &update.Spec) == nil {
			o.Updates = append(o.Updates, update)
		}
	case "image.toolkit.fluxcd.io ImagePolicy":
		var spec struct {
			ImageRepositoryRef Reference `json:"imageRepositoryRef"`
		}
		if json.Unmarshal(d.Spec, &spec) == nil {
			o.Policies = append(o.Policies, Policy{head, spec.ImageRepositoryRef})
		}
	case "image.toolkit.fluxcd.io ImageRepository":
		var spec struct {
			Image     string    `json:"image"`
			SecretRef Reference `json:"secretRef"`
		}
		if json.Unmarshal(d.Spec, &spec) == nil {
			o.Repositories = append(o.Repositories, Repository{head, spec.Image, spec.SecretRef.Name})
		}
	case "source.toolkit.fluxcd.io GitRepository":
		var spec struct {
			URL       string    `json:"url"`
			SecretRef Reference `json:"secretRef"`
			Ref       struct {
				Branch string `json:"branch"`
			} `json:"ref"`
		}
		if json.Unmarshal(d.Spec, &spec) == nil {
			o.Sources = append(o.Sources, Source{head, spec.URL, spec.Ref.Branch, spec.SecretRef.Name})
		}
	}
}

// Writers are the automations that would write a policy's markers in a file of
// the repository at a URL: not suspended, of the policy's namespace, with the
// file below their path, and with the policy among those that they select. A
// policy that is nowhere in the repository has none: Flux writes no marker
// without its ImagePolicy.
func (o *Objects) Writers(policy marker.Policy, file, url string) []Update {
	return slices.DeleteFunc(o.editors(policy, file, url), func(u Update) bool { return u.Spec.Suspend })
}

// Resting are the automations that would be Writers were they not suspended.
func (o *Objects) Resting(policy marker.Policy, file, url string) []Update {
	return slices.DeleteFunc(o.editors(policy, file, url), func(u Update) bool { return !u.Spec.Suspend })
}

func (o *Objects) editors(policy marker.Policy, file, url string) []Update {
	var editors []Update
	for _, update := range o.Updates {
		if !same(update.Namespace, policy.Namespace) || !covers(update, file) || o.elsewhere(update, url) {
			continue
		}
		if slices.ContainsFunc(o.Policies, func(p Policy) bool {
			return p.Name == policy.Name && same(p.Namespace, policy.Namespace) && selects(update, p)
		}) {
			editors = append(editors, update)
		}
	}
	return editors
}

// Of are the objects that only serve a policy: itself, and its ImageRepository
// unless another policy uses that.
func (o *Objects) Of(policy marker.Policy) []Object {
	var all []Object
	for _, p := range o.Policies {
		if p.Name != policy.Name || !same(p.Namespace, policy.Namespace) {
			continue
		}
		all = append(all, p.Object)
		shared := slices.ContainsFunc(o.Policies, func(other Policy) bool {
			return other.Repository == p.Repository && (other.Name != p.Name || other.Namespace != p.Namespace)
		})
		if repository, found := o.RepositoryOf(p); found && !shared {
			all = append(all, repository.Object)
		}
	}
	return all
}

// RepositoryOf is the ImageRepository that a policy chooses from.
func (o *Objects) RepositoryOf(p Policy) (Repository, bool) {
	namespace := p.Repository.Namespace
	if namespace == "" {
		namespace = p.Namespace
	}
	for _, r := range o.Repositories {
		if r.Name == p.Repository.Name && same(r.Namespace, namespace) {
			return r, true
		}
	}
	return Repository{}, false
}

// SourceOf is the GitRepository that an automation commits to.
func (o *Objects) SourceOf(u Update) (Source, bool) {
	namespace := u.Spec.SourceRef.Namespace
	if namespace == "" {
		namespace = u.Namespace
	}
	for _, s := range o.Sources {
		if s.Name == u.Spec.SourceRef.Name && same(s.Namespace, namespace) {
			return s, true
		}
	}
	return Source{}, false
}

// elsewhere tells whether an automation is known to commit to another
// repository. Two URLs of one repository have their path in common.
func (o *Objects) elsewhere(u Update, url string) bool {
	source, found := o.SourceOf(u)
	return found && repositoryPath(source.URL) != repositoryPath(url)
}

func repositoryPath(url string) string {
	_, rest, ok := strings.Cut(url, "://")
	if ok {
		_, rest, _ = strings.Cut(rest, "/")
	} else {
		_, rest, _ = strings.Cut(url, ":") // git@host:path
	}
	return strings.ToLower(strings.TrimSuffix(strings.Trim(rest, "/"), ".git"))
}

func covers(u Update, file string) bool {
	if u.Spec.Update == nil || u.Spec.Update.Path == "" {
		return true
	}
	dir := strings.TrimPrefix(path.Clean("/"+u.Spec.Update.Path), "/")
	return dir == "" || file == dir || strings.HasPrefix(file, dir+"/")
}

func selects(u Update, p Policy) bool {
	if u.Spec.PolicySelector == nil {
		return true
	}
	selector, err := metav1.LabelSelectorAsSelector(u.Spec.PolicySelector)
	return err != nil || selector.Matches(labels.Set(p.Labels))
}

func same(a, b string) bool { return a == b || a == "" || b == "" }

package marker

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"towpath.dev/towpath/gitops"
)

// names gives values their paths. Documents, and the items of lists, are
// known by what they are called where that is unique, so that a path stays
// when something is inserted before.
type names struct {
	documents []string // what each document is called
	document  int      // the one at hand
	lists     map[*yaml.Node][]string
}

// of names the documents of a file.
func (n *names) of(documents []*yaml.Node) {
	n.lists = make(map[*yaml.Node][]string)
	roots := make([]*yaml.Node, len(documents))
	for i, document := range documents {
		if len(document.Content) == 1 {
			roots[i] = document.Content[0]
		}
	}
	n.documents = unique(roots, objectName, func(i int) string { return fmt.Sprintf("doc %d", i) })
}

// maxPath is how long a path is spelled out, in bytes. Only a file that was made
// to hurt has a longer one: a thousand markers below some hundred long keys.
const maxPath = 512

// path spells the way down a trail. Siblings share the way to their parent, so
// it is kept in the trail's steps.
func (n *names) path(trail []step) string {
	path, known := n.documents[n.document]+" ", len(trail)
	for known > 0 && trail[known-1].path == "" {
		known--
	}
	if known > 0 {
		path = trail[known-1].path
	}
	for i := known; i < len(trail); i++ {
		s := &trail[i]
		if s.parent.Kind == yaml.SequenceNode {
			path += "/" + n.items(s.parent)[s.index]
		} else {
			path += "/" + keyName(s.parent.Content[s.index-1], s.index/2)
		}
		path = fold(path)
		s.path = path
	}
	if len(trail) == 0 {
		path += "/"
	}
	return path
}

// fold shortens a path that is too long to how it begins and a digest, which
// tells it apart from others.
func fold(path string) string {
	if len(path) <= maxPath {
		return path
	}
	sum := sha256.Sum256([]byte(path))
	return strings.ToValidUTF8(path[:maxPath/4], "") + "…" + hex.EncodeToString(sum[:16])
}

// items names the items of a list, once.
func (n *names) items(list *yaml.Node) []string {
	if known, ok := n.lists[list]; ok {
		return known
	}
	n.lists[list] = unique(list.Content, func(item *yaml.Node) string {
		name := objectName(item) // of kind: List
		if name == "" {
			name = clean(scalarAt(item, "name")) // containers, ports, images of a kustomization
		}
		if name == "" {
			return ""
		}
		return "[" + name + "]"
	}, strconv.Itoa)
	return n.lists[list]
}

// number tells sites apart that would share a path, as under a duplicate key.
func (n *names) number(sites []Site) {
	seen := make(map[string]int)
	for _, site := range sites {
		seen[site.Path] = 1
	}
	if len(seen) == len(sites) {
		return
	}
	used := make(map[string]bool)
	for i := range sites {
		path := sites[i].Path
		for used[sites[i].Path] {
			seen[path]++
			sites[i].Path = fmt.Sprintf("%s#%d", path, seen[path])
		}
		used[sites[i].Path] = true
	}
}

// unique gives each node the name that it has to itself, or one by its place.
func unique(nodes []*yaml.Node, name func(*yaml.Node) string, place func(int) string) []string {
	all := make([]string, len(nodes))
	count := make(map[string]int)
	for i, node := range nodes {
		all[i] = name(node)
		count[all[i]]++
	}
	for i, s := range all {
		if s == "" || count[s] > 1 {
			all[i] = place(i)
		}
	}
	return all
}

// objectName is what Kubernetes calls an object, "Deployment.apps prod/podinfo";
// empty if the node is none. The API's version is left out: it changes while
// the object stays.
func objectName(n *yaml.Node) string {
	kind, name := scalarAt(n, "kind"), scalarAt(n, "metadata", "name")
	if kind == "" || name == "" {
		return ""
	}
	if group, _, ok := strings.Cut(scalarAt(n, "apiVersion"), "/"); ok {
		kind += "." + group
	}
	if namespace := scalarAt(n, "metadata", "namespace"); namespace != "" {
		name = namespace + "/" + name
	}
	return clean(kind + " " + name)
}

// scalarAt is the scalar that the keys lead to; empty if there is none, and if
// it may have a marker: what an edit can change is no name.
func scalarAt(n *yaml.Node, keys ...string) string {
	for _, key := range keys {
		if n == nil || n.Kind != yaml.MappingNode {
			return ""
		}
		var found *yaml.Node
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
				found = n.Content[i+1]
				break
			}
		}
		n = found
	}
	if n == nil || n.Kind != yaml.ScalarNode || alludes([]byte(n.LineComment)) || alludes([]byte(n.HeadComment)) {
		return ""
	}
	return n.Value
}

// keyName spells a mapping's key as a JSON pointer does (RFC 6901).
func keyName(key *yaml.Node, place int) string {
	if key.Kind != yaml.ScalarNode {
		return fmt.Sprintf("?%d", place)
	}
	return clean(strings.NewReplacer("~", "~0", "/", "~1").Replace(key.Value))
}

// clean makes a name from a file fit for a path that people see.
func clean(s string) string { return gitops.Line(s, 200) }

package marker

import (
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

// path spells the way down a trail.
func (n *names) path(trail []step) string {
	var b strings.Builder
	b.WriteString(n.documents[n.document])
	b.WriteByte(' ')
	for _, s := range trail {
		b.WriteByte('/')
		if s.parent.Kind == yaml.SequenceNode {
			b.WriteString(n.items(s.parent)[s.index])
			continue
		}
		b.WriteString(keyName(s.parent.Content[s.index-1], s.index/2))
	}
	if len(trail) == 0 {
		b.WriteByte('/')
	}
	return b.String()
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

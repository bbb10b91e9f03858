package marker_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/gitops/marker"
)

func TestParsePolicy(t *testing.T) {
	t.Parallel()
	got, err := marker.ParsePolicy("flux-system:podinfo.v2")
	if want := (marker.Policy{Namespace: "flux-system", Name: "podinfo.v2"}); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "podinfo", ":podinfo", "ns:", "ns:name:tag", "Ns:name", "ns:-name", "ns/name", "ns:na me", "ns:name\n", "ns:" + strings.Repeat("x", 254)} {
		if got, err := marker.ParsePolicy(bad); err == nil {
			t.Errorf("%q became %v", bad, got)
		}
	}
}

func TestText(t *testing.T) {
	t.Parallel()
	value := marker.Value{Name: "registry.example.com:5000/a/b", Tag: "v1", Digest: digest}
	pinned := value
	pinned.Pin = true
	for _, test := range []struct {
		value       marker.Value
		field, want string
	}{
		{value, marker.FieldImage, "registry.example.com:5000/a/b:v1"},
		{pinned, marker.FieldImage, "registry.example.com:5000/a/b:v1@" + digest},
		{pinned, marker.FieldTag, "v1"}, // Flux, too, leaves the digest out here
		{value, marker.FieldName, "registry.example.com:5000/a/b"},
		{value, marker.FieldDigest, digest},
		{value, "version", ""},
	} {
		if got := test.value.Text(test.field); got != test.want {
			t.Errorf("%q of %+v: got %q, want %q", test.field, test.value, got, test.want)
		}
	}
}

func TestSplit(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][3]string{
		"registry.example.com:5000/a/b:v1@sha256:00": {"registry.example.com:5000/a/b", "v1", "sha256:00"},
		"registry.example.com:5000/a/b":              {"registry.example.com:5000/a/b", "", ""},
		"a/b@sha256:00":                              {"a/b", "", "sha256:00"},
		"podinfo:v1":                                 {"podinfo", "v1", ""},
		"podinfo":                                    {"podinfo", "", ""},
		"":                                           {"", "", ""},
		":@":                                         {"", "", ""},
	} {
		name, tag, digest := marker.Split(text)
		if got := [3]string{name, tag, digest}; got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestMentions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"":                                     false,
		"#":                                    false,
		`image: x # {"$imagepolicy": "a:b"}`:   true,
		"a: b\r# image_policy\r":               true,
		"a: b # $imagepolcy":                   true,
		"kind: ImagePolicy":                    false,
		"kind: ImagePolicy # flux":             false,
		"imagePullPolicy: Always # not now":    false,
		"a: b # imagePullPolicy":               false,
		"# x\nkind: ImagePolicy\n# policy\nb:": false,
		"# x\nkind: X #\n# {'Image-Policy'":    true,
	} {
		if got := marker.Mentions([]byte(text)); got != want {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// TestEditRefusesValues: what is no image is written nowhere, whatever a
// policy is said to want.
func TestEditRefusesValues(t *testing.T) {
	t.Parallel()
	good := wanted[podinfo]
	for _, test := range []struct {
		field  string
		change func(*marker.Value)
		want   string
	}{
		{"", func(v *marker.Value) { v.Name = "" }, `"" is no image name`},
		{"", func(v *marker.Value) { v.Name = "a\nb" }, `"a b" is no image name`},
		{"", func(v *marker.Value) { v.Name = "a: b" }, `"a: b" is no image name`},
		{"", func(v *marker.Value) { v.Name = "x #" }, `"x #" is no image name`},
		{"", func(v *marker.Value) { v.Name = `a"b` }, `"a\"b" is no image name`},
		{"", func(v *marker.Value) { v.Name = "&a" }, `"&a" is no image name`},
		{"", func(v *marker.Value) { v.Name = "a:" }, `"a:" is no image name`},
		{"", func(v *marker.Value) { v.Tag = "" }, `"" is no image tag`},
		{":tag", func(v *marker.Value) { v.Tag = "-x" }, `"-x" is no image tag`},
		{":tag", func(v *marker.Value) { v.Tag = "a/b" }, `"a/b" is no image tag`},
		{":tag", func(v *marker.Value) { v.Tag = strings.Repeat("x", 129) }, ""},
		{":digest", func(v *marker.Value) { v.Digest = "" }, `"" is no digest`},
		{":digest", func(v *marker.Value) { v.Digest = "sha256:xyz" }, `"sha256:xyz" is no digest`},
		{"", func(v *marker.Value) { v.Digest = "" }, `"" is no digest`},
	} {
		value := good
		test.change(&value)
		src := fmt.Sprintf("a: x\nb: x # {\"$imagepolicy\": \"flux-system:podinfo%s\"}\n", test.field)
		out, changes, err := marker.Edit([]byte(src), map[marker.Policy]marker.Value{podinfo: value})
		if err == nil || out != nil || changes != nil {
			t.Errorf("%+v: wrote %q", value, out)
			continue
		}
		if !strings.HasPrefix(err.Error(), "marker of flux-system:podinfo in line 2: ") || !strings.HasSuffix(err.Error(), test.want) {
			t.Errorf("%+v: %v", value, err)
		}
		if left := new(marker.Error); errors.As(err, &left) {
			t.Errorf("a wrong value is reported as the file's fault: %v", err)
		}
	}
	// A value that no marker asks for may be missing.
	value := marker.Value{Tag: "v2"}
	out, _, err := marker.Edit([]byte("b: x # {\"$imagepolicy\": \"flux-system:podinfo:tag\"}\n"), map[marker.Policy]marker.Value{podinfo: value})
	if want := "b: v2 # {\"$imagepolicy\": \"flux-system:podinfo:tag\"}\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v", out, err)
	}
}

// TestEditChanges: what was changed is told with what was there.
func TestEditChanges(t *testing.T) {
	t.Parallel()
	const src = "kind: A\nmetadata: {name: b}\nimages:\n- name: c\n  tag: 'v1' # {\"$imagepolicy\": \"flux-system:podinfo:tag\"}\n"
	_, got, err := marker.Edit([]byte(src), wanted)
	if err != nil {
		t.Fatal(err)
	}
	want := []marker.Change{{
		Site: marker.Site{Policy: podinfo, Field: "tag", Path: "A b /images/[c]/tag", Line: 5, Value: "v1"},
		Old:  "v1",
		New:  "master-8b07d4aa0c11-1763750000",
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestPathsStay: a path names the same value in the next version of a file,
// though documents, list items and values changed around it.
func TestPathsStay(t *testing.T) {
	t.Parallel()
	paths := func(src string) []string {
		f, err := marker.Parse([]byte(src))
		if err != nil {
			t.Fatalf("%v\n%s", err, src)
		}
		var all []string
		for _, s := range f.Sites() {
			all = append(all, s.Path)
		}
		return all
	}
	before := paths("apiVersion: apps/v1beta1\nkind: Deployment\nmetadata:\n  name: a\nspec:\n  containers:\n  - name: main\n    image: x" + mark)
	after := paths("kind: Namespace\nmetadata: {name: n}\n---\nkind: Deployment\nmetadata: {labels: {}, name: a}\n" +
		"spec:\n  containers:\n  - name: sidecar\n    image: y" + mark + "  - image: 'z'" + mark + "    name: main\napiVersion: apps/v1\n")
	want := "Deployment.apps a /spec/containers/[main]/image"
	if len(before) != 1 || len(after) != 2 || before[0] != want || after[1] != want {
		t.Errorf("before %q, after %q", before, after)
	}
}

// TestProblemsOfOthers: what concerns nobody of ours is nobody's problem.
func TestProblemsOfOthers(t *testing.T) {
	t.Parallel()
	src := []byte(`a: x # {"$imagePolicy": "other:podinfo"}
b: x # {"$imagepolicy": "podinfo"}
c: x # {"$imagepolicy": "flux-system/podinfo"}
d: |- # {"$imagepolicy": "other:podinfo"}
  x
`)
	f, err := marker.Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	var lines []int
	for _, p := range f.Problems(marker.Among(podinfo)) {
		lines = append(lines, p.Line)
	}
	if diff := cmp.Diff([]int{2, 3}, lines); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := f.Problems(marker.Among(numbers)); got != nil {
		t.Errorf("not ours: %v", got)
	}
}

func TestErrorHasAHint(t *testing.T) {
	t.Parallel()
	_, _, err := marker.Edit([]byte("a: |- # {\"$imagepolicy\": \"flux-system:podinfo\"}\n  x\n"), wanted)
	var hinted interface{ Hint() string }
	if !errors.As(err, &hinted) || hinted.Hint() == "" {
		t.Errorf("no hint in %v", err)
	}
}

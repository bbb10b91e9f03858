package marker_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"towpath.dev/towpath/gitops/marker"
)

var update = flag.Bool("update", false, "write what came out into testdata; read the diff before you believe it")

// The policies that every golden file is edited for. Whatever else it names is
// somebody else's.
var (
	podinfo = marker.Policy{Namespace: "flux-system", Name: "podinfo"}
	numbers = marker.Policy{Namespace: "flux-system", Name: "numbers"}
	ours    = marker.Among(podinfo, numbers)

	digest = "sha256:" + strings.Repeat("0123456789abcdef", 4)
	wanted = map[marker.Policy]marker.Value{
		podinfo: {Name: "registry.example.com/apps/podinfo", Tag: "master-8b07d4aa0c11-1763750000", Digest: digest, Pin: true},
		numbers: {Name: "registry.example.com/apps/numbers", Tag: "553640e6", Digest: digest},
	}
)

// Characters that editors would spoil are spelled out in the golden files.
var spelled = []string{
	"<CR>", "\r", "<NEL>", "\u0085", "<LS>", "\u2028", "<PS>", "\u2029", "<BOM>", "\uFEFF", "<TAB>", "\t",
}

func unspell(s []byte) []byte {
	text := strings.NewReplacer(spelled...).Replace(string(s))
	return []byte(strings.ReplaceAll(text, "<EOF>\n", ""))
}

func spell(s []byte) []byte {
	var reversed []string
	for i := 0; i < len(spelled); i += 2 {
		reversed = append(reversed, spelled[i+1], spelled[i])
	}
	text := strings.NewReplacer(reversed...).Replace(string(s))
	if !strings.HasSuffix(text, "\n") {
		text += "<EOF>\n"
	}
	return []byte(text)
}

// TestEdit edits testdata/edit: each file holds in.yaml and what must come of
// it: out.yaml (left out: unchanged), the sites, the problems, and the error
// that leaves the file alone.
func TestEdit(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/edit/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, path := range paths {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if len(archive.Files) == 0 || archive.Files[0].Name != "in.yaml" {
				t.Fatal("no in.yaml")
			}
			in := unspell(archive.Files[0].Data)
			got := &txtar.Archive{Comment: archive.Comment, Files: append(archive.Files[:1:1], outcome(t, in)...)}
			if *update {
				if err := os.WriteFile(path, txtar.Format(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(txtar.Format(archive)), string(txtar.Format(got))); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// outcome is everything that the package says about a file.
func outcome(t *testing.T, in []byte) []txtar.File {
	t.Helper()
	var files []txtar.File
	add := func(name string, data []byte) {
		if len(data) > 0 {
			files = append(files, txtar.File{Name: name, Data: data})
		}
	}
	f, err := marker.Parse(in)
	if f == nil {
		t.Fatal("no file")
	}
	var sites, problems strings.Builder
	others := 0
	for _, s := range f.Sites() {
		if !ours(s.Policy) {
			others++
		}
		fmt.Fprintf(&sites, "%d: %s field=%q %s = %q\n", s.Line, s.Policy, s.Field, s.Path, s.Value)
	}
	for _, p := range f.Problems(ours) {
		fmt.Fprintf(&problems, "%d: %s\n", p.Line, p.Text)
	}
	if others > 0 {
		fmt.Fprintf(&sites, "others: %d\n", others)
	}
	out, changes, editErr := marker.Edit(in, wanted)
	switch {
	case err != nil:
		if editErr == nil || editErr.Error() != err.Error() {
			t.Errorf("Parse says %v, Edit says %v", err, editErr)
		}
		add("error", []byte(err.Error()+"\n"))
	case editErr != nil:
		add("error", []byte(editErr.Error()+"\n"))
	case string(out) != string(in):
		add("out.yaml", spell(out))
		if len(changes) == 0 {
			t.Error("the file changed, and no value did")
		}
	case len(changes) > 0:
		t.Errorf("nothing changed but %v", changes)
	}
	if editErr != nil && (out != nil || changes != nil) {
		t.Error("something is returned beside the error")
	}
	add("sites", []byte(sites.String()))
	add("problems", []byte(problems.String()))
	return files
}

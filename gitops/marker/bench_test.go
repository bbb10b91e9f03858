package marker_test

import (
	"os"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"towpath.dev/towpath/gitops/marker"
)

func manifest(b *testing.B) []byte {
	b.Helper()
	data, err := os.ReadFile("testdata/edit/deployment.txtar")
	if err != nil {
		b.Fatal(err)
	}
	return txtar.Parse(data).Files[0].Data
}

// BenchmarkMentions screens files that have no marker, as most have none.
func BenchmarkMentions(b *testing.B) {
	src := []byte(strings.Repeat(strings.ReplaceAll(string(manifest(b)), "$imagepolicy", "$other"), 4))
	b.SetBytes(int64(len(src)))
	for b.Loop() {
		if marker.Mentions(src) {
			b.Fatal("mentions")
		}
	}
}

func BenchmarkParse(b *testing.B) {
	src := manifest(b)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if f, err := marker.Parse(src); err != nil || len(f.Sites()) != 2 {
			b.Fatal(err)
		}
	}
}

func BenchmarkEdit(b *testing.B) {
	src := manifest(b)
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, changes, err := marker.Edit(src, wanted); err != nil || len(changes) != 1 {
			b.Fatal(err)
		}
	}
}

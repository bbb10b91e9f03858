package store_test

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

// fleetOf fills a repository with n YAML files in nested directories, and
// pushes.
func fleetOf(b *testing.B, n int) (*place, gitops.Hash) {
	b.Helper()
	p := newPlace(b)
	files := map[string]string{}
	for i := range n {
		var f strings.Builder
		fmt.Fprintf(&f, "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: app-%d\nspec:\n  replicas: %d\n", i, i%9)
		for line := range 30 {
			fmt.Fprintf(&f, "  key%d: value-%d\n", line, i*line*7919%100003)
		}
		files[fmt.Sprintf("clusters/c%d/apps/a%d/f%d.yaml", i%10, i%500, i)] = f.String()
	}
	tip := p.Commit(lab.Commit{Files: files})
	p.Push()
	lab.RunGit(b, p.bare(), "repack", "-adq")
	return p, hash(b, tip)
}

// BenchmarkCold fetches 10,000 files into an empty copy and reads every blob.
func BenchmarkCold(b *testing.B) {
	p, tip := fleetOf(b, 10_000)
	var names []gitops.Hash
	for h := range leaves(b, p.bare(), tip.String()) {
		names = append(names, h)
	}
	b.Run("store", func(b *testing.B) {
		remote := p.remote(b)
		for b.Loop() {
			s := openStore(b, b.TempDir(), remote)
			if err := s.Fetch(context.Background(), []gitops.Hash{tip}, 1); err != nil {
				b.Fatal(err)
			}
			n := 0
			err := s.Blobs(context.Background(), names, func(gitops.Hash, []byte) error { n++; return nil })
			if err != nil || n != len(names) {
				b.Fatal(n, err)
			}
			s.Close()
		}
	})
	b.Run("fetch", func(b *testing.B) {
		remote := p.remote(b)
		for b.Loop() {
			s := openStore(b, b.TempDir(), remote)
			if err := s.Fetch(context.Background(), []gitops.Hash{tip}, 1); err != nil {
				b.Fatal(err)
			}
			s.Close()
		}
	})
	b.Run("git", func(b *testing.B) {
		for b.Loop() {
			if out, err := exec.Command("git", "clone", "--quiet", "--bare", "--depth=1", p.url, b.TempDir()).CombinedOutput(); err != nil {
				b.Fatal(err, string(out))
			}
		}
	})
}

// BenchmarkWarm fetches one small commit on top of 10,000 files, asks how it
// stands to the one before, and reads one changed file.
func BenchmarkWarm(b *testing.B) {
	p, tip := fleetOf(b, 10_000)
	s := openStore(b, b.TempDir(), p.remote(b))
	if err := s.Fetch(context.Background(), []gitops.Hash{tip}, 1); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		next := hash(b, p.Commit(lab.Commit{Files: map[string]string{"clusters/c1/apps/a1/f1.yaml": fmt.Sprint("round ", i, "\n")}}))
		p.Push()
		b.StartTimer()
		if err := s.Fetch(context.Background(), []gitops.Hash{next}, 0); err != nil {
			b.Fatal(err)
		}
		if relation, err := s.Relation(context.Background(), tip, next); err != nil || relation != gitops.Ahead {
			b.Fatal(relation, err)
		}
		if _, err := s.Commit(next); err != nil {
			b.Fatal(err)
		}
		tip = next
	}
}

package lab

import (
	"os"
	"path/filepath"
	"testing"
)

// Mount lays out a secret as Kubernetes mounts it, or swaps the one that is
// there for a new generation: keys are symlinks through ..data, a symlink that
// is replaced in one step.
func (w *World) Mount(t testing.TB, name string, keys map[string][]byte) {
	t.Helper()
	dir := filepath.Join(w.Dir, "secrets", name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	generation, err := os.MkdirTemp(dir, "..generation-")
	if err != nil {
		t.Fatal(err)
	}
	for key, value := range keys {
		WriteFile(t, filepath.Join(generation, key), value)
	}
	data := filepath.Join(dir, "..data")
	former, err := os.Readlink(data)
	if err != nil {
		former = ""
	}
	if err := os.Symlink(filepath.Base(generation), data+"_tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(data+"_tmp", data); err != nil {
		t.Fatal(err)
	}
	for key := range keys {
		link := filepath.Join(dir, key)
		if _, err := os.Lstat(link); err == nil {
			continue
		}
		if err := os.Symlink(filepath.Join("..data", key), link); err != nil {
			t.Fatal(err)
		}
	}
	if former != "" {
		if err := os.RemoveAll(filepath.Join(dir, former)); err != nil {
			t.Fatal(err)
		}
	}
}

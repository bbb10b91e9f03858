package lab

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/gzip"
)

// archive is a layer while it is written. Every time in it is zero, so that the
// same files make the same layer.
type archive struct {
	t   testing.TB
	tar *tar.Writer
}

// add writes one entry.
func (a *archive) add(header tar.Header, content io.Reader) {
	a.t.Helper()
	header.ModTime, header.Format = time.Unix(0, 0), tar.FormatPAX
	if err := a.tar.WriteHeader(&header); err != nil {
		a.t.Fatal(err)
	}
	if content == nil {
		return
	}
	if _, err := io.Copy(a.tar, content); err != nil {
		a.t.Fatalf("%s: %v", header.Name, err)
	}
}

func (a *archive) dir(name string, mode int64) {
	a.t.Helper()
	a.add(tar.Header{Typeflag: tar.TypeDir, Name: strings.TrimSuffix(name, "/") + "/", Mode: mode}, nil)
}

func (a *archive) file(name string, content []byte) {
	a.t.Helper()
	a.regular(name, 0o644, content)
}

func (a *archive) program(name string, content []byte) {
	a.t.Helper()
	a.regular(name, 0o755, content)
}

func (a *archive) regular(name string, mode int64, content []byte) {
	a.t.Helper()
	a.add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))}, bytes.NewReader(content))
}

// tree writes what is below dir to below prefix, owners and modes kept. What
// skip names, by its path below dir, is left out with all below it; devices
// and sockets are left out too.
func (a *archive) tree(dir, prefix string, skip func(path string) bool) {
	a.t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		below, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if skip(below) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if below == "." {
			return nil
		}
		link := ""
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			if link, err = os.Readlink(path); err != nil {
				return err
			}
		case !info.Mode().IsRegular() && !info.IsDir():
			return nil
		}
		header, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		header.Name = filepath.ToSlash(filepath.Join(prefix, below))
		header.Uname, header.Gname = "", ""
		header.AccessTime, header.ChangeTime = time.Time{}, time.Time{}
		switch header.Typeflag {
		case tar.TypeDir:
			header.Name += "/"
			a.add(*header, nil)
		case tar.TypeSymlink:
			a.add(*header, nil)
		default:
			file, err := os.Open(path)
			if err != nil {
				return err
			}
			defer file.Close()
			a.add(*header, file)
		}
		return nil
	})
	if err != nil {
		a.t.Fatal(err)
	}
}

// newLayer makes a small layer in memory.
func newLayer(t testing.TB, fill func(*archive)) v1.Layer {
	t.Helper()
	var content bytes.Buffer
	a := &archive{t, tar.NewWriter(&content)}
	fill(a)
	if err := a.tar.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// keptLayer makes a layer that is large, or slow to make, once for a machine:
// it lies beside the tools, and is made again when what it is of has changed.
// Layers that no test asked for in a week are removed.
func keptLayer(t testing.TB, kind, of string, fill func(*archive)) v1.Layer {
	t.Helper()
	dir := filepath.Join(filepath.Dir(ToolDir()), "bases")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(of))
	path := filepath.Join(dir, fmt.Sprintf("%s-%x.tar.gz", kind, sum[:8]))
	if !Exists(path) {
		t.Logf("making the layer %s, once for this machine", filepath.Base(path))
		made, err := os.CreateTemp(dir, ".making-*")
		if err != nil {
			t.Fatal(err)
		}
		defer os.Remove(made.Name()) // fails once it has its name
		defer made.Close()
		compressed, err := gzip.NewWriterLevel(made, gzip.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		a := &archive{t, tar.NewWriter(compressed)}
		fill(a)
		for _, finish := range []func() error{a.tar.Close, compressed.Close, made.Close, func() error { return os.Rename(made.Name(), path) }} {
			if err := finish(); err != nil {
				t.Fatal(err)
			}
		}
	}
	now := time.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		t.Fatal(err)
	}
	forget(t, dir, now.Add(-7*24*time.Hour))
	layer, err := tarball.LayerFromFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// forget removes the files of a directory that are older than a time.
func forget(t testing.TB, dir string, than time.Time) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.ModTime().Before(than) {
			_ = os.Remove(filepath.Join(dir, entry.Name())) // somebody else may have
		}
	}
}

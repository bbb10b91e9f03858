package sandbox_test

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"towpath.dev/towpath/e2e/lab"
)

func newTar(r io.Reader) *tar.Reader { return tar.NewReader(r) }

var bases struct {
	once    sync.Once
	archive []byte // a Docker archive, which is what kaniko looks for
	digest  string
	err     error
}

// writeBase puts the base image into a directory of bases and returns its
// digest. It is lab's busybox with the probe: a static program that tries what a
// hostile step would try.
func writeBase(t *testing.T, dir string) string {
	t.Helper()
	bases.once.Do(func() { bases.archive, bases.digest, bases.err = archiveBase(t) })
	if bases.err != nil {
		t.Fatal(bases.err)
	}
	lab.WriteFile(t, filepath.Join(dir, bases.digest), bases.archive)
	return bases.digest
}

func archiveBase(t *testing.T) ([]byte, string, error) {
	image, err := makeBase(t)
	if err != nil {
		return nil, "", err
	}
	digest, err := image.Digest()
	if err != nil {
		return nil, "", err
	}
	tag, err := name.NewTag("registry.example.com/base:pinned")
	if err != nil {
		return nil, "", err
	}
	var archive bytes.Buffer
	err = tarball.Write(tag, image, &archive)
	return archive.Bytes(), digest.String(), err
}

func makeBase(t *testing.T) (v1.Image, error) {
	dir, err := os.MkdirTemp("", "probe")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "probe"), "./testdata/probe")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		t.Logf("%s", output)
		return nil, err
	}
	program, err := os.ReadFile(filepath.Join(dir, "probe"))
	if err != nil {
		return nil, err
	}
	var rootfs bytes.Buffer
	archive := tar.NewWriter(&rootfs)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/probe", Mode: 0o755, Size: int64(len(program))}); err != nil {
		return nil, err
	}
	if _, err := archive.Write(program); err != nil {
		return nil, err
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(rootfs.Bytes())), nil })
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(lab.Busybox(t), layer)
}

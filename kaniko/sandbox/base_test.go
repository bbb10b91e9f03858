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

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"towpath.dev/towpath/e2e/lab"
)

func newTar(r io.Reader) *tar.Reader { return tar.NewReader(r) }

var probe struct {
	once  sync.Once
	image v1.Image
	err   error
}

// baseImage is lab's busybox with the probe: a static program that tries what a
// hostile step would try.
func baseImage(t *testing.T) v1.Image {
	t.Helper()
	probe.once.Do(func() { probe.image, probe.err = makeBase(t) })
	if probe.err != nil {
		t.Fatal(probe.err)
	}
	return probe.image
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

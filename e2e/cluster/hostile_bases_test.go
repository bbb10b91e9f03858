//go:build cluster

package cluster

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

var thieves struct {
	sync.Mutex
	dir   string // of the programs; it lives as long as the cluster
	image v1.Image
}

// thief is lab's busybox with two programs that try what a hostile RUN step would:
// testdata/thief, and the probe of the sandbox's tests.
func thief(t *testing.T) v1.Image {
	t.Helper()
	thieves.Lock()
	defer thieves.Unlock()
	if thieves.image != nil {
		return thieves.image
	}
	if err := host.Run(func(host testing.TB) { thieves.dir = host.TempDir() }); err != nil {
		t.Fatal(err)
	}
	var programs []entry
	for _, name := range []string{"thief", "probe"} {
		from := map[string]string{"thief": "e2e/cluster/testdata/thief", "probe": "kaniko/sandbox/testdata/probe"}[name]
		path := filepath.Join(thieves.dir, name)
		build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "towpath.dev/towpath/"+from)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("go build %s: %v\n%s", name, err, out)
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		programs = append(programs, entry{tar.Header{Name: "bin/" + name, Mode: 0o755}, string(content)})
	}
	thieves.image = layered(t, lab.Busybox(t), programs...)
	return thieves.image
}

// thiefProgram is the program on this machine.
func thiefProgram(t *testing.T) string {
	t.Helper()
	thief(t)
	return filepath.Join(thieves.dir, "thief")
}

// entry is one of an archive; its type is that of a file unless the header says
// otherwise.
type entry struct {
	tar.Header
	content string
}

// archive is a tar archive of entries, whatever they are called.
func archive(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var content bytes.Buffer
	writer := tar.NewWriter(&content)
	for _, e := range entries {
		e.Size = int64(len(e.content))
		if e.Mode == 0 {
			e.Mode = 0o644
		}
		if err := writer.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := writer.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

// layered is an image with one more layer.
func layered(t *testing.T, base v1.Image, entries ...entry) v1.Image {
	t.Helper()
	content := archive(t, entries...)
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// withOnbuild is a base whose instructions are carried out by whoever builds on it.
func withOnbuild(t *testing.T, base v1.Image) v1.Image {
	t.Helper()
	file, err := base.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	file.Config.OnBuild = []string{"COPY own /own", "RUN thief loot /loot && thief absent /secrets /order /build && echo onbuild > /carried-out"}
	image, err := mutate.ConfigFile(base, file)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

// climbing are entries of an archive whose names lead out of where it is unpacked.
func climbing() []entry {
	return []entry{
		{tar.Header{Name: "harmless"}, "harmless"},
		{tar.Header{Name: "../../../../../../kaniko/.out/climbed"}, "out"},
	}
}

// linking are entries that lead there by links, or have the names of what is
// kaniko's.
func linking() []entry {
	return []entry{
		{tar.Header{Name: "kaniko/.out/image/index.json"}, `{"manifests": []}`},
		{tar.Header{Name: "kaniko/executor", Mode: 0o755}, "#!/bin/sh\necho BR''EACH\n"},
		{tar.Header{Name: "kaniko/.docker/config.json"}, `{"auths": {}}`},
		{tar.Header{Name: "through", Typeflag: tar.TypeSymlink, Linkname: "/kaniko/.out", Mode: 0o777}, ""},
		{tar.Header{Name: "through/link", Mode: 0o644}, "written through a link"},
		{tar.Header{Name: "up", Typeflag: tar.TypeSymlink, Linkname: "../../../../../../../../..", Mode: 0o777}, ""},
		{tar.Header{Name: "up/kaniko/.out/up"}, "written through another"},
		{tar.Header{Name: "setuid", Mode: 0o6777}, "#!/bin/sh\nid\n"},
		{tar.Header{Name: "etc/resolv.conf"}, "nameserver 6.6.6.6\n"},
		{tar.Header{Name: "etc/hosts"}, "6.6.6.6 evil.example.com\n"},
	}
}

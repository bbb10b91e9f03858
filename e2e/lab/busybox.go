package lab

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Busybox is a base image with a shell: Debian's static busybox under all of
// its names, a user and the usual empty directories.
func Busybox(t testing.TB) v1.Image {
	t.Helper()
	path := Tool(t, "busybox")
	program, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	list, err := exec.Command(path, "--list").Output()
	if err != nil {
		t.Fatalf("busybox --list: %v", err)
	}
	var rootfs bytes.Buffer
	archive := tar.NewWriter(&rootfs)
	entry := func(header tar.Header, content []byte) {
		header.Size = int64(len(content))
		if err := archive.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := archive.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"bin/", "etc/", "home/", "root/", "usr/", "usr/bin/", "var/"} {
		entry(tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: 0o755}, nil)
	}
	entry(tar.Header{Typeflag: tar.TypeDir, Name: "tmp/", Mode: 0o1777}, nil)
	entry(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home:/bin/sh\n"))
	entry(tar.Header{Typeflag: tar.TypeReg, Name: "etc/group", Mode: 0o644}, []byte("root:x:0:\napp:x:1000:\n"))
	entry(tar.Header{Typeflag: tar.TypeReg, Name: "bin/busybox", Mode: 0o755}, program)
	for _, applet := range strings.Fields(string(list)) {
		if applet != "busybox" {
			entry(tar.Header{Typeflag: tar.TypeSymlink, Name: "bin/" + applet, Linkname: "busybox", Mode: 0o777}, nil)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(rootfs.Bytes())), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, layer)
	if err != nil {
		t.Fatal(err)
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", "amd64"
	config.Config.Env = []string{"PATH=/bin:/usr/bin"}
	config.Config.Cmd = []string{"sh"}
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

// PushImage pushes an image over plain HTTP under a tag and returns the name
// that pins it: repository@sha256:….
func PushImage(t testing.TB, repository, tag string, image v1.Image) string {
	t.Helper()
	ref, err := name.NewTag(repository+":"+tag, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, image); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return repository + "@" + digest.String()
}

// ReadImageFile pulls an image over plain HTTP and returns one of its files.
func ReadImageFile(t testing.TB, ref, path string) string {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(parsed)
	if err != nil {
		t.Fatalf("pull %s: %v", ref, err)
	}
	flat := mutate.Extract(image)
	defer flat.Close()
	for archive := tar.NewReader(flat); ; {
		header, err := archive.Next()
		if err != nil {
			t.Fatalf("%s has no file %s: %v", ref, path, err)
		}
		if strings.TrimPrefix(header.Name, "/") == strings.TrimPrefix(path, "/") {
			content, err := io.ReadAll(archive)
			if err != nil {
				t.Fatal(err)
			}
			return string(content)
		}
	}
}

// ImageDigest asks the registry which manifest a tag or digest names.
func ImageDigest(t testing.TB, ref string) string {
	t.Helper()
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	found, err := remote.Head(parsed)
	if err != nil {
		t.Fatalf("%s: %v", ref, err)
	}
	return found.Digest.String()
}

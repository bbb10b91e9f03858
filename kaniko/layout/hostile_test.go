package layout_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko/layout"
)

func TestHostileLayouts(t *testing.T) {
	t.Parallel()
	outside := filepath.Join(t.TempDir(), "secret")
	write(t, outside, []byte("canary-2f6c1d9e"))
	must := func(t testing.TB, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	replace := func(t testing.TB, path string, with func() error) {
		t.Helper()
		must(t, os.RemoveAll(path))
		must(t, with())
	}
	var bomb bytes.Buffer
	packer := gzip.NewWriter(&bomb)
	_, _ = io.CopyN(packer, zeros{}, 64<<20)
	_ = packer.Close()

	tests := []struct {
		name    string
		limits  layout.Limits
		forge   func(t testing.TB, dir string)
		refusal string
	}{
		{name: "untouched"},
		{name: "forged digest file beside it", forge: func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "digest"), []byte("sha256:"+strings.Repeat("0", 64)))
		}},
		{name: "nothing there", refusal: "its directory: it is missing", forge: func(t testing.TB, dir string) { must(t, os.RemoveAll(dir)) }},
		{name: "directory is a symbolic link", refusal: "it is a symbolic link", forge: func(t testing.TB, dir string) {
			must(t, os.Rename(dir, dir+".real"))
			must(t, os.Symlink(dir+".real", dir))
		}},
		{name: "directory is a file", refusal: "it is a file, not a directory", forge: func(t testing.TB, dir string) {
			replace(t, dir, func() error { return os.WriteFile(dir, nil, 0o644) })
		}},
		{name: "blobs is a symbolic link", refusal: "blobs: it is a symbolic link", forge: func(t testing.TB, dir string) {
			must(t, os.Rename(filepath.Join(dir, "blobs"), filepath.Join(dir, "elsewhere")))
			must(t, os.Symlink("elsewhere", filepath.Join(dir, "blobs")))
		}},
		{name: "blobs/sha256 is an absolute link", refusal: "blobs/sha256: it is a symbolic link", forge: func(t testing.TB, dir string) {
			path := filepath.Join(dir, "blobs", "sha256")
			must(t, os.Rename(path, filepath.Join(dir, "elsewhere")))
			must(t, os.Symlink(filepath.Join(dir, "elsewhere"), path))
		}},
		{name: "index is a link out", refusal: "index.json: it is a symbolic link", forge: func(t testing.TB, dir string) {
			replace(t, filepath.Join(dir, "index.json"), func() error { return os.Symlink(outside, filepath.Join(dir, "index.json")) })
		}},
		{name: "index is a pipe", refusal: "index.json: it is a pipe", forge: func(t testing.TB, dir string) {
			replace(t, filepath.Join(dir, "index.json"), func() error { return syscall.Mkfifo(filepath.Join(dir, "index.json"), 0o644) })
		}},
		{name: "index is a directory", refusal: "index.json: it is a directory", forge: func(t testing.TB, dir string) {
			replace(t, filepath.Join(dir, "index.json"), func() error { return os.Mkdir(filepath.Join(dir, "index.json"), 0o755) })
		}},
		{name: "oci-layout is a socket", refusal: "oci-layout: it is a socket", forge: func(t testing.TB, dir string) {
			replace(t, filepath.Join(dir, "oci-layout"), func() error {
				return syscall.Mknod(filepath.Join(dir, "oci-layout"), syscall.S_IFSOCK|0o644, 0)
			})
		}},
		{name: "oci-layout is another version", refusal: "does not name layout version 1.0.0", forge: func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"2.0.0"}`))
		}},
		{name: "layer is a link to a secret", refusal: "it is a symbolic link", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				replace(t, w.blob(w.layer(0)), func() error { return os.Symlink(outside, w.blob(w.layer(0))) })
			})
		}},
		{name: "layer is a hard link", refusal: "2 hard links", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { must(t, os.Link(w.blob(w.layer(0)), filepath.Join(dir, "other"))) })
		}},
		{name: "layer is a pipe", refusal: "it is a pipe", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				replace(t, w.blob(w.layer(0)), func() error { return syscall.Mkfifo(w.blob(w.layer(0)), 0o644) })
			})
		}},
		{name: "layer is missing", refusal: "it is missing", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { must(t, os.Remove(w.blob(w.layer(0)))) })
		}},
		{name: "layer has another content", refusal: "its digest is sha256:", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				file, err := os.OpenFile(w.blob(w.layer(0)), os.O_WRONLY, 0)
				must(t, err)
				_, err = file.WriteAt([]byte{0xff}, 4)
				must(t, errors.Join(err, file.Close()))
			})
		}},
		{name: "layer is cut", refusal: "before its descriptor's", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { must(t, os.Truncate(w.blob(w.layer(0)), 100)) })
		}},
		{name: "layer is longer", refusal: "bytes large, at most", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { must(t, os.Truncate(w.blob(w.layer(0)), 1<<20)) })
		}},
		{name: "layer's size is a lie", refusal: "bytes large, at most 5 are allowed", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["size"] = 5 })
		}},
		{name: "negative size", refusal: "its size is -1", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["size"] = -1 })
		}},
		{name: "huge layer", refusal: "at most 100 are allowed", limits: layout.Limits{Layer: 100}},
		{name: "layers together too large", refusal: "its layers are larger than 1500 bytes", limits: layout.Limits{Total: 1500}},
		{name: "too many layers", refusal: "it has 2 layers, at most 1", limits: layout.Limits{Layers: 1}},
		{name: "bomb", refusal: "unpack to more than 1000000 bytes", limits: layout.Limits{Unpacked: 1_000_000}, forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.addLayer(t, bomb.Bytes(), types.DockerLayer, nil) })
		}},
		{name: "unpacked digest is another's", refusal: "the config says", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				w.config["rootfs"].(map[string]any)["diff_ids"].([]any)[0] = "sha256:" + strings.Repeat("1", 64)
			})
		}},
		{name: "config lists fewer layers", refusal: "it lists 1 layers, the manifest 2", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				rootfs := w.config["rootfs"].(map[string]any)
				rootfs["diff_ids"] = rootfs["diff_ids"].([]any)[:1]
			})
		}},
		{name: "same layer twice with two unpacked digests", refusal: "two unpacked digests", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["layers"].([]any)[1] = w.layer(0) })
		}},
		{name: "layer is no gzip", refusal: "it does not unpack", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.addLayer(t, []byte("plain"), types.DockerLayer, []byte("plain")) })
		}},
		{name: "something follows the gzip stream", refusal: "it does not unpack", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				var packed bytes.Buffer
				writer := gzip.NewWriter(&packed)
				_, _ = writer.Write([]byte("x"))
				_ = writer.Close()
				packed.WriteString("garbage")
				w.addLayer(t, packed.Bytes(), types.DockerLayer, []byte("x"))
			})
		}},
		{name: "layer kept elsewhere", refusal: "which is not published", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["mediaType"] = string(types.DockerForeignLayer) })
		}},
		{name: "layer with URLs", refusal: "layer 1: it names URLs", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["urls"] = []string{"http://169.254.169.254/"} })
		}},
		{name: "layer of an unknown type", refusal: `"text/evil"`, forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["mediaType"] = "text/evil" })
		}},
		{name: "digest climbs out", refusal: "does not parse", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) {
				blob := w.layer(0)
				blob["digest"] = "sha256:../../../" + strings.Repeat("a", 55)
			})
		}},
		{name: "sha512", refusal: "is not sha256:", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.layer(0)["digest"] = "sha512:" + strings.Repeat("a", 128) })
		}},
		{name: "two manifests", refusal: "it names 2 manifests", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.index["manifests"] = []any{w.entry, w.entry} })
		}},
		{name: "no manifest", refusal: "it names 0 manifests", forge: func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"manifests":[]}`))
		}},
		{name: "index in the index", refusal: "not an image manifest", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.entry["mediaType"] = string(types.OCIImageIndex) })
		}},
		{name: "index is no JSON", refusal: "index.json: it does not parse", forge: func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "index.json"), []byte(`{"manifests":[]} trailing`))
		}},
		{name: "huge index", refusal: "index.json: it is 5242880 bytes large", forge: func(t testing.TB, dir string) {
			write(t, filepath.Join(dir, "index.json"), bytes.Repeat([]byte(" "), 5<<20))
		}},
		{name: "huge manifest", refusal: "manifest: it is", limits: layout.Limits{Manifest: 800}, forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["annotations"] = map[string]any{"a": strings.Repeat("x", 1000)} })
		}},
		{name: "huge config", refusal: "config: it is", limits: layout.Limits{Config: 100}},
		{name: "manifest of another type than the index says", refusal: "the index says", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.entry["mediaType"] = string(types.OCIManifestSchema1) })
		}},
		{name: "manifest with a subject", refusal: "it has a subject", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["subject"] = w.layer(0) })
		}},
		{name: "artifact", refusal: "artifact type", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["artifactType"] = "application/x" })
		}},
		{name: "schema 1", refusal: "schema version is 1", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["schemaVersion"] = 1 })
		}},
		{name: "config of another type", refusal: "its config is of type", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.manifest["config"].(map[string]any)["mediaType"] = string(types.OCIConfigJSON) })
		}},
		{name: "another platform", refusal: `it is for "linux/arm64"`, forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.config["architecture"] = "arm64" })
		}},
		{name: "no platform", refusal: "no operating system", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { delete(w.config, "os") })
		}},
		{name: "config does not parse", refusal: "config: it does not parse", forge: func(t testing.TB, dir string) {
			edit(t, dir, func(w *written) { w.config["created"] = "yesterday\x1b[31m" })
		}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := built(t, honest(t))
			if test.forge != nil {
				test.forge(t, dir)
			}
			check(t, dir, test.limits, test.refusal)
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestUnreadable: publish may be root without any capability, so a RUN step can
// hide a file from it by giving it away. That is the build's doing.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	dir := built(t, honest(t))
	index := filepath.Join(dir, "index.json")
	if err := os.Chmod(index, 0o600); err != nil {
		t.Fatal(err)
	}
	for parent := filepath.Dir(dir); parent != filepath.Clean(os.TempDir()); parent = filepath.Dir(parent) {
		if err := os.Chmod(parent, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// This thread is without rights over others' files for a moment.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Setfsuid(65534); err != nil {
		t.Fatal(err)
	}
	defer unix.Setfsuid(0)
	_, err := layout.Read(t.Context(), dir, layout.Limits{})
	var fault *layout.FaultError
	if !errors.As(err, &fault) || !strings.Contains(err.Error(), "it may not be read") {
		t.Errorf("got %v, want the build's fault", err)
	}
}

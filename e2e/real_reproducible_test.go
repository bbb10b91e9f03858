package e2e

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"towpath.dev/towpath/e2e/lab"
)

// TestSameCommitSameImage builds one commit twice, into two repositories, and
// wants one digest: kaniko gives what COPY and RUN write the time of day, and
// publish takes it out of the layers that the build made. The base's stay as
// they are, or no two images would share them.
func TestSameCommitSameImage(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{
		Binary: binary,
		Files: func(w *lab.World, files map[string]string) {
			files["Dockerfile"] = "FROM " + w.Base + ` AS build
WORKDIR /src
COPY . .
RUN mkdir -p /site/deep && sed "s/@COLOUR@/$(cat colour)/" page.html > /site/index.html && chown -R 1000:1000 /site

FROM ` + w.Base + `
COPY --from=build /site /site
COPY colour /colours/
RUN mkdir /data && echo state > /data/state && ln /data/state /data/hard && ln -s state /data/soft && touch -d "2001-02-03 04:05:06" /data/old && rm /colours/colour
ENV MOTTO="pull, don't push"
WORKDIR /data
USER 1000
CMD ["httpd", "-f", "-p", "8080", "-h", "/site"]
`
		},
		Config: func(w *lab.World, config string) string {
			at := strings.Index(config, "  - name: podinfo\n")
			return config + strings.NewReplacer(
				"name: podinfo", "name: again", "flux-system:podinfo", "flux-system:again",
				w.Repository(), w.Registry.Repository("apps/again"),
			).Replace(config[at:])
		},
		Fleet: func(_ *lab.World, manifests map[string]string) {
			manifests["clusters/production/again.yaml"] = "image: none # {\"$imagepolicy\": \"flux-system:again\"}\n"
		},
	})
	w.MustRun("run", "--once")
	first, again := bumpedRef(t, w, "podinfo"), bumpedRef(t, w, "again")
	_, one, _ := strings.Cut(first, "@")
	if _, other, _ := strings.Cut(again, "@"); one == "" || one != other {
		t.Errorf("one commit became %s and %s (-first +again):\n%s", one, other, cmp.Diff(listing(t, w, first), listing(t, w, again)))
	}
	commitTimesAlone(t, w, first)
}

// listing is all that an image holds, but for the content of its files.
func listing(t *testing.T, w *lab.World, ref string) []string {
	t.Helper()
	image := w.Registry.Pull(t, ref)
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	lines := []string{string(config)}
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range layers {
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		for archive := tar.NewReader(content); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			lines = append(lines, fmt.Sprintf("layer %d: %+v", i, *header))
		}
	}
	return lines
}

// commitTimesAlone wants no time in an image later than the commit's, the
// earlier ones kept, and the base's layers untouched.
func commitTimesAlone(t *testing.T, w *lab.World, ref string) {
	t.Helper()
	commit, err := time.Parse(time.RFC3339, strings.TrimSpace(w.App.Git("show", "-s", "--format=%cI", "HEAD")))
	if err != nil {
		t.Fatal(err)
	}
	base, err := w.Registry.Pull(t, w.Base).Layers()
	if err != nil {
		t.Fatal(err)
	}
	layers, err := w.Registry.Pull(t, ref).Layers()
	if err != nil {
		t.Fatal(err)
	}
	times := map[string]time.Time{}
	for i, layer := range layers {
		if i < len(base) {
			want, _ := base[i].Digest()
			if got, err := layer.Digest(); err != nil || got != want {
				t.Errorf("the base's layer %s became %s", want, got)
			}
			continue
		}
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		defer content.Close()
		for archive := tar.NewReader(content); ; {
			header, err := archive.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			times[header.Name] = header.ModTime
			for _, at := range []time.Time{header.ModTime, header.AccessTime, header.ChangeTime} {
				if at.After(commit) {
					t.Errorf("%s has the time %s, the commit %s", header.Name, at, commit)
				}
			}
		}
	}
	for _, name := range []string{"site/index.html", "data/state", "data/hard", "data/soft"} {
		if at, ok := times[name]; !ok || !at.Equal(commit) {
			t.Errorf("%s has the time %s, want the commit's, %s (there are %d files)", name, at, commit, len(times))
		}
	}
	if _, ok := times["colours/.wh.colour"]; !ok {
		t.Error("a file that the build removed is there again")
	}
	if at := times["data/old"]; at.Year() != 2001 {
		t.Errorf("a time that the build set became %s", at)
	}
	config, err := w.Registry.Pull(t, ref).ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if at := slices.MaxFunc(config.History, func(a, b v1.History) int { return a.Created.Compare(b.Created.Time) }).Created; !at.Equal(commit) || !config.Created.Equal(commit) {
		t.Errorf("the history goes on to %s and the image is of %s, the commit of %s", at, config.Created, commit)
	}
}

// bumpedRef is the reference that an image's newest bump put into the GitOps
// repository.
func bumpedRef(t *testing.T, w *lab.World, image string) string {
	t.Helper()
	bump, _ := w.Ledger(image)
	return strings.TrimSpace(lab.RunGit(t, w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump))
}

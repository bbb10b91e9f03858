package layout_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"

	"towpath.dev/towpath/kaniko/layout"
)

// entry is one of an archive, with its content.
type entry struct {
	tar.Header
	Content string
}

// everything is an archive with all that a layer can hold; now is the time of
// day that kaniko gives what it writes.
func everything(now time.Time) []entry {
	long := strings.Repeat("long/", 60) + "näme"
	early := time.Unix(1_500_000_000, 0)
	return []entry{
		{Header: tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o1777, ModTime: now}},
		{Header: tar.Header{Name: "etc/file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1000, Gid: 1001, Uname: "user", Gname: "group", ModTime: now}, Content: "content"},
		{Header: tar.Header{Name: "etc/early", Typeflag: tar.TypeReg, Mode: 0o644, ModTime: early}, Content: "early"},
		{Header: tar.Header{Name: "etc/fraction", Typeflag: tar.TypeReg, Format: tar.FormatPAX, Mode: 0o644, ModTime: early.Add(123456789)}, Content: "x"},
		{Header: tar.Header{Name: "etc/kanikos", Typeflag: tar.TypeReg, Format: tar.FormatPAX, Mode: 0o644, ModTime: now.Add(123456789), AccessTime: now, ChangeTime: now}, Content: strings.Repeat("y", 1000)},
		{Header: tar.Header{Name: "etc/only-access", Typeflag: tar.TypeReg, Format: tar.FormatPAX, Mode: 0o644, ModTime: early, AccessTime: now}},
		{Header: tar.Header{Name: "bin/ping", Typeflag: tar.TypeReg, Mode: 0o755, ModTime: now, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00 \x00\x00"}}, Content: "p"},
		{Header: tar.Header{Name: "etc/hard", Typeflag: tar.TypeLink, Linkname: "etc/file", ModTime: now}},
		{Header: tar.Header{Name: "etc/soft", Typeflag: tar.TypeSymlink, Linkname: "../" + long, Mode: 0o777, ModTime: now}},
		{Header: tar.Header{Name: long, Typeflag: tar.TypeReg, Mode: 0o600, ModTime: now}, Content: "long"},
		{Header: tar.Header{Name: strings.Repeat("g", 150), Typeflag: tar.TypeReg, Format: tar.FormatGNU, Mode: 0o600, ModTime: now, AccessTime: now, ChangeTime: now}, Content: "gnu"},
		{Header: tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Mode: 0o666, Devmajor: 1, Devminor: 3, ModTime: now}},
		{Header: tar.Header{Name: "dev/sda", Typeflag: tar.TypeBlock, Mode: 0o660, Devmajor: 8, Devminor: 0, ModTime: now}},
		{Header: tar.Header{Name: "run/pipe", Typeflag: tar.TypeFifo, Mode: 0o600, ModTime: now}},
		{Header: tar.Header{Name: "var/.wh.gone", Typeflag: tar.TypeReg, ModTime: now}},
		{Header: tar.Header{Name: "var/.wh..wh..opq", Typeflag: tar.TypeReg, ModTime: now}},
		{Header: tar.Header{Name: "big-ids", Typeflag: tar.TypeReg, Uid: 1 << 30, Gid: 1 << 31, ModTime: now}},
	}
}

func archive(t testing.TB, entries []entry) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := tar.NewWriter(&out)
	for _, e := range entries {
		header := e.Header
		header.Size = int64(len(e.Content))
		if err := writer.WriteHeader(&header); err != nil {
			t.Fatalf("%s: %v", header.Name, err)
		}
		if _, err := io.WriteString(writer, e.Content); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func unarchive(t testing.TB, from io.Reader) []entry {
	t.Helper()
	var entries []entry
	for reader := tar.NewReader(from); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry{*header, string(content)})
	}
}

func packed(t testing.TB, content []byte, mediaType types.MediaType) v1.Layer {
	t.Helper()
	var out bytes.Buffer
	switch mediaType {
	case types.OCILayerZStd:
		writer, _ := zstd.NewWriter(&out)
		_, _ = writer.Write(content)
		_ = writer.Close()
	case types.OCIUncompressedLayer:
		out.Write(content)
	default:
		writer, _ := gzip.NewWriterLevel(&out, gzip.BestSpeed)
		_, _ = writer.Write(content)
		_ = writer.Close()
	}
	return &diffed{static.NewLayer(out.Bytes(), mediaType), content}
}

// diffed is a layer that knows what it unpacks to.
type diffed struct {
	v1.Layer
	content []byte
}

func (d *diffed) DiffID() (v1.Hash, error) {
	hash, _, err := v1.SHA256(bytes.NewReader(d.content))
	return hash, err
}

func (d *diffed) Uncompressed() (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(d.content)), nil
}

// madeBy is an image as kaniko leaves it: a base with its own history, then the
// layers of this build.
func madeBy(t testing.TB, base []mutate.Addendum, layers ...v1.Layer) v1.Image {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		t.Fatal(err)
	}
	addenda := base
	for _, layer := range layers {
		addenda = append(addenda, mutate.Addendum{Layer: layer, History: v1.History{Author: "kaniko", CreatedBy: "RUN something"}})
	}
	if image, err = mutate.Append(image, addenda...); err != nil {
		t.Fatal(err)
	}
	return image
}

// published reads a layout and returns the image that would be published.
func published(t testing.TB, dir string, limits layout.Limits, level int) (v1.Image, error) {
	t.Helper()
	read, err := layout.Read(t.Context(), dir, limits)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { read.Close() })
	return read.Image(t.Context(), "linux/amd64", commitTime, level)
}

func mustPublish(t testing.TB, image v1.Image) v1.Image {
	t.Helper()
	out, err := published(t, built(t, image), layout.Limits{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	sound(t, out)
	return out
}

// sound checks every digest and size of an image. go-containerregistry's own
// validation takes every layer for gzip.
func sound(t testing.TB, image v1.Image) {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for i, layer := range layersOf(t, image) {
		compressed, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		hash, size, err := v1.SHA256(compressed)
		if err := errors.Join(err, compressed.Close()); err != nil {
			t.Fatal(err)
		}
		if said, err := layer.Size(); err != nil || said != size || hash.String() != digestOf(t, layer) {
			t.Errorf("layer %d is %s of %d bytes, it says %s of %d", i, hash, size, digestOf(t, layer), said)
		}
		content, err := layer.Uncompressed()
		if err != nil {
			t.Fatal(err)
		}
		hash, _, err = v1.SHA256(content)
		if err := errors.Join(err, content.Close()); err != nil {
			t.Fatal(err)
		}
		if hash != config.RootFS.DiffIDs[i] {
			t.Errorf("layer %d unpacks to %s, the config says %s", i, hash, config.RootFS.DiffIDs[i])
		}
	}
}

func digestOf(t testing.TB, of interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	hash, err := of.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return hash.String()
}

func layersOf(t testing.TB, image v1.Image) []v1.Layer {
	t.Helper()
	layers, err := image.Layers()
	if err != nil {
		t.Fatal(err)
	}
	return layers
}

// TestTimesOfTheDayVanish: the same files, written at two times of day, are one
// image, and nothing but times has changed in them.
func TestTimesOfTheDayVanish(t *testing.T) {
	t.Parallel()
	for _, mediaType := range []types.MediaType{types.OCILayer, types.DockerLayer, types.OCILayerZStd, types.OCIUncompressedLayer} {
		t.Run(string(mediaType), func(t *testing.T) {
			t.Parallel()
			var digests []string
			for _, now := range []time.Time{commitTime.Add(time.Hour), commitTime.Add(30 * time.Hour)} {
				image := mustPublish(t, madeBy(t, nil, packed(t, archive(t, everything(now)), mediaType)))
				digests = append(digests, digestOf(t, image))
				layer := layersOf(t, image)[0]
				if got, err := layer.MediaType(); err != nil || got != mediaType {
					t.Errorf("the layer is of type %s, want %s", got, mediaType)
				}
				content, err := layer.Uncompressed()
				if err != nil {
					t.Fatal(err)
				}
				got := unarchive(t, content)
				want := unarchive(t, bytes.NewReader(archive(t, everything(now))))
				for i := range want {
					h := &want[i].Header
					if h.ModTime.After(commitTime) {
						h.ModTime = commitTime
					}
					h.AccessTime, h.ChangeTime = time.Time{}, time.Time{}
					for _, e := range []entry{got[i], want[i]} {
						for _, name := range []string{"mtime", "atime", "ctime"} {
							delete(e.PAXRecords, name)
						}
					}
					if len(got[i].PAXRecords)+len(h.PAXRecords) == 0 {
						got[i].PAXRecords, h.PAXRecords = nil, nil
					}
					got[i].Format, h.Format = 0, 0 // how a time is written decides it
				}
				if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b time.Time) bool { return a.Equal(b) })); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
			if digests[0] != digests[1] {
				t.Errorf("two times of day, two images: %s", digests)
			}
		})
	}
}

// TestDatesThatCannotBeTrue: whoever gives a commit a date long ago or to come gets
// the same image at each build all the same, as of 1970. A clock that is somewhat
// ahead of ours is believed.
func TestDatesThatCannotBeTrue(t *testing.T) {
	t.Parallel()
	first, soon := time.Unix(0, 0).UTC(), time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for name, c := range map[string]struct{ commit, want time.Time }{
		"none":        {time.Time{}, first},
		"1969":        {time.Date(1969, 12, 31, 0, 0, 0, 0, time.UTC), first},
		"2099":        {time.Date(2099, 1, 1, 0, 0, 0, 0, time.UTC), first},
		"9999":        {time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC), first},
		"in an hour":  {soon, soon},
		"an hour ago": {soon.Add(-2 * time.Hour), soon.Add(-2 * time.Hour)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var digests []string
			for _, now := range []time.Time{soon.Add(time.Minute), soon.Add(90 * time.Minute)} {
				read, err := layout.Read(t.Context(), built(t, madeBy(t, nil, packed(t, archive(t, everything(now)), types.OCILayer))), layout.Limits{})
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { read.Close() })
				image, err := read.Image(t.Context(), "linux/amd64", c.commit, 0)
				if err != nil {
					t.Fatal(err)
				}
				digests = append(digests, digestOf(t, image))
				config, err := image.ConfigFile()
				if err != nil || !config.Created.Equal(c.want) || !config.History[0].Created.Equal(c.want) {
					t.Errorf("created %v, %v; want %v", config.Created, err, c.want)
				}
			}
			if digests[0] != digests[1] {
				t.Errorf("two times of day, two images: %s", digests)
			}
		})
	}
}

// TestBaseLayersStay: the registry has them already, whatever their times.
func TestBaseLayersStay(t *testing.T) {
	t.Parallel()
	later := commitTime.Add(1000 * time.Hour)
	base := func(content string, history v1.History) mutate.Addendum {
		return mutate.Addendum{Layer: packed(t, archive(t, []entry{{tar.Header{Name: content, ModTime: later}, content}}), types.OCILayer), History: history}
	}
	bases := []mutate.Addendum{
		base("debian", v1.History{CreatedBy: "debuerreotype", Created: v1.Time{Time: later}}),
		// A base that Towpath itself built, of an earlier commit.
		base("ours", v1.History{Author: "kaniko", CreatedBy: "RUN x", Created: v1.Time{Time: commitTime.Add(-time.Hour)}}),
	}
	own := packed(t, archive(t, everything(later)), types.OCILayer)
	// Nothing in it that the commit does not explain.
	still := packed(t, archive(t, []entry{{tar.Header{Name: "still", ModTime: commitTime}, "still"}}), types.OCILayer)
	image := mustPublish(t, madeBy(t, bases, own, still))
	before := []v1.Layer{bases[0].Layer, bases[1].Layer, own, still}
	for i, layer := range layersOf(t, image) {
		if changed := digestOf(t, layer) != digestOf(t, before[i]); changed != (i == 2) {
			t.Errorf("layer %d: written anew: %v", i, changed)
		}
	}
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	var times []time.Duration
	for _, entry := range config.History {
		times = append(times, entry.Created.Sub(commitTime))
	}
	if diff := cmp.Diff([]time.Duration{0, -time.Hour, 0, 0}, times); diff != "" {
		t.Errorf("the history's times, from the commit's (-want +got):\n%s", diff)
	}
}

// TestHistoryThatLies decides about the liar's own bytes alone: whatever it
// says, what is published is what was left there, or that with other times.
func TestHistoryThatLies(t *testing.T) {
	t.Parallel()
	now := commitTime.Add(time.Hour)
	layer := packed(t, archive(t, everything(now)), types.OCILayer)
	kaniko := map[string]any{"author": "kaniko"}
	for name, history := range map[string][]any{
		"more entries than layers": {kaniko, kaniko, kaniko, kaniko},
		"none":                     {},
		"empty layers alone":       {map[string]any{"author": "kaniko", "empty_layer": true}},
		"a base's":                 {map[string]any{"author": "kaniko", "created": "2001-01-01T00:00:00Z"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := built(t, madeBy(t, nil, layer))
			edit(t, dir, func(w *written) { w.config["history"] = history })
			image, err := published(t, dir, layout.Limits{}, 0)
			if err != nil {
				t.Fatal(err)
			}
			sound(t, image)
			content, err := layersOf(t, image)[0].Uncompressed()
			if err != nil {
				t.Fatal(err)
			}
			for i, got := range unarchive(t, content) {
				if want := everything(now)[i]; got.Name != want.Name || got.Content != want.Content {
					t.Errorf("%q became %q", want.Name, got.Name)
				}
			}
		})
	}
}

// TestArchivesThatCannotBeWrittenAnew stay as the build left them.
func TestArchivesThatCannotBeWrittenAnew(t *testing.T) {
	t.Parallel()
	now := commitTime.Add(time.Hour)
	odd := archive(t, []entry{{tar.Header{Name: "odd", ModTime: now}, ""}})
	trailing := bytes.Clone(odd)
	copy(trailing, "file/") // a file whose name says it is a directory
	trailing[156] = tar.TypeBlock
	checksum(trailing)
	sparse := bytes.Clone(odd)
	copy(sparse[257:], "ustar  \x00")
	sparse[156] = tar.TypeGNUSparse
	copy(sparse[124:], "00000000000\x00")
	copy(sparse[483:], "00000100000\x00")
	checksum(sparse)
	for name, content := range map[string][]byte{"trailing": trailing, "sparse": append(sparse[:512:512], make([]byte, 1024)...)} {
		layer := packed(t, content, types.OCILayer)
		image := mustPublish(t, madeBy(t, nil, layer))
		if got := digestOf(t, layersOf(t, image)[0]); got != digestOf(t, layer) {
			t.Errorf("%s: the layer became another", name)
		}
	}
}

func checksum(block []byte) {
	copy(block[148:156], "        ")
	sum := 0
	for _, b := range block[:512] {
		sum += int(b)
	}
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
}

func TestWrittenAnewWithinLimits(t *testing.T) {
	t.Parallel()
	now := commitTime.Add(time.Hour)
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = "abcdefghijklmnop"[rand.IntN(16)]
	}
	var best bytes.Buffer
	writer, _ := gzip.NewWriterLevel(&best, gzip.BestCompression)
	content := archive(t, []entry{{tar.Header{Name: "noise", ModTime: now}, string(noise)}})
	_, _ = writer.Write(content)
	_ = writer.Close()
	layer := &diffed{static.NewLayer(best.Bytes(), types.OCILayer), content}
	dir := built(t, madeBy(t, nil, layer))
	var fault *layout.FaultError
	// Level 1 packs less tightly than what came in.
	if _, err := published(t, dir, layout.Limits{Layer: int64(best.Len())}, 1); !errors.As(err, &fault) || !strings.Contains(err.Error(), "with the commit's times") {
		t.Errorf("a layer grew past its limit: %v", err)
	}
	if _, err := published(t, dir, layout.Limits{Total: int64(best.Len())}, 1); !errors.As(err, &fault) || !strings.Contains(err.Error(), "with the commit's times") {
		t.Errorf("the layers grew past their limit: %v", err)
	}
	sizes := map[int]int64{}
	for _, level := range []int{1, 9} {
		image, err := published(t, dir, layout.Limits{}, level)
		if err != nil {
			t.Fatal(err)
		}
		if sizes[level], err = layersOf(t, image)[0].Size(); err != nil {
			t.Fatal(err)
		}
	}
	if sizes[9] >= sizes[1] {
		t.Errorf("level 9 is no smaller than 1: %v", sizes)
	}
}

// TestNoArchive: no node could unpack it.
func TestNoArchive(t *testing.T) {
	t.Parallel()
	for name, content := range map[string][]byte{
		"text": []byte(strings.Repeat("no archive\n", 200)),
		"cut":  archive(t, everything(commitTime))[:700],
	} {
		dir := built(t, madeBy(t, nil, packed(t, content, types.OCILayer)))
		var fault *layout.FaultError
		if _, err := published(t, dir, layout.Limits{}, 0); !errors.As(err, &fault) || !strings.Contains(err.Error(), "it does not unpack") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLayerIsSwappedBeforeThePush is one that was measured and written anew.
func TestLayerIsSwappedBeforeThePush(t *testing.T) {
	t.Parallel()
	dir := built(t, madeBy(t, nil, packed(t, archive(t, everything(commitTime.Add(time.Hour))), types.OCILayer)))
	image, err := published(t, dir, layout.Limits{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	var path string
	edit(t, dir, func(w *written) { path = w.blob(w.layer(0)) })
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other, err := packed(t, archive(t, everything(commitTime.Add(2*time.Hour))), types.OCILayer).Compressed()
	if err != nil {
		t.Fatal(err)
	}
	content, _ := io.ReadAll(other)
	var fault *layout.FaultError
	for name, swapped := range map[string][]byte{"other": content, "cut": old[:len(old)/2], "none": nil} {
		write(t, path, swapped)
		if err := drain(image); !errors.As(err, &fault) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	write(t, path, old)
	if err := drain(image); err != nil {
		t.Error(err)
	}
}

// TestPushGivesUp: whoever stops reading in the middle waits for nobody.
func TestPushGivesUp(t *testing.T) {
	t.Parallel()
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(rand.IntN(256))
	}
	dir := built(t, madeBy(t, nil, packed(t, archive(t, []entry{{tar.Header{Name: "noise", ModTime: commitTime.Add(time.Hour)}, string(noise)}}), types.OCILayer)))
	image, err := published(t, dir, layout.Limits{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	content, err := layersOf(t, image)[0].Compressed()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(content, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := content.Close(); err != nil {
		t.Error(err)
	}
	read, err := layout.Read(t.Context(), dir, layout.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := read.Image(ctx, "linux/amd64", commitTime, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkImage is what reading, checking and writing anew cost for a layer of
// 50 MiB, half of which compresses well.
func BenchmarkImage(b *testing.B) {
	content := make([]byte, 50<<20)
	for i := 0; i < len(content)/2; i++ {
		content[i] = byte(rand.IntN(256))
	}
	for i := len(content) / 2; i < len(content); i++ {
		content[i] = "package main\n"[i%13]
	}
	now := commitTime.Add(time.Hour)
	var entries []entry
	for i := 0; i < len(content); i += 1 << 20 {
		entries = append(entries, entry{tar.Header{Name: filepath.Join("usr", fmt.Sprint(i)), ModTime: now}, string(content[i : i+1<<20])})
	}
	for name, at := range map[string]time.Time{"stays": commitTime.Add(2 * time.Hour), "anew": commitTime} {
		b.Run(name, func(b *testing.B) {
			dir := built(b, madeBy(b, nil, packed(b, archive(b, entries), types.OCILayer)))
			b.SetBytes(int64(len(content)))
			b.ReportAllocs()
			for b.Loop() {
				read, err := layout.Read(b.Context(), dir, layout.Limits{})
				if err != nil {
					b.Fatal(err)
				}
				image, err := read.Image(b.Context(), "linux/amd64", at, 0)
				if err != nil {
					b.Fatal(err)
				}
				if err := drain(image); err != nil {
					b.Fatal(err)
				}
				read.Close()
			}
		})
	}
}

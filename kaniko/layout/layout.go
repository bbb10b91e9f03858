// Package layout reads the OCI image layout that a build left behind, and
// believes nothing of it: a RUN step can write whatever it likes there.
//
// It provides the one image of the layout as a v1.Image whose every digest and
// size was computed here, with times that depend on the commit alone: in its
// config, and in the layers that the build made. It knows nothing of
// registries. What always holds: no symbolic link is followed and
// nothing but a regular file is read, so no file outside the layout can end up
// in an image; every read is bounded; and bytes are hashed again while they are
// handed out, so what was checked is what is pushed.
package layout

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sync/errgroup"
)

// Limits bounds what a layout may hold. A zero field means its default.
type Limits struct {
	Manifest int64 // bytes of the manifest; 4 MiB, which registries accept
	Config   int64 // bytes of the config; 8 MiB
	Layers   int   // number of layers; 127, which overlayfs can stack
	Layer    int64 // compressed bytes of one layer; 10 GiB
	Total    int64 // compressed bytes of all layers; 20 GiB
	Unpacked int64 // unpacked bytes of all layers; 100 GiB
}

func (l Limits) filled() Limits {
	set := func(field *int64, value int64) {
		if *field == 0 {
			*field = value
		}
	}
	set(&l.Manifest, 4<<20)
	set(&l.Config, 8<<20)
	set(&l.Layer, 10<<30)
	set(&l.Total, 20<<30)
	set(&l.Unpacked, 100<<30)
	if l.Layers == 0 {
		l.Layers = 127
	}
	return l
}

// FaultError is a layout that is not what a build leaves behind. It is the
// build's own fault: the same commit will do it again.
type FaultError struct {
	Where string // the file in the layout, or what in it
	What  string // what was found and what was expected
}

func (e *FaultError) Error() string { return "layout: " + e.Where + ": " + e.What }

// Hint says who wrote it.
func (e *FaultError) Hint() string {
	return "the build's output was tampered with or is damaged: look for a RUN step that writes outside the image"
}

func fault(where, format string, args ...any) error {
	return &FaultError{Where: where, What: fmt.Sprintf(format, args...)}
}

// Layout is a layout that was read and found good. Its files stay where they
// are until Close.
type Layout struct {
	blobs     *os.Root // blobs/sha256, opened once: no path leads through the layout again
	mediaType types.MediaType
	manifest  v1.Manifest
	config    v1.ConfigFile
	limits    Limits
	stamps    map[v1.Hash]stamps // of the layers that this build may have made
}

// Read opens the layout in dir, whose parent is ours and whose content is not,
// and checks all of it: one index with one image manifest of a known type, its
// config, and every layer's digest, size and unpacked digest. A *FaultError
// says what is wrong with it; any other error is the machine's.
func Read(ctx context.Context, dir string, limits Limits) (*Layout, error) {
	limits = limits.filled()
	parent, err := os.OpenRoot(filepath.Dir(filepath.Clean(dir)))
	if err != nil {
		return nil, fmt.Errorf("layout: %w", err)
	}
	defer parent.Close()
	root, err := openDir(parent, filepath.Base(filepath.Clean(dir)), "its directory")
	if err != nil {
		return nil, err
	}
	defer root.Close()

	descriptor, err := readIndex(root, limits)
	if err != nil {
		return nil, err
	}
	outer, err := openDir(root, "blobs", "blobs")
	if err != nil {
		return nil, err
	}
	defer outer.Close()
	blobs, err := openDir(outer, "sha256", "blobs/sha256")
	if err != nil {
		return nil, err
	}
	layout := &Layout{blobs: blobs, limits: limits, stamps: map[v1.Hash]stamps{}}
	if err := layout.load(ctx, descriptor, limits); err != nil {
		blobs.Close()
		return nil, err
	}
	return layout, nil
}

// Close ends the use of the layout and of images made from it.
func (l *Layout) Close() error { return l.blobs.Close() }

func (l *Layout) load(ctx context.Context, descriptor v1.Descriptor, limits Limits) error {
	raw, err := l.small(descriptor, "manifest", limits.Manifest)
	if err != nil {
		return err
	}
	if l.manifest, err = parseManifest(raw, descriptor.MediaType, limits); err != nil {
		return err
	}
	l.mediaType = descriptor.MediaType
	if raw, err = l.small(l.manifest.Config, "config", limits.Config); err != nil {
		return err
	}
	if l.config, err = parseConfig(raw, len(l.manifest.Layers)); err != nil {
		return err
	}
	budget := newBudget(limits.Unpacked)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	checked := map[v1.Hash]v1.Hash{}
	mine := map[v1.Hash]bool{}
	made, _ := madeHere(l.config, time.Time{})
	for _, layer := range l.manifest.Layers[len(l.manifest.Layers)-made:] {
		mine[layer.Digest] = true
	}
	var mu sync.Mutex
	for i, layer := range l.manifest.Layers {
		diffID := l.config.RootFS.DiffIDs[i]
		if before, ok := checked[layer.Digest]; ok {
			if before != diffID {
				return fault(layer.Digest.String(), "the config names two unpacked digests for it")
			}
			continue
		}
		checked[layer.Digest] = diffID
		group.Go(func() error {
			found, err := l.checkLayer(ctx, layer, diffID, budget, mine[layer.Digest])
			if err == nil && mine[layer.Digest] {
				mu.Lock()
				defer mu.Unlock()
				l.stamps[layer.Digest] = found
			}
			return err
		})
	}
	return group.Wait()
}

// readIndex finds the one manifest of the layout.
func readIndex(root *os.Root, limits Limits) (v1.Descriptor, error) {
	marker, err := readFile(root, "oci-layout", "oci-layout", 4<<10)
	if err != nil {
		return v1.Descriptor{}, err
	}
	var version struct {
		Version string `json:"imageLayoutVersion"`
	}
	if err := json.Unmarshal(marker, &version); err != nil || version.Version != "1.0.0" {
		return v1.Descriptor{}, fault("oci-layout", "it does not name layout version 1.0.0")
	}
	raw, err := readFile(root, "index.json", "index.json", limits.Manifest)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return parseIndex(raw)
}

// small reads a blob that is parsed here.
func (l *Layout) small(descriptor v1.Descriptor, what string, limit int64) ([]byte, error) {
	if descriptor.Size > limit {
		return nil, fault(what, "it is %d bytes large, at most %d are allowed", descriptor.Size, limit)
	}
	raw, err := readFile(l.blobs, descriptor.Digest.Hex, what, limit)
	if err != nil {
		return nil, err
	}
	if int64(len(raw)) != descriptor.Size {
		return nil, fault(what, "it is %d bytes large, its descriptor says %d", len(raw), descriptor.Size)
	}
	if got := sha256.Sum256(raw); hex.EncodeToString(got[:]) != descriptor.Digest.Hex {
		return nil, fault(what, "its digest is sha256:%x, its descriptor says %s", got, descriptor.Digest)
	}
	return raw, nil
}

// openDir opens a directory that must not be a symbolic link.
func openDir(parent *os.Root, name, where string) (*os.Root, error) {
	seen, err := parent.Lstat(name)
	if err != nil {
		return nil, missing(where, err)
	}
	if !seen.IsDir() {
		return nil, fault(where, "it is %s, not a directory", kind(seen))
	}
	child, err := parent.OpenRoot(name)
	if err != nil {
		return nil, missing(where, err)
	}
	opened, err := child.Stat(".")
	if err != nil {
		child.Close()
		return nil, missing(where, err)
	}
	if !os.SameFile(seen, opened) {
		child.Close()
		return nil, fault(where, "it changed while it was opened")
	}
	return child, nil
}

// openFile opens a regular file with one name, of at most limit bytes.
func openFile(dir *os.Root, name, where string, limit int64) (*os.File, error) {
	seen, err := dir.Lstat(name)
	if err != nil {
		return nil, missing(where, err)
	}
	if !seen.Mode().IsRegular() {
		return nil, fault(where, "it is %s, not a regular file", kind(seen))
	}
	// A second name could be that of a file which the build may not read.
	if stat, ok := seen.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		return nil, fault(where, "it has %d hard links", stat.Nlink)
	}
	if seen.Size() > limit {
		return nil, fault(where, "it is %d bytes large, at most %d are allowed", seen.Size(), limit)
	}
	// Without blocking, so that a pipe put there since then cannot hold us.
	file, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, missing(where, err)
	}
	opened, err := file.Stat()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("layout: %s: %w", where, err)
	}
	if !os.SameFile(seen, opened) || !opened.Mode().IsRegular() {
		file.Close()
		return nil, fault(where, "it changed while it was opened")
	}
	return file, nil
}

func readFile(dir *os.Root, name, where string, limit int64) ([]byte, error) {
	file, err := openFile(dir, name, where, limit)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var content bytes.Buffer
	n, err := io.Copy(&content, io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("layout: %s: %w", where, err)
	}
	if n > limit {
		return nil, fault(where, "it grew while it was read")
	}
	return content.Bytes(), nil
}

// missing tells what the build did not leave from what the machine could not do.
func missing(where string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fault(where, "it is missing")
	}
	if errors.Is(err, fs.ErrPermission) {
		return fault(where, "it may not be read")
	}
	return fmt.Errorf("layout: %s: %w", where, err)
}

func kind(info fs.FileInfo) string {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return "a file"
	case mode.IsDir():
		return "a directory"
	case mode&fs.ModeSymlink != 0:
		return "a symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "a pipe"
	case mode&fs.ModeSocket != 0:
		return "a socket"
	default:
		return "a device"
	}
}

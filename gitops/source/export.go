package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// ExportOptions say what of a commit is written where.
type ExportOptions struct {
	// Dir is the directory that the files are written to. It is made if need
	// be, and must be empty.
	Dir string
	// Path is the directory inside the repository whose content is written;
	// "" or ".": the whole.
	Path string
	// Ref is a full ref whose history holds the commit. It is asked for only
	// where the server hands out tips alone (protocol version 0).
	Ref string
	// Scratch is a directory for temporary files; "": the system's.
	Scratch string
	// Progress takes how a long fetch goes, a clean line now and then; nil:
	// nobody wants to know.
	Progress func(string)
	Limits   Limits
}

// Limits bound what a commit may ask of the disk. Zero values stand for the
// defaults.
type Limits struct {
	Files     int   // files, symlinks and directories: 1,000,000
	Bytes     int64 // in all files together: 4 GiB
	FileBytes int64 // in one file: 512 MiB, which is the most
	Depth     int   // directories in directories: 128
}

func (l Limits) orDefault() Limits {
	const mostFileBytes = 512 << 20
	if l.Files <= 0 {
		l.Files = 1_000_000
	}
	if l.Bytes <= 0 {
		l.Bytes = 4 << 30
	}
	if l.FileBytes <= 0 || l.FileBytes > mostFileBytes {
		l.FileBytes = mostFileBytes
	}
	if l.Depth <= 0 {
		l.Depth = 128
	}
	return l
}

// Exported is what was written.
type Exported struct {
	Commit gitops.Commit
	Files  int // files and symlinks
	Bytes  int64
}

// RefusedError: the commit holds what no build context may hold. Trying again
// does not help; another commit does.
type RefusedError struct {
	Path   string // inside the repository
	Reason string
	hint   string
}

func (e *RefusedError) Error() string {
	return fmt.Sprintf("%s: %s", gitops.Line(e.Path, 200), e.Reason)
}

// Hint says how the repository can be mended, where that is known.
func (e *RefusedError) Hint() string { return e.hint }

// Export fetches one commit by its hash, with nothing of its history, and
// writes the files below Path to Dir. Every object's hash is checked.
//
// What is written is a function of the commit: files have mode 0644 or 0755,
// directories 0755, and every time is the committer's. No symlink is followed
// on the way, and none is written that would lead out of Dir. Submodules, Git
// LFS pointers, names and shapes that a careful file system would not hold are
// refused with their path (*RefusedError).
//
// After an error Dir holds a part, to be thrown away.
func Export(ctx context.Context, remote *wire.Remote, commit gitops.Hash, o ExportOptions) (Exported, error) {
	scratch, err := os.MkdirTemp(o.Scratch, "towpath-export-")
	if err != nil {
		return Exported{}, fmt.Errorf("export: %w", err)
	}
	defer os.RemoveAll(scratch)
	s, err := store.Open(scratch, remote)
	if err != nil {
		return Exported{}, fmt.Errorf("export: %w", err)
	}
	defer s.Close()
	s.Progress = o.Progress

	exported, err := export(ctx, s, remote, commit, o)
	if err != nil {
		return Exported{}, fmt.Errorf("export %s: %w", gitops.Short(commit), err)
	}
	return exported, nil
}

func export(ctx context.Context, s *store.Store, remote *wire.Remote, commit gitops.Hash, o ExportOptions) (Exported, error) {
	if err := obtain(ctx, s, remote, commit, o.Ref); err != nil {
		return Exported{}, err
	}
	told, err := s.Commit(commit)
	if err != nil {
		return Exported{}, err
	}
	p := planner{store: s, limits: o.Limits.orDefault(), links: links{}}
	if err := p.plan(ctx, told.Tree, o.Path); err != nil {
		return Exported{}, err
	}
	w, err := newWriter(o.Dir, told.Committer.When)
	if err != nil {
		return Exported{}, err
	}
	defer w.close()
	bytes, err := p.write(ctx, w)
	if err != nil {
		return Exported{}, err
	}
	return Exported{Commit: told, Files: p.files, Bytes: bytes}, nil
}

// obtain makes a commit present, if need be from the history of a ref.
func obtain(ctx context.Context, s *store.Store, remote *wire.Remote, commit gitops.Hash, ref string) error {
	err := s.Fetch(ctx, []gitops.Hash{commit}, 1)
	if ref == "" || !errors.Is(err, wire.ErrNotAdvertised) {
		return err
	}
	refs, refsErr := remote.Refs(ctx, ref)
	if refsErr != nil {
		return refsErr
	}
	tip, ok := refs[ref]
	if !ok {
		return err
	}
	return obtainBelow(ctx, s, commit, tip)
}

// planner reads the trees and decides what is written, before anything is.
type planner struct {
	store  *store.Store
	limits Limits
	prefix string // of paths in errors

	files int
	seen  int
	dirs  []string // each after the one that it is in
	blobs map[gitops.Hash][]target
	order []gitops.Hash // of blobs, as they were met
	links links
}

// target is one path that a blob is written to.
type target struct {
	path string
	kind string // a store.Mode constant
}

func (p *planner) refuse(path, reason, hint string) error {
	return &RefusedError{Path: p.prefix + path, Reason: reason, hint: hint}
}

func (p *planner) plan(ctx context.Context, root gitops.Hash, path string) error {
	tree, err := p.descend(root, path)
	if err != nil {
		return err
	}
	p.blobs = map[gitops.Hash][]target{}
	return p.tree(ctx, tree, "", 0)
}

// descend finds the tree of the directory that is exported.
func (p *planner) descend(tree gitops.Hash, path string) (gitops.Hash, error) {
	clean := strings.Trim(path, "/")
	if clean == "" || clean == "." {
		return tree, nil
	}
	if !fs.ValidPath(clean) {
		return tree, fmt.Errorf("path %q: not a path inside a repository", gitops.Line(path, 200))
	}
	at := ""
	for name := range strings.SplitSeq(clean, "/") {
		entries, err := p.store.Tree(tree)
		if err != nil {
			return tree, err
		}
		at += name
		found := 0
		for _, e := range entries {
			if e.Name != name {
				continue
			}
			switch found++; e.Kind() {
			case store.ModeTree:
				tree = e.Hash
			case store.ModeSymlink:
				return tree, p.refuse(at, "a symlink, which is not followed", "source.path must name a directory")
			case store.ModeSubmodule:
				return tree, p.refuse(at, "a submodule", hintSubmodule)
			default:
				return tree, p.refuse(at, "not a directory", "source.path must name a directory")
			}
		}
		switch found {
		case 0:
			return tree, p.refuse(at, "not in this commit", "check source.path")
		case 1:
		default:
			return tree, p.refuse(at, "twice in its directory", "")
		}
		at += "/"
	}
	p.prefix = at
	return tree, nil
}

const hintSubmodule = "copy the submodule's files into the repository, or have the Dockerfile fetch them"

func (p *planner) tree(ctx context.Context, tree gitops.Hash, at string, depth int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if depth > p.limits.Depth {
		return p.refuse(at, fmt.Sprintf("more than %d directories deep", p.limits.Depth), "")
	}
	entries, err := p.store.Tree(tree)
	if err != nil {
		return fmt.Errorf("%s: %w", gitops.Line(p.prefix+at, 200), err)
	}
	names := make(map[string]struct{}, len(entries))
	for _, e := range entries {
		path := at + e.Name
		if reason := badName(e.Name); reason != "" {
			return p.refuse(path, reason, "")
		}
		if len(path) > maxPath {
			return p.refuse(path, fmt.Sprintf("its path is longer than %d bytes", maxPath), "")
		}
		if _, twice := names[e.Name]; twice {
			return p.refuse(path, "twice in its directory", "")
		}
		names[e.Name] = struct{}{}
		if p.seen++; p.seen > p.limits.Files {
			return p.refuse(path, fmt.Sprintf("more than %d files and directories", p.limits.Files), "")
		}
		if err := p.entry(ctx, e, path, depth); err != nil {
			return err
		}
	}
	return nil
}

func (p *planner) entry(ctx context.Context, e store.Entry, path string, depth int) error {
	switch kind := e.Kind(); kind {
	case store.ModeTree:
		p.dirs = append(p.dirs, path)
		return p.tree(ctx, e.Hash, path+"/", depth+1)
	case store.ModeFile, store.ModeExecutable, store.ModeSymlink:
		p.files++
		if _, met := p.blobs[e.Hash]; !met {
			p.order = append(p.order, e.Hash)
		}
		p.blobs[e.Hash] = append(p.blobs[e.Hash], target{path, kind})
		return nil
	case store.ModeSubmodule:
		return p.refuse(path, "a submodule", hintSubmodule)
	}
	return p.refuse(path, fmt.Sprintf("neither file, directory nor symlink (mode %s)", gitops.Line(e.Mode, 12)), "")
}

// lfsPointer begins the stand-in for a file that Git LFS keeps elsewhere (its
// specification, docs/spec.md).
var lfsPointer = []byte("version https://git-lfs.github.com/spec/v1\n")

// write writes files as their blobs come, then symlinks, then times. Symlinks
// come after every file, so that no file is ever written below one.
func (p *planner) write(ctx context.Context, w *writer) (written int64, err error) {
	for _, dir := range p.dirs {
		if err := w.mkdir(dir); err != nil {
			return 0, err
		}
	}
	err = p.store.Blobs(ctx, p.order, func(h gitops.Hash, content []byte) error {
		for _, t := range p.blobs[h] {
			if t.kind == store.ModeSymlink {
				if reason := p.links.add(t.path, content); reason != "" {
					return p.refuse(t.path, reason, "")
				}
				continue
			}
			if bytes.HasPrefix(content, lfsPointer) {
				return p.refuse(t.path, "a Git LFS pointer, not the file itself", "commit the file itself, or have the Dockerfile fetch it")
			}
			if int64(len(content)) > p.limits.FileBytes {
				return p.refuse(t.path, fmt.Sprintf("larger than %d bytes", p.limits.FileBytes), "")
			}
			if written += int64(len(content)); written > p.limits.Bytes {
				return p.refuse(t.path, fmt.Sprintf("more than %d bytes in all files", p.limits.Bytes), "")
			}
			if err := w.file(t.path, content, t.kind == store.ModeExecutable); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	for _, path := range p.links.sorted() {
		if reason := p.links.escapes(path); reason != "" {
			return 0, p.refuse(path, reason, "")
		}
	}
	for _, path := range p.links.sorted() {
		if err := w.symlink(path, p.links[path]); err != nil {
			return 0, err
		}
	}
	for i := len(p.dirs) - 1; i >= 0; i-- { // what is inside first: writing changes a directory's time
		if err := w.stamp(p.dirs[i]); err != nil {
			return 0, err
		}
	}
	return written, w.stamp(".")
}

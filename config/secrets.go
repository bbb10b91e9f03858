package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"k8s.io/apimachinery/pkg/util/validation"
)

// A Kubernetes Secret holds up to 1 MiB in all.
const (
	maxSecret     = 1 << 20
	maxSecretKeys = 256
)

// Secrets are the secrets below a directory: a directory for each, in it a file
// per key, as Kubernetes mounts them or a person lays them out. Nothing is kept:
// each use reads anew, so that a rotated secret is picked up.
type Secrets struct {
	Dir string
}

// SecretError says which secret, and which of its keys, cannot be read. It
// never holds what a secret contains.
type SecretError struct {
	Secret string
	Key    string // empty: the secret as a whole
	Dir    string // where the secret is looked for
	Err    error
}

func (e *SecretError) Error() string {
	if e.Key != "" {
		return fmt.Sprintf("secret %s: key %s: %v", e.Secret, e.Key, e.Err)
	}
	return fmt.Sprintf("secret %s: %v", e.Secret, e.Err)
}

func (e *SecretError) Unwrap() error { return e.Err }

// Hint says what a person can do about it.
func (e *SecretError) Hint() string {
	switch {
	case errors.Is(e.Err, fs.ErrNotExist):
		return "make the directory " + e.Dir + " with a file per key; `towpath keygen` makes those that sign"
	case errors.Is(e.Err, fs.ErrPermission):
		return "let the user that runs towpath read it"
	default:
		return ""
	}
}

// Directory is where a secret is, for a process that reads it itself.
func (s Secrets) Directory(name string) string { return filepath.Join(s.Dir, name) }

// Read reads all keys of a secret from one generation. Kubernetes changes a
// mounted Secret by swapping the symlink ..data, which is resolved once, before,
// and compared after; the files of a plain directory are compared in size and
// time. A secret that changed meanwhile is read again. The error is a
// *SecretError.
func (s Secrets) Read(name string) (map[string][]byte, error) {
	if len(validation.IsDNS1123Label(name)) > 0 {
		return nil, &SecretError{Secret: quote(name), Err: errors.New("is no name of a secret")}
	}
	const tries = 5
	var last error
	for range tries {
		before, err := s.generation(name)
		if err != nil {
			last = err // what was resolved a moment ago may be gone: look again
			continue
		}
		content, err := before.read(name)
		after, again := s.generation(name)
		if again == nil && before.same(after) {
			return content, err // an error is the generation's own, not the swap's
		}
		last = fmt.Errorf("changed %d times while it was read", tries)
	}
	return nil, &SecretError{Secret: name, Dir: s.Directory(name), Err: last}
}

// generation is a secret at one moment.
type generation struct {
	directory string // with every symlink resolved
	keys      map[string]fs.FileInfo
}

func (s Secrets) generation(name string) (generation, error) {
	directory, err := filepath.EvalSymlinks(s.Directory(name))
	if err != nil {
		return generation{}, plain(err)
	}
	if data, err := filepath.EvalSymlinks(filepath.Join(directory, "..data")); err == nil {
		directory = data
	} else if !errors.Is(err, fs.ErrNotExist) {
		return generation{}, plain(err)
	}
	entries, err := os.ReadDir(directory)
	if err != nil {
		return generation{}, plain(err)
	}
	g := generation{directory, map[string]fs.FileInfo{}}
	for _, entry := range entries {
		if hidden(entry.Name()) {
			continue
		}
		info, err := os.Stat(filepath.Join(directory, entry.Name()))
		if err != nil || info.IsDir() {
			continue // what became of a file between two looks shows in the second
		}
		if g.keys[entry.Name()] = info; len(g.keys) > maxSecretKeys {
			return generation{}, fmt.Errorf("has more than %d keys", maxSecretKeys)
		}
	}
	return g, nil
}

// hidden tells editors' and Kubernetes' own files from keys. A registry's
// credential is the one key that begins with a dot.
func hidden(name string) bool {
	return strings.HasPrefix(name, ".") && name != ".dockerconfigjson" && name != ".dockercfg"
}

func (g generation) same(other generation) bool {
	if g.directory != other.directory || len(g.keys) != len(other.keys) {
		return false
	}
	for key, info := range g.keys {
		later, ok := other.keys[key]
		if !ok || !os.SameFile(info, later) || info.Size() != later.Size() || !info.ModTime().Equal(later.ModTime()) {
			return false
		}
	}
	return true
}

func (g generation) read(secret string) (map[string][]byte, error) {
	content, left := map[string][]byte{}, int64(maxSecret)
	for key := range g.keys {
		value, err := readFile(filepath.Join(g.directory, key), left+1)
		if err != nil {
			return nil, &SecretError{Secret: secret, Key: key, Err: plain(err)}
		}
		if left -= int64(len(value)); left < 0 {
			return nil, &SecretError{Secret: secret, Key: key, Err: errors.New("the secret is larger than 1 MiB")}
		}
		content[key] = value
	}
	return content, nil
}

// readFile reads a regular file, or as much of it as the limit allows. It never
// waits, as opening a pipe would.
func readFile(path string, limit int64) ([]byte, error) {
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("is no regular file")
	}
	return io.ReadAll(io.LimitReader(file, limit))
}

// plain is the system's reason without the path, which the error names in its
// own words.
func plain(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

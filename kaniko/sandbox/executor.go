package sandbox

import (
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// executorFile is the state of an executor's file, and its digest in that state.
// Whoever writes to a file changes its time of change, even if they set its time of
// modification back afterwards.
type executorFile struct {
	dev, ino          uint64
	size              int64
	modified, changed time.Time
	digest            string
}

// stateOf looks at a file, but not into it.
func stateOf(path string) (executorFile, error) {
	info, err := os.Stat(path)
	if err != nil {
		return executorFile{}, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return executorFile{}, fmt.Errorf("%s: no file of a Unix system", path)
	}
	return executorFile{dev: stat.Dev, ino: stat.Ino, size: info.Size(), modified: info.ModTime(), changed: time.Unix(stat.Ctim.Unix())}, nil
}

// ExecutorDigest is the SHA-256 of the kaniko executor, sha256:<hex>. It is
// computed anew only when the file has changed, also since another process of
// ours computed it.
func (b *Builder) ExecutorDigest() (string, error) {
	now, err := stateOf(b.Executor)
	if err != nil {
		return "", hinted{fmt.Errorf("kaniko executor: %w", err), "name kaniko's executable in builder.kaniko.executor: `make tools` builds one into towpath/bin below the user's cache directory"}
	}

	b.mu.Lock()
	defer b.mu.Unlock()
	if known := b.executor; known.digest != "" {
		now.digest = known.digest
		if now == known {
			return known.digest, nil
		}
	}
	if now.digest = b.recall(now); now.digest == "" {
		if now.digest, err = fileDigest(b.Executor); err != nil {
			return "", fmt.Errorf("kaniko executor: %w", err)
		}
		b.remember(now)
	}
	b.executor = now
	return now.digest, nil
}

// installExecutor returns a copy of the executor with this digest, which every
// build may read and nobody changes: what runs is what was hashed, even when the
// file is replaced meanwhile.
func (b *Builder) installExecutor(digest string) (string, error) {
	dir := filepath.Join(b.Dir, "executors")
	path := filepath.Join(dir, strings.TrimPrefix(digest, "sha256:"))

	b.mu.Lock()
	defer b.mu.Unlock()
	if now, err := stateOf(path); err == nil {
		now.digest = digest
		if b.installed == now {
			return path, nil
		}
		// The work directory is a cache, and caches rot.
		if found, err := fileDigest(path); err == nil && found == digest {
			b.installed = now
			return path, nil
		}
	}
	copied, found, err := b.copyExecutor(dir)
	if copied != "" {
		defer os.Remove(copied)
	}
	if err != nil {
		return "", fmt.Errorf("copy kaniko executor: %w", err)
	}
	if found != digest {
		return "", fmt.Errorf("kaniko executor changed: expected %s, found %s", digest, found)
	}
	others, _ := filepath.Glob(filepath.Join(dir, "*"))
	if err := os.Rename(copied, path); err != nil {
		return "", fmt.Errorf("copy kaniko executor: %w", err)
	}
	for _, other := range others {
		// A build that runs an older one holds it open.
		if other != path {
			_ = os.Remove(other)
		}
	}
	if b.installed, err = stateOf(path); err != nil {
		return "", fmt.Errorf("copy kaniko executor: %w", err)
	}
	b.installed.digest = digest
	return path, nil
}

// copyExecutor copies the executor to a directory, under a name of its own, and
// returns the copy's path and digest. Nothing is started meanwhile: a child has what
// this process has open until it runs a program of its own, and what somebody may
// write to cannot be run ("text file busy").
func (b *Builder) copyExecutor(dir string) (path, digest string, err error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	source, err := os.Open(b.Executor)
	if err != nil {
		return "", "", err
	}
	defer source.Close()
	copied, err := os.CreateTemp(dir, ".executor-")
	if err != nil {
		return "", "", err
	}
	hash := sha256.New()
	_, err = io.Copy(io.MultiWriter(copied, hash), source)
	err = errors.Join(err, copied.Chmod(0o755), copied.Close())
	return copied.Name(), "sha256:" + hex.EncodeToString(hash.Sum(nil)), err
}

func fileDigest(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

// checkExecutor says why a file cannot be the executor: it runs in a root
// directory that holds nothing else, so it must need no shared library.
func checkExecutor(path string) error {
	program, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("kaniko executor %s: %w", path, err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return fmt.Errorf("kaniko executor %s needs shared libraries: it must be linked statically", path)
		}
	}
	return nil
}

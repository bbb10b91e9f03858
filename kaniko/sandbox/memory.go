package sandbox

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// A command that only looks (status, plan) needs the executor's digest, since it
// is part of every build key, and hashing 50 MB is most of what such a command
// costs. So the last one is noted in the work directory, with all that a file
// system tells about the file's state.
//
// Nobody gains by forging the note. It counts only as a file of this process's
// user, whom alone the directory lets write, and who could replace the executor
// as well. A file that is written to has another time of change, which no user
// sets. And what a build runs is hashed by the process that runs it, whatever is
// noted: see installExecutor.

// settled is how old a file's last change must be for its state to be noted:
// within one tick of the clock it may change again and look the same.
const settled = 2 * time.Second

func (b *Builder) note() string { return filepath.Join(b.Dir, "executor.digest") }

// line is a state with its digest, and a sum over both: caches rot.
func (f executorFile) line() string {
	state := fmt.Sprintf("%d %d %d %d %d %s", f.dev, f.ino, f.size, f.modified.UnixNano(), f.changed.UnixNano(), f.digest)
	return fmt.Sprintf("%s %x\n", state, sha256.Sum256([]byte(state)))
}

// recall is the digest that was noted for a file in this very state; empty: none.
func (b *Builder) recall(now executorFile) string {
	if !ownAlone(b.Dir) {
		return ""
	}
	file, err := os.OpenFile(b.note(), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, 1<<10))
	if err != nil || !ownAlone(b.note()) {
		return ""
	}
	fields := strings.Fields(string(content))
	if len(fields) != 7 {
		return ""
	}
	now.digest = fields[5]
	if string(content) != now.line() {
		return ""
	}
	return now.digest
}

// remember notes a digest. Where it cannot, the next process hashes again.
func (b *Builder) remember(now executorFile) {
	if time.Since(now.changed) < settled || !ownAlone(b.Dir) {
		return
	}
	file, err := os.CreateTemp(b.Dir, ".executor-*")
	if err != nil {
		return
	}
	defer os.Remove(file.Name())
	_, err = file.WriteString(now.line())
	if closeErr := file.Close(); err == nil && closeErr == nil {
		_ = os.Rename(file.Name(), b.note())
	}
}

// ownAlone says whether a path is this process's user's, and nobody else may
// write to it.
func ownAlone(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm()&0o022 != 0 || info.Mode()&os.ModeSymlink != 0 {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}

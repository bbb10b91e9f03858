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

// Commands that only look, such as status and plan, need the executor's digest, since
// it is part of every build key. Hashing its 50 MB would be most of what they cost. So
// the digest is noted in the work directory, together with all that the file system
// tells about the state of the executor's file.
//
// Nobody gains by forging the note. It only counts if it belongs to this process's user
// in a directory that nobody else may write to, and that user could replace the executor
// itself. A file that is written to gets a new time of change, which no user can set
// back. And the process that runs a build hashes what it runs, whatever the note says:
// see installExecutor.

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

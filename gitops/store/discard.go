package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Discard removes the copies in a directory that Open was once given and that
// nobody has open now or has had open since a moment; and the directory, once no
// copy is left. A copy that is in use, by whatever process, is never touched: a
// copy is removed under the lock that its users hold. removed counts copies.
//
// Dying anywhere in it leaves a copy without a state, which counts as empty.
func Discard(dir string, since time.Time) (removed int, err error) {
	for n := range maxCopies {
		done, err := discard(filepath.Join(dir, strconv.Itoa(n)), since)
		if err != nil {
			return removed, fmt.Errorf("discard cache %s: %w", dir, err)
		}
		if done {
			removed++
		}
	}
	// Where somebody begins a copy at this moment it is not empty, and stays.
	_ = syscall.Rmdir(dir)
	return removed, nil
}

func discard(own string, since time.Time) (done bool, err error) {
	lock, err := os.OpenFile(filepath.Join(own, lockName), os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = release(lock) }()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil // in use
		}
		return false, err
	}
	if !isAt(lock, filepath.Join(own, lockName)) {
		return false, nil // somebody else was faster
	}
	used, err := lastUse(own)
	if err != nil || !used.Before(since) {
		return false, err
	}
	// The state goes first, the lock last: who comes between finds it taken, and
	// who comes after begins an empty copy.
	if err := os.RemoveAll(statePath(own)); err != nil {
		return false, err
	}
	entries, err := os.ReadDir(own)
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		if e.Name() == lockName {
			continue
		}
		if err := os.RemoveAll(filepath.Join(own, e.Name())); err != nil {
			return false, err
		}
	}
	if err := os.Remove(filepath.Join(own, lockName)); err != nil {
		return false, err
	}
	_ = syscall.Rmdir(own)
	return true, nil
}

// lastUse is when a copy was opened, closed or written last. One that was killed
// while it was open may have been used for longer.
func lastUse(own string) (used time.Time, err error) {
	for _, path := range []string{own, filepath.Join(own, lockName), statePath(own)} {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return used, err
		}
		if info.ModTime().After(used) {
			used = info.ModTime()
		}
	}
	return used, nil
}

// isAt tells whether an open file is the one that a path names now.
func isAt(file *os.File, path string) bool {
	ours, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(path)
	return err == nil && os.SameFile(ours, there)
}

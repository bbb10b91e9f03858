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

// claim locks the first free copy in a directory.
func claim(dir string) (own string, lock *os.File, err error) {
	for n := range maxCopies {
		own := filepath.Join(dir, strconv.Itoa(n))
		lock, err := tryLock(own)
		if err != nil {
			return "", nil, fmt.Errorf("open cache: %w", err)
		}
		if lock != nil {
			return own, lock, nil
		}
	}
	return "", nil, fmt.Errorf("open cache %s: %d others have it open", dir, maxCopies)
}

// tryLock locks a copy; nil where another has it open.
func tryLock(own string) (*os.File, error) {
	path := filepath.Join(own, lockName)
	for try := 1; ; try++ {
		err := os.MkdirAll(own, 0o700)
		var lock *os.File
		if err == nil {
			lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		}
		// It is being discarded at this moment. What is there when it is made and gone
		// when MkdirAll looks whether it is a directory is told as a file that exists.
		if (errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist)) && try < 10_000 {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			lock.Close()
			if errors.Is(err, syscall.EWOULDBLOCK) {
				return nil, nil
			}
			return nil, fmt.Errorf("lock %s: %w", own, err)
		}
		if isAt(lock, path) {
			touch(lock)
			return lock, nil
		}
		_ = release(lock) // it was discarded before we had it
	}
}

// release gives a lock up. Closing the file would do in the end, but a program that
// is being started at this moment may hold it for a little longer.
func release(lock *os.File) error {
	return errors.Join(syscall.Flock(int(lock.Fd()), syscall.LOCK_UN), lock.Close())
}

// touch notes a use of the copy, for Discard. Where that cannot be noted, the copy
// may be discarded too soon, which costs time.
func touch(lock *os.File) {
	now := time.Now()
	_ = os.Chtimes(lock.Name(), now, now)
}

const lockName = "lock"

// holds tells whether the copy on disk is still the one that was locked. It is
// a cache: somebody may have deleted it, lock and all, and another store may
// have begun one in its place.
func (s *Store) holds() bool { return isAt(s.lock, filepath.Join(s.dir, lockName)) }

// move takes another copy where ours was deleted.
func (s *Store) move() error {
	own, lock, err := claim(s.home)
	if err != nil {
		return err
	}
	_ = release(s.lock)
	s.dir, s.lock = own, lock
	return nil
}

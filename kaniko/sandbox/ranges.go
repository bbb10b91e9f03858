package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rangeLocks is the file by which all builds on this machine agree on who has which
// user and group ids, whichever work directories they use. A build with the ids from n
// to m holds a lock on the bytes from n to m of this file, so that ranges which overlap
// exclude each other, too. The file stays empty. /run is root's, and is emptied when the
// machine starts; the locks of a process end with it.
//
// Containers that share the machine's ids but have a /run of their own do not see each
// other's locks.
const rangeLocks = "/run/towpath.ids"

// takeRange gives the place ids that no other build on this machine has: the
// range of its number or, where that is taken, the next that is free.
func (p *place) takeRange(first uint32, file string) error {
	for n := range maxPlaces {
		candidate := first + uint32((p.number+n)%maxPlaces)*ids
		lock, err := lockRange(file, candidate)
		if err != nil {
			return err
		}
		if lock == nil {
			continue
		}
		// What a killed build left may be alive still, in a place that nobody has swept.
		alive, err := anyAlive(candidate)
		if err == nil && !alive {
			p.firstID, p.ids = candidate, lock
			return nil
		}
		unlock(lock)
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("all %d ranges of ids from %d on are taken by other builds on this machine", maxPlaces, first)
}

// lockRange locks a range of ids; nil where it is another's.
func lockRange(path string, first uint32) (*os.File, error) {
	fail := func(err error) (*os.File, error) {
		return nil, hinted{fmt.Errorf("lock a range of ids: %w", err), path + " is where all builds of this machine agree on ids: let root alone write there"}
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fail(err)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		file.Close()
		return fail(err)
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFREG || int(stat.Uid) != os.Geteuid() || stat.Mode&0o022 != 0 {
		file.Close()
		return fail(fmt.Errorf("%s is not a file that is ours alone to write", path))
	}
	// A lock of the open file, not of the process: builds of one process exclude each
	// other, too.
	lock := unix.Flock_t{Type: unix.F_WRLCK, Start: int64(first), Len: ids}
	err = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &lock)
	if err == nil {
		return file, nil
	}
	file.Close()
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		return nil, nil
	}
	return fail(err)
}

// anyAlive tells whether a process that this one can see has an id of a range.
func anyAlive(first uint32) (bool, error) {
	processes, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		return false, err
	}
	for _, path := range processes {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return false, fmt.Errorf("whose ids are in use: %w", err)
		}
		if hasIDs(content, first) {
			return true, nil
		}
	}
	return false, nil
}

// hasIDs tells whether a file like /proc/PID/status names an id of a range.
func hasIDs(status []byte, first uint32) bool {
	for line := range strings.Lines(string(status)) {
		kind, rest, _ := strings.Cut(line, ":")
		if kind != "Uid" && kind != "Gid" && kind != "Groups" {
			continue
		}
		for _, word := range strings.Fields(rest) {
			id, err := strconv.ParseUint(word, 10, 32)
			if err == nil && id >= uint64(first) && id < uint64(first)+ids {
				return true
			}
		}
	}
	return false
}

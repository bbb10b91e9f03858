package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkOwners refuses a directory in which somebody else than root could put one
// thing in another's place. What root makes there is given to builds, run, opened
// to all or removed, all by its path: a link in its stead would have that happen
// to any directory of the machine. Whoever came first to a cache below /tmp could
// lay such links.
func checkOwners(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	if real, err = filepath.Abs(real); err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	// The last part may not be a link: who owns the links above it, owns what they
	// are in.
	own, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	if !own.IsDir() {
		return strangers(dir, "is a link")
	}
	for _, start := range []string{real, filepath.Dir(filepath.Clean(dir))} {
		for at := start; ; at = filepath.Dir(at) {
			info, err := os.Stat(at)
			if err != nil {
				return fmt.Errorf("work directory: %w", err)
			}
			if why := changeable(info); why != "" {
				return strangers(at, why)
			}
			if at == filepath.Dir(at) {
				break
			}
		}
	}
	return nil
}

// changeable says why others than root can rename what is in a directory; empty:
// they cannot. Below one like /tmp everybody keeps what they own.
func changeable(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "has no owner"
	case stat.Uid != 0:
		return fmt.Sprintf("belongs to user %d", stat.Uid)
	case info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0:
		return "can be written to by everybody"
	}
	return ""
}

func strangers(dir, why string) error {
	return hinted{
		errors.New("builds are not made below " + dir + ", which " + why),
		"name a cache that is root's alone, as /var/cache/towpath is",
	}
}

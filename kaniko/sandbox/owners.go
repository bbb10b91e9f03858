package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// checkOwners refuses a directory below the cache if somebody other than root could
// replace something in it. Root makes things there, gives them to builds, runs them,
// opens them to all and removes them, each time by path. A symbolic link in the place of
// one would have that happen to any directory of the machine; in a cache below /tmp,
// whoever came first could lay such links. Directories above the cache may belong to
// whomever the administrator chose, but must not be writable for everybody.
func (b *Builder) checkOwners(dir string) error {
	cache := filepath.Dir(filepath.Clean(b.Dir))
	for at := filepath.Clean(dir); at != cache; at = filepath.Dir(at) {
		info, err := os.Lstat(at)
		if err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
		if !info.IsDir() {
			return strangers(at, "is a link")
		}
		if why := changeable(info); why != "" {
			return strangers(at, why)
		}
	}
	// An administrator may have it elsewhere, by a link.
	real, err := filepath.EvalSymlinks(cache)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err != nil {
		return fmt.Errorf("work directory: %w", err)
	}
	for at := real; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return fmt.Errorf("work directory: %w", err)
		}
		if why := changeable(info); why != "" && (at == real || open(info)) {
			return strangers(at, why)
		}
		if at == filepath.Dir(at) {
			return nil
		}
	}
}

// changeable says why others than root can rename what is in a directory; empty:
// they cannot.
func changeable(info fs.FileInfo) string {
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok:
		return "has no owner"
	case open(info):
		return "can be written to by everybody"
	case stat.Uid != 0:
		return fmt.Sprintf("belongs to user %d", stat.Uid)
	}
	return ""
}

// open tells whether everybody can rename what is in a directory. In one like /tmp,
// with the sticky bit, only its owner can rename a file.
func open(info fs.FileInfo) bool {
	return info.Mode().Perm()&0o002 != 0 && info.Mode()&fs.ModeSticky == 0
}

func strangers(dir, why string) error {
	return hinted{
		errors.New("builds are not made below " + dir + ", which " + why),
		"make it root's alone (chown root, chmod go-w), or name another cache, as /var/cache/towpath",
	}
}

package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// A build owns its root directory and may fill it with whatever it likes:
// symbolic links out of it, modes that forbid everything, directories nested
// deeper than a path can name. What is here therefore never follows a link and
// never needs a path longer than two names.

// removeTree removes a directory and all that is below it. It is done when
// there is nothing of that name. No process of the build may be alive.
func removeTree(path string) error {
	err := unix.Unlink(path)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	top, err := openDir(unix.AT_FDCWD, path)
	if err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	defer top.Close()
	// Every directory found is moved up to the top first, so that the depth
	// never grows; the name is new in each run of the loop.
	for moved := 0; ; {
		if _, err := top.Seek(0, io.SeekStart); err != nil {
			return fmt.Errorf("remove %s: %w", path, err)
		}
		names, _ := top.Readdirnames(1024)
		if len(names) == 0 {
			break
		}
		for _, name := range names {
			if err := removeEntry(top, name, &moved); err != nil {
				return fmt.Errorf("remove below %s: %w", path, err)
			}
		}
	}
	if err := unix.Rmdir(path); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// removeEntry removes an entry of top, or moves what is in it to top.
func removeEntry(top *os.File, name string, moved *int) error {
	fd := int(top.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err := unix.Unlinkat(fd, name, unix.AT_REMOVEDIR); err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	dir, err := openDir(fd, name)
	if err != nil {
		return err
	}
	defer dir.Close()
	for {
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
		names, _ := dir.Readdirnames(1024)
		if len(names) == 0 {
			break
		}
		for _, inner := range names {
			err := unix.Unlinkat(int(dir.Fd()), inner, 0)
			if err == nil || errors.Is(err, unix.ENOENT) {
				continue
			}
			for {
				*moved++
				// Not one of the build's own names: it would be replaced, or be in the way.
				err = unix.Renameat2(int(dir.Fd()), inner, fd, ".removed-"+strconv.Itoa(*moved), unix.RENAME_NOREPLACE)
				if !errors.Is(err, unix.EEXIST) {
					break
				}
			}
			if err != nil {
				return err
			}
		}
	}
	return unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
}

// openDir opens a directory, but no link to one.
func openDir(at int, name string) (*os.File, error) {
	fd, err := unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// maxDepth is how deep directories of a build may be nested: kaniko itself
// cannot handle what no path can name.
const maxDepth = 1000

var errTooDeep = fmt.Errorf("directories are nested deeper than %d", maxDepth)

// treeSize is how many bytes of disk a tree takes: the blocks of its files, each file
// counted once however many names it has, and with at least 4 KiB, so that empty files
// count too. The tree may change meanwhile.
func treeSize(path string) (int64, error) {
	top, err := openDir(unix.AT_FDCWD, path)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return 0, nil
		}
		return 0, err
	}
	defer top.Close()
	return sizeBelow(top, 0, map[uint64]bool{})
}

func sizeBelow(dir *os.File, depth int, linked map[uint64]bool) (int64, error) {
	if depth > maxDepth {
		return 0, errTooDeep
	}
	var total int64
	for {
		names, _ := dir.Readdirnames(1024)
		if len(names) == 0 {
			return total, nil
		}
		for _, name := range names {
			var stat unix.Stat_t
			if err := unix.Fstatat(int(dir.Fd()), name, &stat, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				continue // gone
			}
			isDir := stat.Mode&unix.S_IFMT == unix.S_IFDIR
			if !isDir && stat.Nlink > 1 {
				if linked[stat.Ino] {
					continue
				}
				linked[stat.Ino] = true
			}
			total += max(stat.Blocks*512, 4096)
			if !isDir {
				continue
			}
			inner, err := openDir(int(dir.Fd()), name)
			if err != nil {
				continue // gone, or replaced
			}
			size, err := sizeBelow(inner, depth+1, linked)
			inner.Close()
			total += size
			if err != nil {
				return total, err
			}
		}
	}
}

// giveTree makes a tree belong to one user and group, links themselves and not
// what they point to. The tree must not change meanwhile.
func giveTree(path string, id int) error {
	if err := os.Lchown(path, id, id); err != nil {
		return err
	}
	entries, err := os.ReadDir(path)
	if errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, entry := range entries {
		inner := path + "/" + entry.Name()
		if entry.IsDir() {
			err = giveTree(inner, id)
		} else {
			err = os.Lchown(inner, id, id)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

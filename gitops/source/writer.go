package source

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"time"

	"golang.org/x/sys/unix"
)

// writer writes files below one directory and can reach nothing else: os.Root
// follows no symlink out of it, and each file is made anew.
type writer struct {
	root *os.Root
	time unix.Timespec
}

func newWriter(dir string, when time.Time) (*writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := checkEmpty(root); err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	// A commit that tells no time it could have been made at has the first.
	return &writer{root, unix.Timespec{Sec: max(0, when.Unix())}}, nil
}

func checkEmpty(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if _, err := d.ReadDir(1); err == nil {
		return errors.New("the directory is not empty")
	} else if err != io.EOF {
		return err
	}
	return nil
}

func (w *writer) close() { w.root.Close() }

func (w *writer) mkdir(at string) error {
	if err := w.root.Mkdir(at, 0o755); err != nil {
		return err
	}
	return w.root.Chmod(at, 0o755) // whatever the umask
}

func (w *writer) file(at string, content []byte, executable bool) (err error) {
	f, err := w.root.OpenFile(at, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(content); err != nil {
		return err
	}
	mode := os.FileMode(0o644)
	if executable {
		mode = 0o755
	}
	if err := f.Chmod(mode); err != nil {
		return err
	}
	return w.stampFile(f)
}

func (w *writer) symlink(at, target string) error {
	if err := w.root.Symlink(target, at); err != nil {
		return err
	}
	dir, err := w.root.Open(path.Dir(at))
	if err != nil {
		return err
	}
	defer dir.Close()
	return w.stampAt(int(dir.Fd()), path.Base(at), at)
}

// stamp sets a directory's time.
func (w *writer) stamp(at string) error {
	dir, err := w.root.Open(at)
	if err != nil {
		return err
	}
	defer dir.Close()
	if at == "." {
		if err := dir.Chmod(0o755); err != nil {
			return err
		}
	}
	return w.stampFile(dir)
}

func (w *writer) stampFile(f *os.File) error {
	times := []unix.Timeval{{Sec: w.time.Sec}, {Sec: w.time.Sec}}
	if err := unix.Futimes(int(f.Fd()), times); err != nil {
		return &os.PathError{Op: "utimes", Path: f.Name(), Err: err}
	}
	return nil
}

func (w *writer) stampAt(dir int, name, at string) error {
	times := []unix.Timespec{w.time, w.time}
	if err := unix.UtimesNanoAt(dir, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return &os.PathError{Op: "utimes", Path: at, Err: err}
	}
	return nil
}

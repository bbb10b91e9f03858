package lab

import (
	"archive/tar"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Unpacked is an image whose files lie in a directory, to be looked at and run.
type Unpacked struct {
	Dir    string
	Config v1.Config

	t testing.TB
}

// Unpack unpacks an image with its owners and modes, until the test ends. It
// needs root.
func Unpack(t testing.TB, image v1.Image) *Unpacked {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	u := &Unpacked{Dir: t.TempDir(), Config: config.Config, t: t}
	if err := os.Chmod(u.Dir, 0o755); err != nil { // it becomes a root directory
		t.Fatal(err)
	}
	root, err := os.OpenRoot(u.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	files := mutate.Extract(image)
	defer files.Close()
	for archive := tar.NewReader(files); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return u
		}
		if err == nil {
			err = unpackEntry(root, header, archive)
		}
		if err != nil {
			t.Fatalf("unpack: %v", err)
		}
	}
}

func unpackEntry(root *os.Root, header *tar.Header, content io.Reader) error {
	name := strings.Trim(header.Name, "/")
	if name == "" || name == "." {
		return nil
	}
	if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	mode := header.FileInfo().Mode()
	switch header.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	case tar.TypeReg:
		file, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(file, content); err != nil {
			return errors.Join(err, file.Close())
		}
		if err := file.Close(); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(header.Linkname, name); err != nil {
			return err
		}
		return root.Lchown(name, header.Uid, header.Gid)
	case tar.TypeLink:
		return root.Link(strings.Trim(header.Linkname, "/"), name)
	default:
		return nil
	}
	if err := root.Lchown(name, header.Uid, header.Gid); err != nil {
		return err
	}
	return root.Chmod(name, mode&(fs.ModePerm|fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky))
}

// Command is the image's command, or another program in it, as the image's user
// with the image's environment, seeing the image's files alone. With arguments,
// they take the place of the image's CMD.
func (u *Unpacked) Command(args ...string) *exec.Cmd {
	u.t.Helper()
	if len(args) == 0 {
		args = u.Config.Cmd
	}
	args = append(append([]string{}, u.Config.Entrypoint...), args...)
	if len(args) == 0 {
		u.t.Fatal("the image names no command")
	}
	uid, gid := u.user()
	workdir := u.Config.WorkingDir
	if workdir == "" {
		workdir = "/"
	}
	return &exec.Cmd{
		Path: args[0], Args: args, Env: append([]string{}, u.Config.Env...), Dir: workdir,
		SysProcAttr: &syscall.SysProcAttr{
			Chroot:     u.Dir,
			Credential: &syscall.Credential{Uid: uid, Gid: gid},
			Pdeathsig:  syscall.SIGKILL,
		},
	}
}

// user is who the image says it runs as, by number.
func (u *Unpacked) user() (uid, gid uint32) {
	u.t.Helper()
	user, group, _ := strings.Cut(u.Config.User, ":")
	fields := u.lookUp("etc/passwd", user, 2)
	if group == "" && len(fields) > 3 {
		group = fields[3]
	}
	if len(fields) > 2 {
		user = fields[2]
	}
	if found := u.lookUp("etc/group", group, 2); len(found) > 2 {
		group = found[2]
	}
	number := func(text string) uint32 {
		if text == "" {
			return 0
		}
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			u.t.Fatalf("user %q: the image knows no %q", u.Config.User, text)
		}
		return uint32(n)
	}
	return number(user), number(group)
}

// lookUp finds the line of a file like passwd whose first field, or whose
// field of that number, is name.
func (u *Unpacked) lookUp(file, name string, number int) []string {
	content, err := os.ReadFile(filepath.Join(u.Dir, file))
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(content)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) > number && (fields[0] == name || fields[number] == name) {
			return fields
		}
	}
	return nil
}

// Executables are the paths of all files that somebody could run, links among
// them.
func (u *Unpacked) Executables() []string {
	u.t.Helper()
	var paths []string
	err := filepath.WalkDir(u.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode()&(0o111|fs.ModeSetuid|fs.ModeSetgid) != 0 {
			paths = append(paths, strings.TrimPrefix(path, u.Dir))
		}
		return nil
	})
	if err != nil {
		u.t.Fatal(err)
	}
	return paths
}

// Static tells whether a program of the image needs no loader and no library.
func (u *Unpacked) Static(path string) bool {
	u.t.Helper()
	program, err := elf.Open(filepath.Join(u.Dir, path))
	if err != nil {
		u.t.Fatal(err)
	}
	defer program.Close()
	for _, segment := range program.Progs {
		if segment.Type == elf.PT_INTERP {
			return false
		}
	}
	libraries, err := program.ImportedLibraries()
	return err == nil && len(libraries) == 0
}

package sandbox

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// TestTakeRange: no two places have an id in common, whatever work directory they
// are of and wherever their ranges begin; and none has one of a living process.
func TestTakeRange(t *testing.T) {
	t.Parallel()
	const first = 0x60000000 // where nobody's ids are
	file := filepath.Join(t.TempDir(), "ids")
	taken := map[uint32]*place{}
	take := func(number int, from uint32) *place {
		t.Helper()
		p := &place{number: number, lock: os.NewFile(^uintptr(0), "none")}
		if err := p.takeRange(from, file); err != nil {
			t.Fatal(err)
		}
		for other := range taken {
			if p.firstID < other+ids && other < p.firstID+ids {
				t.Errorf("ids from %d and from %d are taken at once", other, p.firstID)
			}
		}
		taken[p.firstID] = p
		return p
	}
	one := take(0, first)
	if one.firstID != first {
		t.Errorf("the first has ids from %d", one.firstID)
	}
	take(0, first)
	take(3, first)
	take(0, first+ids/2) // another beginning: its first two ranges lie across others
	// What is being started at this moment has the lock's file, too.
	inherited, err := syscall.Dup(int(one.ids.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	one.unlock()
	delete(taken, one.firstID)
	if again := take(0, first); again.firstID != first {
		t.Errorf("a range that was given up is not taken again, but %d", again.firstID)
	}

	// A process is seen by every test on this machine.
	leftFrom := 0x50000000 + uint32(os.Getpid()%1024)*4*ids
	left := exec.Command("sleep", "1000")
	left.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: leftFrom + 1000, Gid: leftFrom + 70_000}}
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if p := take(0, leftFrom); p.firstID != leftFrom+2*ids {
		t.Errorf("beside what lives with ids of the first two ranges, ids from %d are taken", p.firstID)
	}
	if err := errors.Join(left.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = left.Wait()
	if p := take(0, leftFrom); p.firstID != leftFrom {
		t.Errorf("once it has ended, ids from %d are taken", p.firstID)
	}
}

// TestRangesOfOthers: a file that somebody else could have laid there is no lock.
func TestRangesOfOthers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "theirs")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	link, open, dirToo := filepath.Join(dir, "link"), filepath.Join(dir, "open"), filepath.Join(dir, "directory")
	if err := errors.Join(os.Symlink(file, link), os.WriteFile(open, nil, 0o600), os.Chmod(open, 0o666), os.Mkdir(dirToo, 0o700), os.Chown(file, 1000, 1000)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, open, dirToo, filepath.Join(dir, "nowhere", "ids")} {
		p := &place{}
		err := p.takeRange(firstID, path)
		var hint interface{ Hint() string }
		if !errors.As(err, &hint) || p.ids != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

package sandbox

import (
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// bound is a limit that a build ran into: its own fault.
type bound struct{ text string }

func (b *bound) Error() string { return b.text }

// fullDisk is a machine without space: nobody's fault that runs here.
type fullDisk struct{ dir string }

func (f *fullDisk) Error() string { return "the disk that holds " + f.dir + " is full" }

// Hint says what to do about it.
func (f *fullDisk) Hint() string { return "make room, or move the cache to a larger disk" }

const (
	diskPause = 100 * time.Millisecond
	// Measured this often although nothing has gone: others may have freed what
	// the build took.
	measurePause = 5 * time.Second
	// What must stay free on the disk, whatever the bound.
	diskReserve = 256 << 20
)

// watchDisk ends the build by calling stop when its files take more than limit
// bytes. There is no quota that every file system knows, and to measure a tree
// costs. But the build cannot have grown by more than the disk's free space has
// shrunk, and asking for that costs nothing: so it measures only when enough
// has gone.
func (p *place) watchDisk(ctx context.Context, limit int64, stop context.CancelCauseFunc) {
	ticker := time.NewTicker(diskPause)
	defer ticker.Stop()
	var (
		measured time.Time
		cost     time.Duration // of measuring
		before   space         // when measured
		budget   int64         // how much may go before it is measured again
	)
	for {
		left, err := freeSpace(p.path("box"))
		if err == nil && (left.bytes < diskReserve || left.files < diskReserve) {
			stop(&fullDisk{p.dir})
			return
		}
		gone := max(before.bytes-left.bytes, before.files-left.files) > budget && time.Since(measured) > 5*cost
		if err == nil && (measured.IsZero() || gone || time.Since(measured) > max(measurePause, 20*cost)) {
			began := time.Now()
			used, err := p.used()
			if err != nil {
				stop(&bound{err.Error()})
				return
			}
			if used > limit {
				stop(&bound{fmt.Sprintf("it took more disk than the %s a build may", size(limit))})
				return
			}
			measured, cost = time.Now(), time.Since(began)
			before, budget = left, (limit-used)/2
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// used is what the build's files take: those it can name and those it has
// removed and holds open.
func (p *place) used() (int64, error) {
	var total int64
	for _, name := range []string{"root", "out"} {
		used, err := treeSize(p.path("box", name))
		if err != nil {
			return 0, err
		}
		total += used
	}
	var box unix.Stat_t
	if err := unix.Stat(p.path("box"), &box); err != nil {
		return 0, err
	}
	seen := map[uint64]bool{}
	for _, pid := range (cgroup{p.id}).processes() {
		dir := filepath.Join("/proc", strconv.Itoa(pid), "fd")
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, entry := range entries {
			var stat unix.Stat_t
			if err := unix.Stat(filepath.Join(dir, entry.Name()), &stat); err != nil {
				continue
			}
			if stat.Nlink == 0 && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Dev == box.Dev && !seen[stat.Ino] {
				seen[stat.Ino] = true
				total += stat.Blocks * 512
			}
		}
	}
	return total, nil
}

// space is what is left on a disk: for content, and for files at 4 KiB each,
// which is what treeSize counts an empty one as.
type space struct{ bytes, files int64 }

func freeSpace(path string) (space, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return space{}, err
	}
	left := space{bytes: int64(stat.Bavail) * stat.Bsize, files: math.MaxInt64}
	if stat.Files > 0 && stat.Ffree < math.MaxInt64/4096 { // some file systems make them as needed
		left.files = int64(stat.Ffree) * 4096
	}
	return left, nil
}

// size is a number of bytes as a person writes it.
func size(bytes int64) string {
	for _, unit := range []struct {
		name string
		size int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}} {
		if bytes >= unit.size {
			return strconv.FormatFloat(float64(bytes)/float64(unit.size), 'g', 4, 64) + " " + unit.name
		}
	}
	return strconv.FormatInt(bytes, 10) + " bytes"
}

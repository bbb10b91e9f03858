package sandbox

import (
	"bufio"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
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

// watchDisk ends the build by calling stop when its files take more than limit bytes.
// No quota works on every file system, and measuring a tree is expensive. But a build
// cannot have grown by more than the disk's free space has shrunk, and to ask for that
// costs nothing. So the tree is measured only when enough space has gone.
//
// Measuring runs beside the watch, since a build can make it take as long as it likes.
//
// One kind of file cannot be measured: a removed file whose last descriptor is under
// way in a socket (SCM_RIGHTS). It is in no process's table, and no system call tells
// its size. But the kernel tells that descriptors are under way (scm_fds, since Linux
// 5.7). So a build is also ended when more than limit has gone from the disk since it
// began, and descriptors were under way at two measurements in a row: few programs send
// any, and none leaves them there for long. On older kernels only diskReserve protects
// the disk from that, or a file system for builds alone.
func (p *place) watchDisk(ctx context.Context, limit int64, stop context.CancelCauseFunc) {
	ticker := time.NewTicker(diskPause)
	defer ticker.Stop()
	type measurement struct {
		usage
		err error
	}
	var (
		start    *space // when the build began
		underWay bool   // descriptors were, when last measured
		measured time.Time
		cost     time.Duration               // of measuring
		before   space                       // when measured
		budget   int64                       // how much may go before it is measured again
		began    time.Time                   // of the measurement at work
		results  = make(chan measurement, 1) // nobody waits for the last one
		busy     bool
	)
	for {
		left, err := freeSpace(p.path("box"))
		if err == nil && (left.bytes < diskReserve || left.files < diskReserve) {
			stop(&fullDisk{p.dir})
			return
		}
		if start == nil && err == nil {
			start = &left
		}
		gone := max(before.bytes-left.bytes, before.files-left.files) > budget && time.Since(measured) > 5*cost
		if err == nil && !busy && (measured.IsZero() || gone || time.Since(measured) > max(measurePause, 20*cost)) {
			began, before, busy = time.Now(), left, true
			go func() {
				used, err := p.used()
				results <- measurement{used, err}
			}()
		}
		select {
		case result := <-results:
			if result.err != nil {
				stop(&bound{result.err.Error()})
				return
			}
			if result.bytes > limit {
				stop(&bound{fmt.Sprintf("it took more disk than the %s a build may", size(limit))})
				return
			}
			if result.underWay && underWay && start.bytes-left.bytes > limit {
				stop(&bound{fmt.Sprintf("it hides files in sockets, and more disk went than the %s a build may take", size(limit))})
				return
			}
			underWay = result.underWay
			measured, cost, busy = time.Now(), time.Since(began), false
			budget = (limit - result.bytes) / 2
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// usage is what a build's files take.
type usage struct {
	bytes    int64
	underWay bool // there are descriptors in sockets, of files that bytes may not hold
}

// used measures the build's files: those it can name and those it has removed
// and holds open or mapped.
func (p *place) used() (usage, error) {
	var total int64
	underWay := false
	for _, name := range []string{"root", "out"} {
		used, err := treeSize(p.path("box", name))
		if err != nil {
			return usage{}, err
		}
		total += used
	}
	var box unix.Stat_t
	if err := unix.Stat(p.path("box"), &box); err != nil {
		return usage{}, err
	}
	seen := map[uint64]bool{}
	count := func(link string) {
		var stat unix.Stat_t
		if err := unix.Stat(link, &stat); err != nil {
			return // gone
		}
		if stat.Mode&unix.S_IFMT == unix.S_IFSOCK && !underWay {
			underWay = descriptorsUnderWay(strings.Replace(link, "/fd/", "/fdinfo/", 1))
		}
		if stat.Nlink == 0 && stat.Mode&unix.S_IFMT == unix.S_IFREG && stat.Dev == box.Dev && !seen[stat.Ino] {
			seen[stat.Ino] = true
			total += stat.Blocks * 512
		}
	}
	for _, pid := range (cgroup{p.id}).processes() {
		process := filepath.Join("/proc", strconv.Itoa(pid))
		for _, dir := range descriptorDirs(process, pid) {
			entries, _ := os.ReadDir(dir) // it may have ended
			for _, entry := range entries {
				count(filepath.Join(dir, entry.Name()))
			}
		}
		for _, span := range removedMappings(filepath.Join(process, "maps"), seen) {
			count(filepath.Join(process, "map_files", span))
		}
	}
	return usage{total, underWay}, nil
}

// descriptorsUnderWay says whether a socket holds descriptors that were sent and
// not yet received.
func descriptorsUnderWay(fdinfo string) bool {
	content, err := os.ReadFile(fdinfo)
	if err != nil {
		return false
	}
	_, count, found := strings.Cut(string(content), "scm_fds:")
	count, _, _ = strings.Cut(count, "\n")
	return found && strings.TrimSpace(count) != "0"
}

// descriptorDirs list what a process holds open. Its threads may each have a
// table of their own.
func descriptorDirs(process string, pid int) []string {
	dirs := []string{filepath.Join(process, "fd")}
	tasks, _ := os.ReadDir(filepath.Join(process, "task"))
	for _, task := range tasks {
		const files = 2 // KCMP_FILES
		thread, err := strconv.Atoi(task.Name())
		if err != nil || thread == pid {
			continue
		}
		if order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(thread), files, 0, 0, 0); errno != 0 || order != 0 {
			dirs = append(dirs, filepath.Join(process, "task", task.Name(), "fd"))
		}
	}
	return dirs
}

// removedMappings are the names below map_files of the files that a process has
// mapped and that have no name any more, but for those seen.
func removedMappings(maps string, seen map[uint64]bool) []string {
	file, err := os.Open(maps)
	if err != nil {
		return nil
	}
	defer file.Close()
	var spans []string
	found := map[string]bool{}
	for scanner := bufio.NewScanner(file); scanner.Scan(); {
		line := scanner.Text()
		if !strings.HasSuffix(line, " (deleted)") {
			continue
		}
		// start-end perms offset device inode path
		words := strings.Fields(line)
		if len(words) < 6 || found[words[4]] {
			continue
		}
		if inode, err := strconv.ParseUint(words[4], 10, 64); err != nil || seen[inode] {
			continue
		}
		var start, end uint64
		if _, err := fmt.Sscanf(words[0], "%x-%x", &start, &end); err != nil {
			continue
		}
		found[words[4]] = true
		spans = append(spans, fmt.Sprintf("%x-%x", start, end)) // there without the zeros in front
	}
	return spans
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

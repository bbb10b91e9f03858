package sandbox

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupRoot is where the hierarchies are. A build's group is directly below
// them: a common parent that went with the last build would go under the next
// one's feet.
const cgroupRoot = "/sys/fs/cgroup"

// unified says whether the machine has the one hierarchy of version 2.
func unified() bool {
	var fs unix.Statfs_t
	return unix.Statfs(cgroupRoot, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
}

// swapLimit is the bound on memory and swap together: no swap at all. Where
// version 1 does not account for swap there is no such file, and the runtime
// would refuse the bound.
func swapLimit(memory int64) *int64 {
	if !unified() {
		if _, err := os.Stat(filepath.Join(cgroupRoot, "memory", "memory.memsw.limit_in_bytes")); err != nil {
			return nil
		}
	}
	return &memory
}

// cgroup is the group of one build: one directory, or one for each controller
// of version 1.
type cgroup struct{ id string }

func (c cgroup) name() string { return "towpath-" + c.id }

func (c cgroup) dirs() []string {
	if unified() {
		return []string{filepath.Join(cgroupRoot, c.name())}
	}
	hierarchies, err := os.ReadDir(cgroupRoot)
	if err != nil {
		return nil
	}
	var dirs []string
	for _, h := range hierarchies {
		dirs = append(dirs, filepath.Join(cgroupRoot, h.Name(), c.name()))
	}
	return dirs
}

// pressure is what a build ran into.
type pressure struct {
	OOMKills int64 // processes killed for want of memory
	PidsMax  int64 // forks refused
}

func (c cgroup) pressure() pressure {
	memory, pids := filepath.Join(cgroupRoot, "memory", c.name(), "memory.oom_control"), filepath.Join(cgroupRoot, "pids", c.name(), "pids.events")
	if unified() {
		memory, pids = filepath.Join(cgroupRoot, c.name(), "memory.events"), filepath.Join(cgroupRoot, c.name(), "pids.events")
	}
	return pressure{OOMKills: field(memory, "oom_kill"), PidsMax: field(pids, "max")}
}

// field reads one number of a "name value" file; 0 where there is none.
func field(path, name string) int64 {
	content, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	for scanner := bufio.NewScanner(bytes.NewReader(content)); scanner.Scan(); {
		if key, value, _ := strings.Cut(scanner.Text(), " "); key == name {
			n, err := strconv.ParseInt(value, 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// processes are the ids of all that runs in the group. What cannot be read has
// gone in the meantime.
func (c cgroup) processes() []int {
	var pids []int
	seen := map[int]bool{}
	for _, dir := range c.dirs() {
		for _, group := range groupsBelow(dir) {
			content, _ := os.ReadFile(filepath.Join(group, "cgroup.procs"))
			for _, word := range strings.Fields(string(content)) {
				if pid, err := strconv.Atoi(word); err == nil && pid > 0 && !seen[pid] {
					seen[pid] = true
					pids = append(pids, pid)
				}
			}
		}
	}
	return pids
}

// groupsBelow are a group and those in it, the innermost first.
func groupsBelow(dir string) []string {
	var groups []string
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if entry.IsDir() {
			groups = append(groups, groupsBelow(filepath.Join(dir, entry.Name()))...)
		}
	}
	return append(groups, dir)
}

// remove kills what still runs in the group, waits until it is gone and removes
// the group. A group that does not exist is removed.
func (c cgroup) remove() error {
	deadline := time.Now().Add(10 * time.Second)
	for pause := time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		pids := c.processes()
		for _, pid := range pids {
			// Nobody but the group's own forks can be meant: a process that has
			// ended leaves its group before its number is free.
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill process %d of %s: %w", pid, c.id, err)
			}
		}
		left := 0
		for _, dir := range c.dirs() {
			if !removeGroup(dir) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup of %s: %d processes do not end", c.id, len(pids))
		}
		time.Sleep(pause)
	}
}

// removeGroup removes a group and those below it, and says whether it is gone.
func removeGroup(dir string) bool {
	for _, group := range groupsBelow(dir) {
		err := unix.Rmdir(group)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
			return false
		}
	}
	return true
}

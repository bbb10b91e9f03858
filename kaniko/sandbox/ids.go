package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strconv"
	"strings"
)

// ids is how many user and group ids a build has: 0 to 65535 inside.
const ids = 65536

// firstID is where the ranges begin if nothing else is said: above what systemd
// gives to containers, and far above what distributions give to users for
// containers of theirs, who could otherwise touch a build's files and processes.
const firstID = 0x70000000

// checkIDs refuses a range that is somebody's already, or that this machine, as
// we see it, does not have.
func (b *Builder) checkIDs() error {
	first := int64(b.firstID())
	after := first + maxPlaces*ids
	if first < ids || after > math.MaxInt32 {
		return hinted{fmt.Errorf("ids from %d to %d: not all of them are free for builds", first, after-1), fmt.Sprintf("the default begins at %d", firstID)}
	}
	for _, path := range []string{"/etc/subuid", "/etc/subgid"} {
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("whose ids are free: %w", err)
		}
		if line := delegated(string(content), first, after); line != "" {
			return hinted{
				fmt.Errorf("ids from %d to %d are for builds, and %s gives some of them away: %s", first, after-1, path, line),
				"give that user another range in " + path,
			}
		}
	}
	for _, path := range []string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		content, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("which ids there are: %w", err)
		}
		if !mapped(string(content), first, after) {
			return hinted{
				fmt.Errorf("ids from %d to %d, which builds get, do not exist in this user namespace", first, after-1),
				"run towpath outside of a container, or in one without a user namespace",
			}
		}
	}
	return nil
}

// delegated is the first line of a file like /etc/subuid, name:first:count, that
// gives away an id of the range; after is the one behind its last. Empty: none
// does.
func delegated(content string, first, after int64) string {
	for line := range strings.Lines(content) {
		line = strings.TrimSpace(line)
		fields := strings.Split(line, ":")
		if strings.HasPrefix(line, "#") || len(fields) != 3 {
			continue
		}
		start, startErr := strconv.ParseInt(fields[1], 10, 64)
		count, countErr := strconv.ParseInt(fields[2], 10, 64)
		if startErr == nil && countErr == nil && count > 0 && start < after && (start >= first || count > first-start) {
			return line
		}
	}
	return ""
}

// mapped says whether a range is in one line of a file like /proc/self/uid_map:
// first inside, first outside, count.
func mapped(content string, first, after int64) bool {
	for line := range strings.Lines(content) {
		var inside, outside, count int64
		if _, err := fmt.Sscan(line, &inside, &outside, &count); err == nil && inside <= first && after <= inside+count {
			return true
		}
	}
	return false
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// collectAt is how much the heap grows, in percent of what is in use, before
	// it is collected: a daemon waits nearly all of its time, and a third of Go's
	// usual hundred costs it some milliseconds a minute.
	collectAt = 30
	// settled is how long a daemon's start may take until memory is given back for
	// the first time, and giveBackEvery the time between two such after it.
	settled       = time.Minute
	giveBackEvery = 5 * time.Minute
)

// frugal keeps small what a daemon has of memory, until the context ends. Who
// sets GOGC decides for himself.
func frugal(ctx context.Context) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(collectAt)
	}
	wait := time.NewTimer(settled)
	defer wait.Stop()
	for {
		select {
		case <-wait.C:
			giveBack()
			wait.Reset(giveBackEvery)
		case <-ctx.Done():
			return
		}
	}
}

// giveBack gives back what the start, or a build, took and waiting does not
// need: free pages of the heap, and those of the program itself. Of some sixty
// megabytes of program most is what libraries do once; it stays in the kernel's
// cache, from where a page that is needed again comes in a microsecond.
func giveBack() {
	debug.FreeOSMemory()
	_ = releaseProgram() // nothing but a saving is lost
}

// releaseProgram unmaps the pages of the program's code and constants. A mapping
// with pages that were written to stays as it is: a program that was relocated
// when it was loaded has such.
func releaseProgram() error {
	program, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		return err
	}
	for _, m := range mappings(maps) {
		if m.file != program || strings.Contains(m.rights, "w") || m.written {
			continue
		}
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, m.from, m.to-m.from, unix.MADV_DONTNEED); errno != 0 {
			return errno
		}
	}
	return nil
}

// mapping is a part of a process's memory.
type mapping struct {
	from, to uintptr
	rights   string // rwxp
	file     string
	written  bool // it has pages that differ from the file's
}

// mappings reads /proc/PID/smaps, see proc_pid_smaps(5).
func mappings(smaps []byte) (all []mapping) {
	for line := range bytes.Lines(smaps) {
		var m mapping
		var offset, device, inode, kilobytes string
		if n, _ := fmt.Sscanf(string(line), "%x-%x %s %s %s %s %s", &m.from, &m.to, &m.rights, &offset, &device, &inode, &m.file); n >= 6 {
			all = append(all, m)
		} else if n, _ := fmt.Sscanf(string(line), "Anonymous: %s kB", &kilobytes); n == 1 && kilobytes != "0" && len(all) > 0 {
			all[len(all)-1].written = true
		}
	}
	return all
}

package main

import (
	"encoding/binary"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// runs watches when a program is run by anybody: the kernel opens its file when
// a process begins to execute it, and closes it when the last one that does has
// ended. That costs the program nothing, and sees it through every sandbox.
type runs struct {
	file *os.File

	mu   sync.Mutex
	open int
	last span
	all  []span
}

// span is one run.
type span struct{ began, ended time.Time }

// watchRuns watches the programs in a directory.
func watchRuns(s *stand, dir string) *runs {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	s.must(err)
	r := &runs{file: os.NewFile(uintptr(fd), "inotify")}
	s.Cleanup(func() { r.file.Close() })
	_, err = unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_CLOSE)
	s.must(err)
	go r.follow()
	return r
}

func (r *runs) follow() {
	buffer := make([]byte, 64<<10)
	for {
		n, err := r.file.Read(buffer)
		if err != nil {
			return // closed
		}
		r.note(time.Now(), buffer[:n])
	}
}

// note reads events as inotify(7) lays them out: watch, mask, cookie and the
// length of the name that follows.
func (r *runs) note(at time.Time, events []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		mask := binary.NativeEndian.Uint32(events[4:])
		events = events[unix.SizeofInotifyEvent+int(binary.NativeEndian.Uint32(events[12:])):]
		switch {
		case mask&unix.IN_ISDIR != 0:
		case mask&unix.IN_OPEN != 0:
			if r.open++; r.open == 1 {
				r.last.began = at
			}
		case mask&unix.IN_CLOSE != 0:
			if r.open--; r.open == 0 {
				r.last.ended = at
				r.all = append(r.all, r.last)
			}
		}
	}
}

// longest is the longest run since this was last asked: a look into the file is
// a short one.
func (r *runs) longest(s *stand) span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found span
	for _, it := range r.all {
		if it.ended.Sub(it.began) > found.ended.Sub(found.began) {
			found = it
		}
	}
	r.all = nil
	if found.began.IsZero() {
		s.Fatal("kaniko's run was not seen")
	}
	return found
}

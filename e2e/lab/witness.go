package lab

import (
	"bytes"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Witness watches a process with all its descendants and directories, again and
// again while they are at work, for canaries and for listening sockets. What it
// has seen once it does not read twice.
type Witness struct {
	canaries *Canaries
	dirs     []string
	skip     func(path string) bool

	looking  sync.Mutex        // one look at a time
	roots    map[int]string    // what is followed by pid → when it started, since pids come again
	family   map[int]string    // descendants by pid → when they started
	read     map[string]string // what was seen of a file or process, by path
	sockets  map[string]int    // how often one was seen
	programs map[string]int
	files    int
	mu       sync.Mutex
	found    map[string]bool
}

// NewWitness watches directories until the test ends; skip names files that
// need no look. Follow adds processes.
func NewWitness(t testing.TB, canaries *Canaries, skip func(path string) bool, dirs ...string) *Witness {
	t.Helper()
	w := &Witness{
		canaries: canaries, dirs: dirs, skip: skip,
		roots: map[int]string{}, family: map[int]string{}, read: map[string]string{}, sockets: map[string]int{}, programs: map[string]int{}, found: map[string]bool{},
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		processes, files := time.NewTicker(10*time.Millisecond), time.NewTicker(100*time.Millisecond)
		defer processes.Stop()
		defer files.Stop()
		for {
			select {
			case <-processes.C:
				w.lookAtProcesses()
			case <-files.C:
				w.Look()
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-stopped })
	return w
}

// Follow watches a process and its descendants from now on. What is in its own
// environment is its owner's business; its children's is its own.
func (w *Witness) Follow(pid int) {
	w.looking.Lock()
	defer w.looking.Unlock()
	if p, alive := processOf(pid); alive {
		w.roots[pid] = p.started
	}
}

// Look looks at everything once, now.
func (w *Witness) Look() {
	w.lookAtProcesses()
	w.looking.Lock()
	defer w.looking.Unlock()
	for _, dir := range w.dirs {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err != nil {
				return nil // it went away: others have been or will be seen
			}
			name := path
			if entry.Type()&fs.ModeSymlink != 0 {
				target, _ := os.Readlink(path)
				name += " → " + target
			}
			if w.news("name of "+path, []byte(name)) {
				w.Text("the name "+name, []byte(name))
			}
			if !entry.Type().IsRegular() || w.skip != nil && w.skip(path) {
				return nil
			}
			info, err := entry.Info()
			if err != nil {
				return nil
			}
			state := fmt.Sprintf("%d %d", info.Size(), info.ModTime().UnixNano())
			if w.read[path] == state {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return nil
			}
			w.read[path] = state
			w.files++
			w.Text(path, content)
			return nil
		})
	}
}

// Text looks at a text that came from somewhere.
func (w *Witness) Text(where string, text []byte) {
	for _, secret := range w.canaries.In(text) {
		w.note(where + " holds " + secret)
	}
}

func (w *Witness) note(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.found[text] = true
}

// Found is everything that should not be.
func (w *Witness) Found() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Sorted(maps.Keys(w.found))
}

// Seen is what the witness had before its eyes: programs by name, with a
// towpath's command, and how many versions of files.
func (w *Witness) Seen() (programs []string, files int) {
	w.looking.Lock()
	defer w.looking.Unlock()
	return slices.Sorted(maps.Keys(w.programs)), w.files
}

func (w *Witness) lookAtProcesses() {
	w.looking.Lock()
	defer w.looking.Unlock()
	// Each is read once: a program has no arguments yet at its very beginning, and one
	// that has them at a second look would not be known as followed.
	family, own := map[int][]byte{}, map[string]bool{}
	for pid := range w.descendants() {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || len(args) == 0 {
			continue
		}
		family[pid] = args
		if w.roots[pid] != "" {
			own[string(args)] = true
		}
	}
	for pid, args := range family {
		dir := fmt.Sprintf("/proc/%d/", pid)
		w.programs[program(args)]++
		name := fmt.Sprintf("process %q", bytes.ReplaceAll(bytes.TrimRight(args, "\x00"), []byte{0}, []byte{' '}))
		if w.news(dir+"cmdline", args) {
			w.Text("the arguments of "+name, args)
		}
		// Until it runs a program of its own, a child shows its parent's memory.
		if environ, err := os.ReadFile(dir + "environ"); err == nil && !own[string(args)] && w.news(dir+"environ", environ) {
			w.Text("the environment of "+name, environ)
		}
		w.lookForListeners(dir, name)
	}
}

// news tells whether a text is another than the last time.
func (w *Witness) news(path string, text []byte) bool {
	if w.read[path] == string(text) {
		return false
	}
	w.read[path] = string(text)
	return true
}

// program is the name of a program, with the command where it is a towpath's.
func program(args []byte) string {
	words := strings.Split(string(args), "\x00")
	name := filepath.Base(words[0])
	if name == "towpath" && len(words) > 1 {
		name += " " + words[1]
	}
	return name
}

// descendants are the processes followed and all below them. One whose parent
// has ended counts as long as it lives.
func (w *Witness) descendants() map[int]bool {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	all := map[int]process{}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if p, alive := processOf(pid); alive {
				all[pid] = p
			}
		}
	}
	family := map[int]bool{}
	var belongs func(pid, depth int) bool
	belongs = func(pid, depth int) bool {
		p, alive := all[pid]
		if !alive || depth > 100 {
			return false
		}
		return w.roots[pid] == p.started || w.family[pid] == p.started || belongs(p.parent, depth+1)
	}
	for pid, p := range all {
		if belongs(pid, 0) {
			family[pid] = true
			w.family[pid] = p.started
		}
	}
	return family
}

type process struct {
	parent  int
	started string
}

// processOf looks a process up.
func processOf(pid int) (p process, alive bool) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return process{}, false
	}
	// proc_pid_stat(5): the name in parentheses may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) < 20 {
		return process{}, false
	}
	parent, err := strconv.Atoi(fields[1])
	return process{parent, fields[19]}, err == nil
}

// lookForListeners finds sockets that take connections or datagrams from
// anybody, by the inodes of a process's descriptors.
func (w *Witness) lookForListeners(dir, name string) {
	descriptors, err := os.ReadDir(dir + "fd")
	if err != nil {
		return
	}
	inodes, fresh := map[string]bool{}, false
	for _, descriptor := range descriptors {
		target, err := os.Readlink(dir + "fd/" + descriptor.Name())
		if inode, ok := strings.CutPrefix(target, "socket:["); err == nil && ok {
			inodes[strings.TrimSuffix(inode, "]")] = true
			// A socket listens soon after it was made or, as a rule, never: the
			// tables cost too much to be read at every look.
			w.sockets[dir+inode]++
			seen := w.sockets[dir+inode]
			fresh = fresh || seen <= 3 || seen%20 == 0
		}
	}
	if !fresh {
		return
	}
	for _, table := range []struct {
		file         string
		state, inode int    // columns
		open         string // what the state says of one that listens
	}{
		{"tcp", 3, 9, "0A"}, {"tcp6", 3, 9, "0A"}, // TCP_LISTEN
		{"udp", 3, 9, "07"}, {"udp6", 3, 9, "07"}, // bound, and connected to nobody
		{"unix", 3, 6, "00010000"}, // __SO_ACCEPTCON
	} {
		content, err := os.ReadFile(dir + "net/" + table.file)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(content)) {
			fields := strings.Fields(line)
			if len(fields) > table.inode && fields[table.state] == table.open && inodes[fields[table.inode]] {
				w.note(fmt.Sprintf("%s listens: %s %s", name, table.file, strings.TrimSpace(line)))
			}
		}
	}
}

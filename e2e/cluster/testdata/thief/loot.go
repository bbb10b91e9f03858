package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// loot writes down all that it can read: its environment, every file, and what
// /proc tells of every process. Its beginning goes to the log, too.
func loot(args []string) {
	out, err := os.Create(args[0])
	must(err)
	defer out.Close()
	all := bufio.NewWriter(out)
	fmt.Fprintln(all, "== the environment")
	for _, variable := range os.Environ() {
		fmt.Fprintln(all, variable)
	}
	processes, err := os.ReadDir("/proc")
	must(err)
	for _, process := range processes {
		if _, err := strconv.Atoi(process.Name()); err != nil {
			continue
		}
		dir := filepath.Join("/proc", process.Name())
		for _, file := range []string{"environ", "cmdline", "status", "mountinfo", "cgroup", "maps", "limits", "uid_map", "attr/current"} {
			keep(all, filepath.Join(dir, file))
		}
		for _, link := range []string{"root", "cwd", "exe", "ns/mnt", "ns/pid", "ns/net", "ns/user"} {
			target, err := os.Readlink(filepath.Join(dir, link))
			fmt.Fprintln(all, "==", filepath.Join(dir, link), "→", target, err)
		}
		descriptors, _ := os.ReadDir(filepath.Join(dir, "fd"))
		for _, descriptor := range descriptors {
			target, _ := os.Readlink(filepath.Join(dir, "fd", descriptor.Name()))
			fmt.Fprintln(all, "==", dir, "has open", target)
		}
		if process.Name() != strconv.Itoa(os.Getpid()) {
			walk(all, filepath.Join(dir, "root"), 2) // another root would be seen here
		}
	}
	walk(all, "/", 64)
	must(all.Flush())
	begin := make([]byte, 64<<10)
	n, err := out.ReadAt(begin, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		must(err)
	}
	_, _ = os.Stdout.Write(begin[:n])
}

// walk keeps every file below a directory, so many levels deep.
func walk(all *bufio.Writer, top string, levels int) {
	_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil //nolint:nilerr // what cannot be read is no loot
		}
		if strings.Count(strings.TrimPrefix(path, top), "/") > levels && entry.IsDir() {
			return fs.SkipDir
		}
		numbered, _ := filepath.Match("/proc/[0-9]*", path)
		if numbered && top == "/" || strings.HasPrefix(path, "/sys/kernel/slab") || strings.HasPrefix(path, "/sys/devices") || strings.HasPrefix(path, "/sys/module") {
			return fs.SkipDir
		}
		if entry.Type()&fs.ModeSymlink != 0 {
			target, _ := os.Readlink(path)
			fmt.Fprintln(all, "==", path, "→", target)
		}
		if entry.Type().IsRegular() && !slices.Contains([]string{"executor", "thief", "probe", "busybox", "kmsg", "kcore", "pagemap"}, entry.Name()) {
			keep(all, path)
		}
		return nil
	})
}

// keep writes one file down, as far as it goes in a moment.
func keep(all *bufio.Writer, path string) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		fmt.Fprintln(all, "==", path, err)
		return
	}
	defer file.Close()
	_ = file.SetReadDeadline(time.Now().Add(time.Second)) // where there is such a thing
	content, _ := io.ReadAll(io.LimitReader(file, 128<<10))
	fmt.Fprintln(all, "==", path)
	_, _ = all.Write(bytes.ReplaceAll(content, []byte{0}, []byte{'\n'}))
	fmt.Fprintln(all)
}

// dump writes down the memory of kaniko itself.
func dump(args []string) {
	out, err := os.Create(args[0])
	must(err)
	defer out.Close()
	maps, err := os.ReadFile("/proc/1/maps")
	must(err)
	memory, err := os.Open("/proc/1/mem")
	if err != nil {
		fmt.Fprintln(out, "cannot:", err) // a kernel that lets nobody
		return
	}
	defer memory.Close()
	total := int64(0)
	for line := range strings.Lines(string(maps)) {
		var from, to uint64
		var rights string
		if _, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		content := make([]byte, min(to-from, 64<<20))
		n, _ := memory.ReadAt(content, int64(from))
		content = bytes.TrimRight(content[:n], "\x00") // most of it was never written to
		_, err = out.Write(content)
		must(err)
		if total += int64(len(content)); total > 128<<20 {
			break
		}
	}
	fmt.Println("kaniko's memory:", total, "bytes")
}

// absent looks for paths that lead to secrets elsewhere.
func absent(paths []string) {
	for _, path := range paths {
		_, err := os.Lstat(path)
		attempt("see "+path, err)
	}
}

// identity tells who we are and what we may do.
func identity([]string) {
	status, err := os.ReadFile("/proc/self/status")
	must(err)
	// CHOWN 0, DAC_OVERRIDE 1, FOWNER 3, FSETID 4, KILL 5, SETGID 6, SETUID 7, SETFCAP 31
	const most = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<31
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		have, _ := strconv.ParseUint(value, 16, 64)
		switch {
		case strings.HasPrefix(name, "Cap") && have&^most != 0:
			breach("capabilities %s are %s", name, value)
		case name == "NoNewPrivs" && value != "1":
			breach("privileges may be gained")
		case name == "Seccomp" && value != "2":
			breach("no filter of system calls")
		}
	}
	// A setuid program of the image's owner gives nothing either.
	ids, err := os.ReadFile("/proc/self/uid_map")
	must(err)
	fmt.Println("user namespace:", strings.Join(strings.Fields(string(ids)), " "))
	groups, err := os.ReadFile("/proc/self/cgroup")
	must(err)
	fmt.Println("control groups:", strings.ReplaceAll(string(groups), "\n", " "))
}

// devices tries to make some, and looks for any but the harmless.
func devices([]string) {
	for name, node := range map[string]struct {
		mode   uint32
		device uint64
	}{
		"a disk": {unix.S_IFBLK | 0o666, unix.Mkdev(254, 0)}, "the machine's memory": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 1)},
		"the kernel's messages": {unix.S_IFCHR | 0o666, unix.Mkdev(1, 11)}, "a disk in the output": {unix.S_IFBLK | 0o666, unix.Mkdev(259, 0)},
	} {
		path := "/tmp/node"
		if strings.HasSuffix(name, "output") {
			path = "/kaniko/.out/node"
		}
		attempt("make "+name, unix.Mknod(path, node.mode, int(node.device)))
	}
	harmless := []string{"full", "null", "random", "tty", "urandom", "zero", "ptmx", "console", "core", "fd", "stdin", "stdout", "stderr", "shm", "mqueue", "pts", "termination-log"}
	found, err := os.ReadDir("/dev")
	must(err)
	for _, entry := range found {
		if !slices.Contains(harmless, entry.Name()) {
			breach("device %s", entry.Name())
		}
	}
	for _, path := range []string{"/sys/fs/cgroup/release_agent", "/sys/kernel/uevent_helper", "/sys/power/state", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/proc/acpi", "/sys/firmware/acpi/tables"} {
		file, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err == nil {
			file.Close()
		}
		attempt("open for writing "+path, err)
	}
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*")
	must(err)
	for _, hierarchy := range append(hierarchies, "/sys/fs/cgroup") {
		var system unix.Statfs_t
		if unix.Statfs(hierarchy, &system) != nil || system.Type != unix.CGROUP_SUPER_MAGIC && system.Type != unix.CGROUP2_SUPER_MAGIC {
			continue // a link, or a directory of the container's own
		}
		attempt("make a group in "+hierarchy, os.Mkdir(filepath.Join(hierarchy, "mine"), 0o755))
	}
}

// descriptors looks for files that are open in some process of the build and lead
// out of its root.
func descriptors([]string) {
	paths, err := filepath.Glob("/proc/[0-9]*/fd/*")
	must(err)
	for _, path := range paths {
		target, err := os.Readlink(path)
		if err != nil {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.IsDir() && !strings.HasPrefix(target, "/proc") && !strings.HasPrefix(target, "/kaniko/") {
			breach("open directory %s is %s", path, target)
		}
		// kaniko itself, a Go program, looks at the limits of its control group.
		known := []string{"pipe:", "anon_inode:", "socket:", "/dev/", "/kaniko/", "/proc", "/sys/fs/cgroup/cpu/cpu.cfs_", "/sys/fs/cgroup/cpu.max"}
		if !slices.ContainsFunc(known, func(prefix string) bool { return strings.HasPrefix(target, prefix) }) {
			breach("open file %s is %s", path, target)
		}
	}
	fmt.Println("descriptors:", len(paths))
}

// processes looks for others than the build's, and tries to end them all.
func processes([]string) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range found {
		line, _ := os.ReadFile(path)
		for _, other := range []string{"towpath\x00", "containerd", "kubelet", "/pause", "kube-"} {
			if bytes.Contains(line, []byte(other)) {
				breach("another's process: %q", line)
			}
		}
	}
	fmt.Println("processes:", len(found))
	fmt.Println("all killed but the first:", unix.Kill(-1, unix.SIGKILL))
	for _, signal := range []unix.Signal{unix.SIGKILL, unix.SIGSTOP} {
		_ = unix.Kill(1, signal) // which the first of a process namespace does not get from inside
	}
}

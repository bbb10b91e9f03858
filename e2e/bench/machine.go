package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"towpath.dev/towpath/e2e/lab"
)

// machine is what the figures were measured on.
type machine struct {
	processor string
	count     int
	memory    int64 // bytes
	kernel    string
	git       string
	load      string // of the last minute, before the first run: others at work
}

func describeMachine(s *stand) machine {
	m := machine{count: runtime.NumCPU(), git: strings.TrimPrefix(strings.TrimSpace(lab.RunGit(s, "", "version")), "git version ")}
	m.processor = field(read(s, "/proc/cpuinfo"), "model name")
	m.memory = kibibytes(s, "/proc/meminfo", "MemTotal")
	m.kernel = strings.TrimSpace(read(s, "/proc/sys/kernel/osrelease"))
	m.load, _, _ = strings.Cut(read(s, "/proc/loadavg"), " ")
	return m
}

func (m machine) String() string {
	return fmt.Sprintf("%d × %s, %d GiB, Linux %s, %s, git %s, load before %s", m.count, m.processor, m.memory>>30, m.kernel, runtime.Version(), m.git, m.load)
}

// memoryOf is what a process ("self" or its number) has of memory, in bytes: VmRSS
// or VmHWM of proc_pid_status(5).
func memoryOf(s *stand, process, name string) int64 {
	return kibibytes(s, "/proc/"+process+"/status", name)
}

// kibibytes reads a "name: n kB" line of a file, in bytes.
func kibibytes(s *stand, path, name string) int64 {
	var n int64
	if _, err := fmt.Sscanf(field(read(s, path), name), "%d kB", &n); err != nil {
		s.Fatalf("%s of %s: %v", name, path, err)
	}
	return n << 10
}

// field is the value of a "name: value" line.
func field(text, name string) string {
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func read(s *stand, path string) string {
	content, err := os.ReadFile(path)
	s.must(err)
	return string(content)
}

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// A worker is this program once more in a process of its own, so that what one
// costs no other is charged with. It answers every order, a line of JSON, with
// a line of JSON, until its standard input ends.
type worker struct {
	name   string
	cmd    *exec.Cmd
	orders *json.Encoder
	input  io.Closer
	answer *json.Decoder
}

// workerArgument makes the program a worker.
const workerArgument = "worker"

// profileVariable names the file that a worker writes its CPU profile to.
const profileVariable = "TOWPATH_BENCH_PROFILE"

// order is what a worker is asked to do.
type order struct {
	Times  int      // how many polls in a row
	Images []string // to bump, all of them ready at once
	Number int      // of the source commit that they are bumped to
	Commit int      // of the server: a colleague commits this number first
}

// cost is what one run cost the process that made it.
type cost struct {
	Began, Ended time.Time
	CPU          time.Duration // user and system
	Peak         int64         // bytes of memory resident at most, in the process's life so far
}

// roles are what a worker can be. Each prepares itself and returns what answers
// its orders.
func roles() map[string]func(*stand, []string) func(order) any {
	return map[string]func(*stand, []string) func(order) any{
		"server":       serve,
		"poll-towpath": pollTowpath,
		"poll-git":     pollGit,
		"poll-go-git":  pollGoGit,
		"bump-warm":    bumpWarm,
		"bump-cold":    bumpCold,
		"bump-flux":    bumpFlux,
	}
}

// work is a worker's life.
func work(s *stand, role string, args []string) {
	if path := os.Getenv(profileVariable); path != "" {
		file, err := os.Create(path)
		s.must(err)
		s.must(pprof.StartCPUProfile(file))
		s.Cleanup(func() {
			pprof.StopCPUProfile()
			file.Close()
		})
	}
	do := roles()[role](s, args)
	orders, answers := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		err := orders.Decode(&o)
		if errors.Is(err, io.EOF) {
			return
		}
		s.must(err)
		s.must(answers.Encode(do(o)))
	}
}

// hire starts a worker, which ends with the benchmark at the latest.
func hire(s *stand, role string, args ...string) *worker {
	self, err := os.Executable()
	s.must(err)
	w := &worker{name: role, cmd: exec.Command(self, append([]string{workerArgument, role}, args...)...)}
	w.cmd.Stderr = os.Stderr
	w.cmd.Env = os.Environ()
	if s.options.profiles != "" {
		w.cmd.Env = append(w.cmd.Env, profileVariable+"="+filepath.Join(s.options.profiles, role+"-"+strconv.Itoa(len(s.cleanups))+".pprof"))
	}
	input, err := w.cmd.StdinPipe()
	s.must(err)
	output, err := w.cmd.StdoutPipe()
	s.must(err)
	s.must(w.cmd.Start())
	w.input, w.orders, w.answer = input, json.NewEncoder(input), json.NewDecoder(output)
	s.Cleanup(func() { w.dismiss(s) })
	return w
}

// ask gives an order and waits for the answer.
func ask[T any](s *stand, w *worker, o order) T {
	var answer T
	err := w.orders.Encode(o)
	if err == nil {
		err = w.answer.Decode(&answer)
	}
	if err != nil {
		s.Fatalf("worker %s: %v", w.name, err)
	}
	return answer
}

// dismiss lets a worker end.
func (w *worker) dismiss(s *stand) {
	w.input.Close()
	if err := w.cmd.Wait(); err != nil {
		s.say("worker %s: %v", w.name, err)
	}
}

// measure does something and tells what it cost: this process (unix.RUSAGE_SELF)
// or those that it started and awaited (unix.RUSAGE_CHILDREN).
func measure(s *stand, who int, do func()) cost {
	before := processorTime(s, who)
	c := cost{Began: time.Now()}
	do()
	c.Ended = time.Now()
	c.CPU = processorTime(s, who) - before
	c.Peak = memoryOf(s, "self", "VmHWM")
	return c
}

func processorTime(s *stand, who int) time.Duration {
	var usage unix.Rusage
	s.must(unix.Getrusage(who, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

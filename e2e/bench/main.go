// Command bench measures what Towpath's speed rests on, side by side with what
// one would otherwise run, and prints a table: the figure, the one it is
// compared with, their ratio, the goal and whether it was reached.
//
//	make bench
//	make bench BENCH=-markdown
//	make bench BENCH="-only poll,bump,batch,delivery" # on one machine
//	make bench BENCH="-only chain,added,crowd,idle"   # in the cluster: some twenty minutes
//
// Everything is real: git http-backend in a process of its own, the git command,
// go-git, Flux's libraries, the built towpath with sandbox, executor and
// registry; and in the cluster a Kubernetes node with Flux's controllers, the
// Deployment of deploy/ and Jobs in which kaniko builds. Each figure is the median of several runs made in turn with those
// that it is compared with, and stands with its least and its greatest.
//
// A machine that does other work as well shows in the figures, so nothing here
// fails for being slow: the exit code is 1 only where something could not be
// measured. The module is apart from Towpath's, which depends on none of what it
// is compared with.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == workerArgument {
		os.Exit(perform(func(s *stand) { work(s, os.Args[2], os.Args[3:]) }))
	}
	var o options
	only := ""
	flag.BoolVar(&o.markdown, "markdown", false, "print the table as Markdown")
	flag.StringVar(&only, "only", "", "measure only these, of: "+strings.Join(names(), ","))
	flag.IntVar(&o.runs, "runs", 7, "how often each is measured")
	flag.StringVar(&o.profiles, "profiles", "", "a directory to write CPU profiles of the workers to")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: bench [flags] TOWPATH")
		flag.PrintDefaults()
	}
	flag.Parse()
	chosen := names()
	if only != "" {
		chosen = strings.Split(only, ",")
	}
	if flag.NArg() != 1 || o.runs < 1 || slices.ContainsFunc(chosen, func(name string) bool { return !slices.Contains(names(), name) }) {
		flag.Usage()
		os.Exit(2)
	}
	var err error
	if o.towpath, err = filepath.Abs(flag.Arg(0)); err == nil && o.profiles != "" {
		if o.profiles, err = filepath.Abs(o.profiles); err == nil {
			err = os.MkdirAll(o.profiles, 0o755)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: error:", err)
		os.Exit(2)
	}
	os.Exit(perform(func(s *stand) { s.options = o; run(s, chosen) }))
}

// options are what the command line says.
type options struct {
	towpath  string // the binary under test
	markdown bool
	runs     int
	profiles string // empty: none
}

// experiment is one set-up and the rows that are measured in it.
type experiment struct {
	table   string
	name    string
	measure func(*stand) []row
}

// The tables that are printed.
const (
	onOneMachine = "On one machine"
	inTheCluster = "In the cluster"
)

func experiments() []experiment {
	return []experiment{
		{onOneMachine, "poll", measurePoll},
		{onOneMachine, "bump", measureBump},
		{onOneMachine, "batch", measureBatch},
		{onOneMachine, "delivery", measureDelivery},
		{inTheCluster, "chain", measureChain},
		{inTheCluster, "added", measureAdded},
		{inTheCluster, "crowd", measureCrowd},
		{inTheCluster, "idle", measureIdle},
	}
}

func names() []string {
	var all []string
	for _, e := range experiments() {
		all = append(all, e.name)
	}
	return all
}

func run(s *stand, chosen []string) {
	machine := describeMachine(s)
	var tables []table
	for _, e := range experiments() {
		if !slices.Contains(chosen, e.name) {
			continue
		}
		s.say("measuring: %s", e.name)
		if len(tables) == 0 || tables[len(tables)-1].title != e.table {
			tables = append(tables, table{title: e.table})
		}
		last := &tables[len(tables)-1]
		last.rows = append(last.rows, e.measure(s)...)
	}
	if s.options.markdown {
		printMarkdown(os.Stdout, machine, tables)
		return
	}
	printText(os.Stdout, machine, tables)
}

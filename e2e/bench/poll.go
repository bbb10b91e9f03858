package main

import (
	"context"
	"os/exec"

	extgogit "github.com/go-git/go-git/v5"
	"github.com/go-git/go-git/v5/config"
	"github.com/go-git/go-git/v5/storage/memory"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/wire"
)

const polledRef = "refs/heads/main"

// measurePoll is one idle poll of a repository with 20,000 refs: has this branch
// moved?
func measurePoll(s *stand) []row {
	server := hire(s, "server", refsRepository(s))
	url := ask[traffic](s, server, order{}).URL
	kinds := []struct {
		role string
		in   int // polls in one run: few cost too little to be measured one by one
	}{{"poll-towpath", 100}, {"poll-git", 5}, {"poll-go-git", 5}}

	workers := make([]*worker, len(kinds))
	for i, k := range kinds {
		workers[i] = hire(s, k.role, url)
		ask[cost](s, workers[i], order{Times: 1}) // the first poll also connects
	}
	received, cpu, wall := make([]samples, len(kinds)), make([]samples, len(kinds)), make([]samples, len(kinds))
	for range s.options.runs {
		for i, k := range kinds {
			ask[traffic](s, server, order{})
			c := ask[cost](s, workers[i], order{Times: k.in})
			n := float64(k.in)
			received[i] = append(received[i], float64(ask[traffic](s, server, order{}).Sent)/n)
			cpu[i] = append(cpu[i], c.CPU.Seconds()/n)
			wall[i] = append(wall[i], c.Ended.Sub(c.Began).Seconds()/n)
		}
	}
	var rows []row
	for i, against := range []string{"", "git ls-remote URL ref", "go-git's listing"} {
		if i == 0 {
			continue
		}
		rows = append(rows,
			row{
				what: "idle poll, 20,000 refs: bytes received", against: against,
				ours: received[0], theirs: received[i], unit: byteSize,
				goal: "under 2 KiB", reached: reached(received[0].median() < 2<<10),
			},
			row{
				what: "idle poll, 20,000 refs: CPU", against: against,
				ours: cpu[0], theirs: cpu[i], unit: seconds,
				goal: "under a tenth", reached: reached(cpu[0].median() < cpu[i].median()/10),
			},
			row{what: "idle poll, 20,000 refs: wall", against: against, ours: wall[0], theirs: wall[i], unit: seconds},
		)
	}
	return rows
}

// pollTowpath polls as the daemon does: one client, whose connection stays.
func pollTowpath(s *stand, args []string) func(order) any {
	remote, err := wire.New(wire.Options{URL: args[0]})
	s.must(err)
	return func(o order) any {
		return measure(s, unix.RUSAGE_SELF, func() {
			for range o.Times {
				refs, err := remote.Refs(context.Background(), polledRef)
				s.must(err)
				if refs[polledRef].IsZero() {
					s.Fatalf("towpath: %s is not listed", polledRef)
				}
			}
		})
	}
}

// pollGit runs the git command, and counts what it and its children use.
func pollGit(s *stand, args []string) func(order) any {
	git := lab.Tool(s, "git")
	return func(o order) any {
		return measure(s, unix.RUSAGE_CHILDREN, func() {
			for range o.Times {
				out, err := exec.Command(git, "ls-remote", args[0], polledRef).Output()
				s.must(err)
				if len(out) == 0 {
					s.Fatalf("git: %s is not listed", polledRef)
				}
			}
		})
	}
}

// pollGoGit lists refs as Flux's source-controller does before it fetches.
func pollGoGit(s *stand, args []string) func(order) any {
	return func(o order) any {
		return measure(s, unix.RUSAGE_SELF, func() {
			for range o.Times {
				remote := extgogit.NewRemote(memory.NewStorage(), &config.RemoteConfig{Name: "origin", URLs: []string{args[0]}})
				refs, err := remote.ListContext(context.Background(), &extgogit.ListOptions{PeelingOption: extgogit.AppendPeeled})
				s.must(err)
				if len(refs) < manyRefs {
					s.Fatalf("go-git: %d refs listed", len(refs))
				}
			}
		})
	}
}

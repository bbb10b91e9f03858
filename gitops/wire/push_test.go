package wire_test

import (
	"bytes"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

func isErr(err, target error) bool { return errors.Is(err, target) }

// packOf is the pack that brings a commit to whoever has its parents.
func packOf(t testing.TB, dir string, commit gitops.Hash) []byte {
	t.Helper()
	cmd := exec.Command("git", "pack-objects", "--revs", "--stdout", "--quiet")
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(commit.String() + "\n^" + commit.String() + "^@\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func value(t testing.TB, dir, ref string) string {
	t.Helper()
	return strings.TrimSpace(lab.RunGit(t, dir, "for-each-ref", "--format=%(objectname)", ref))
}

func storyPush(t *testing.T, s served) {
	ctx := t.Context()
	can, err := s.remote.PushCapabilities(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if !can.Atomic || !can.PushOptions {
		t.Errorf("capabilities: %+v", can)
	}
	tip := s.heads[len(s.heads)-1]
	const ledger = "refs/towpath/production/other"
	next := hash(t, s.work.Commit(lab.Commit{Message: "bump", Files: map[string]string{"app.txt": "new\n"}}))
	err = s.remote.Push(ctx, wire.PushRequest{
		Updates: []wire.Update{
			{Ref: "refs/heads/main", Old: tip, New: next},
			{Ref: ledger, New: next},
		},
		Pack:    bytes.NewReader(packOf(t, s.work.Dir, next)),
		Atomic:  true,
		Options: []string{"ci.skip"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if value(t, s.dir, "refs/heads/main") != next.String() || value(t, s.dir, ledger) != next.String() {
		t.Error("not both refs were pushed")
	}
	lab.RunGit(t, s.dir, "fsck", "--strict")

	// an old value that is none: neither ref moves
	err = s.remote.Push(ctx, wire.PushRequest{
		Updates: []wire.Update{
			{Ref: "refs/heads/main", Old: tip, New: s.heads[0]},
			{Ref: ledger, Old: next, New: s.heads[0]},
		},
		Atomic: true,
	})
	var rejected *wire.RejectedError
	if !errors.As(err, &rejected) || len(rejected.Refs) != 2 {
		t.Errorf("a push over a ref that moved: %v", err)
	}
	if value(t, s.dir, ledger) != next.String() {
		t.Error("an atomic push was applied by half")
	}
	// no pack at all, and a deletion
	err = s.remote.Push(ctx, wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/again", New: next}, {Ref: ledger, Old: next}}})
	if err != nil {
		t.Fatal(err)
	}
	err = s.remote.Push(ctx, wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/again", Old: next}}})
	if err != nil {
		t.Fatal(err)
	}
	if value(t, s.dir, "refs/heads/again") != "" || value(t, s.dir, ledger) != "" {
		t.Error("refs were not deleted")
	}
}

func TestPushHooks(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t, lab.GitOptions{Config: map[string]string{"receive.advertiseAtomic": "false", "receive.advertisePushOptions": "false"}})
	url := server.Create("fleet.git")
	work, heads := fill(t, server.Dir("fleet.git"), 3)
	server.Hook("fleet.git", "update", `case $1 in refs/towpath/*) printf 'no \033[31mledger\nhere\n' >&2; exit 1;; esac`)
	remote := dial(t, wire.Options{URL: url})
	next := hash(t, work.Commit(lab.Commit{Message: "bump"}))
	push := wire.PushRequest{
		Updates: []wire.Update{
			{Ref: "refs/heads/main", Old: heads[2], New: next},
			{Ref: "refs/towpath/a/b", New: next},
		},
		Pack:   bytes.NewReader(packOf(t, work.Dir, next)),
		Atomic: true,
	}
	if err := remote.Push(t.Context(), push); !errors.Is(err, wire.ErrAtomicUnsupported) {
		t.Fatalf("atomic: %v", err)
	}
	push.Atomic = false
	push.Options = []string{"x"}
	if err := remote.Push(t.Context(), push); !errors.Is(err, wire.ErrPushOptionsUnsupported) {
		t.Fatalf("options: %v", err)
	}
	push.Options = nil
	var told []string
	push.Progress = func(line string) { told = append(told, line) }
	err := remote.Push(t.Context(), push)
	var rejected *wire.RejectedError
	if !errors.As(err, &rejected) {
		t.Fatal(err)
	}
	if len(rejected.Refs) != 1 || rejected.Refs["refs/towpath/a/b"] != "hook declined" || rejected.Messages != "no [31mledger here error: hook declined to update refs/towpath/a/b" {
		t.Errorf("rejected: %+v", rejected)
	}
	if len(told) != 3 {
		t.Errorf("told: %q", told)
	}
	if value(t, server.Dir("fleet.git"), "refs/heads/main") != next.String() {
		t.Error("the other ref was not pushed")
	}
}

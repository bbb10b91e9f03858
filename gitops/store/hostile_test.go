package store_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/store"
	"towpath.dev/towpath/gitops/wire"
)

// liar is a server that answers as the test says.
type liar func(wire.FetchRequest) (*wire.Pack, error)

func (l liar) Fetch(_ context.Context, r wire.FetchRequest) (*wire.Pack, error) { return l(r) }

func openFor(t testing.TB, server liar) (*store.Store, string) {
	t.Helper()
	dir := t.TempDir()
	s, err := store.OpenFor(dir, server)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, dir
}

func reply(pack []byte, shallow ...gitops.Hash) (*wire.Pack, error) {
	return &wire.Pack{ReadCloser: io.NopCloser(bytes.NewReader(pack)), Shallow: shallow}, nil
}

// packOf has real git pack exactly the objects named.
func packOf(t testing.TB, dir string, objects ...string) []byte {
	t.Helper()
	cmd := exec.Command("git", "pack-objects", "--stdout", "--quiet", "--delta-base-offset")
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(strings.Join(objects, "\n")+"\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// objectsOf names every object of commits, the history included.
func objectsOf(t testing.TB, dir string, revisions ...string) []string {
	t.Helper()
	var names []string
	for line := range strings.Lines(lab.RunGit(t, dir, append([]string{"rev-list", "--objects"}, revisions...)...)) {
		names = append(names, strings.Fields(line)[0])
	}
	return names
}

// TestHoles leaves out each object of a history in turn: no such pack is taken,
// and nothing of it stays.
func TestHoles(t *testing.T) {
	t.Parallel()
	work := lab.NewWork(t, "")
	work.Commit(lab.Commit{Files: map[string]string{"d/e/f": "1\n", "g": "2\n"}})
	tip := work.Commit(lab.Commit{Files: map[string]string{"g": "3\n"}})
	all := objectsOf(t, work.Dir, tip)
	for i, left := range all {
		pack := packOf(t, work.Dir, append(append([]string(nil), all[:i]...), all[i+1:]...)...)
		asked := 0
		s, dir := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) { asked++; return reply(pack) })
		err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 0)
		if err == nil || !errors.Is(err, store.ErrMissing) || !strings.Contains(err.Error(), left) {
			t.Errorf("without %s: %v", left, err)
		}
		if asked != 2 {
			t.Errorf("asked %d times", asked)
		}
		if files, _ := filepath.Glob(filepath.Join(dir, "0/*/*")); len(files) != 1 { // objects/pack
			t.Errorf("left behind: %v", files)
		}
	}
	// A server may say that history ends at a commit. That excuses its parents
	// and nothing else.
	tree := strings.TrimSpace(lab.RunGit(t, work.Dir, "rev-parse", tip+"^{tree}"))
	s, _ := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) {
		return reply(packOf(t, work.Dir, objectsOf(t, work.Dir, tip, "^"+tip+"^")...), hash(t, tip), hash(t, tree))
	})
	if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 1); !errors.Is(err, store.ErrMissing) {
		t.Errorf("a boundary excused a missing blob: %v", err)
	}
}

// TestBelievedToHave: a server that leaves out what it wrongly takes us to have
// is asked again without a past.
func TestBelievedToHave(t *testing.T) {
	t.Parallel()
	work := lab.NewWork(t, "")
	first := work.Commit(lab.Commit{Files: map[string]string{"a": "1\n", "b": "2\n"}})
	second := work.Commit(lab.Commit{Files: map[string]string{"a": "3\n"}})
	third := work.Commit(lab.Commit{Files: map[string]string{"b": "4\n"}})
	var requests []wire.FetchRequest
	s, _ := openFor(t, func(r wire.FetchRequest) (*wire.Pack, error) {
		requests = append(requests, r)
		switch len(requests) {
		case 1:
			return reply(packOf(t, work.Dir, objectsOf(t, work.Dir, first)...))
		case 2: // leaves out the commit between and its blob
			return reply(packOf(t, work.Dir, objectsOf(t, work.Dir, third, "^"+second)...))
		default:
			return reply(packOf(t, work.Dir, objectsOf(t, work.Dir, third)...))
		}
	})
	for _, commit := range []string{first, third} {
		if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, commit)}, 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(requests) != 3 || len(requests[1].Haves) != 1 || len(requests[2].Haves) != 0 {
		t.Errorf("requests: %+v", requests)
	}
	compare(t, s, work.Dir, third)
}

func TestMalformedPacks(t *testing.T) {
	t.Parallel()
	work := lab.NewWork(t, "")
	var tip string
	for i := range 4 {
		tip = work.Commit(lab.Commit{Files: map[string]string{"f": strings.Repeat("same\n", 500) + strings.Repeat("x", i)}})
	}
	good := packOf(t, work.Dir, objectsOf(t, work.Dir, tip)...)
	sealed := func(body []byte) []byte {
		sum := sha1.Sum(body)
		return append(append([]byte(nil), body...), sum[:]...)
	}
	body := good[:len(good)-20]
	count := func(n byte) []byte {
		changed := append([]byte(nil), body...)
		changed[11] = n
		return sealed(changed)
	}
	first := strings.TrimSpace(lab.RunGit(t, work.Dir, "rev-list", "--max-parents=0", tip))
	thin := exec.Command("git", "pack-objects", "--stdout", "--quiet", "--thin", "--revs")
	thin.Dir, thin.Stdin = work.Dir, strings.NewReader(tip+"\n^"+first+"\n")
	thinPack, err := thin.Output()
	if err != nil {
		t.Fatal(err)
	}
	packs := map[string][]byte{
		"empty":                {},
		"no pack":              []byte("HTTP/1.1 200 OK\r\n\r\nsome page that is longer than a header"),
		"version 3":            sealed([]byte("PACK\x00\x00\x00\x03\x00\x00\x00\x00")),
		"no objects":           sealed([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x00")),
		"cut":                  good[:len(good)/2],
		"no trailer":           body,
		"wrong trailer":        append(append([]byte(nil), body...), make([]byte, 20)...),
		"more after the end":   append(append([]byte(nil), good...), 'x'),
		"more than counted":    count(body[11] - 1),
		"fewer than counted":   count(body[11] + 1),
		"absurd count":         sealed([]byte("PACK\x00\x00\x00\x02\xff\xff\xff\xff")),
		"unknown type":         sealed([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x50")),
		"absurd size":          sealed([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf\xff\xff\xff\xff\xff\x7f")),
		"endless size":         sealed([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\xbf" + strings.Repeat("\xff", 40))),
		"deltas on what's not": thinPack,
	}
	for at := 12; at < len(body); at += max(1, len(body)/97) {
		flipped := append([]byte(nil), body...)
		flipped[at] ^= 0x10
		packs["flipped at "+string(rune('0'+at%10))+strings.Repeat("+", at/10)] = sealed(flipped)
	}
	for name, pack := range packs {
		s, _ := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) { return reply(pack) })
		if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 0); err == nil {
			if !strings.HasPrefix(name, "flipped") {
				t.Errorf("%.40s: taken", name)
			}
			compare(t, s, work.Dir, tip) // some bits of deflate's do not matter
		} else if s.Has(hash(t, tip)) {
			t.Errorf("%.40s: refused and yet there", name)
		}
	}
	s, _ := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) { return reply(good) })
	if err := s.Fetch(t.Context(), []gitops.Hash{hash(t, tip)}, 0); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	work := lab.NewWork(t, "")
	tip := work.Commit(lab.Commit{Files: map[string]string{"a": "1\n"}})
	pack := packOf(t, work.Dir, objectsOf(t, work.Dir, tip)...)
	s, dir := openFor(t, func(wire.FetchRequest) (*wire.Pack, error) { return reply(pack) })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Fetch(ctx, []gitops.Hash{hash(t, tip)}, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "0/tmp/*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

package fleet

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"unicode"

	"towpath.dev/towpath/e2e/lab"
)

// garbler stands before an honest server and spoils what it says.
type garbler struct {
	mu   sync.Mutex
	rng  *rand.Rand
	on   bool
	past map[string][][]byte // what it said, by kind of request
}

func (c *garbler) spoil(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = on
}

func (c *garbler) play(w http.ResponseWriter, r *http.Request, next http.Handler) {
	body, _ := io.ReadAll(r.Body)
	r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
	which := kind(r, body)
	if which == "offer" {
		which += r.URL.RawQuery
		if strings.Contains(which, "receive-pack") {
			// A server that once forgets atomic leaves what takes a person.
			next.ServeHTTP(w, r)
			return
		}
	}
	answer := httptest.NewRecorder()
	c.mu.Lock()
	on, drop := c.on && c.rng.IntN(100) < 45, c.rng.IntN(20) == 0
	c.mu.Unlock()
	if !on || !drop {
		next.ServeHTTP(answer, r)
	}
	out := answer.Body.Bytes()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !on {
		c.past[which] = append(c.past[which], bytes.Clone(out))
		copyOut(w, answer, out)
		return
	}
	what := c.rng.IntN(14)
	out = bytes.Clone(out)
	switch what {
	case 0: // flip some bytes
		for range 1 + c.rng.IntN(4) {
			if len(out) > 0 {
				out[c.rng.IntN(len(out))] ^= byte(1 << c.rng.IntN(8))
			}
		}
	case 1: // cut
		if len(out) > 0 {
			out = out[:c.rng.IntN(len(out))]
		}
	case 2, 3, 4, 5: // replay
		if past := c.past[which]; len(past) > 0 {
			out = past[c.rng.IntN(len(past))]
		}
	case 6: // answer of another kind
		kinds := slices.Sorted(maps.Keys(c.past))
		if len(kinds) > 0 {
			past := c.past[kinds[c.rng.IntN(len(kinds))]]
			out = past[c.rng.IntN(len(past))]
		}
	case 7:
		w.Header().Set("Retry-After", "0")
		w.WriteHeader([]int{500, 502, 503, 401, 403, 404, 409, 429, 304, 204, 418}[c.rng.IntN(11)])
		return
	case 8:
		panic(http.ErrAbortHandler)
	case 9: // an insertion between two packets
		out = c.insert(out)
	case 10: // packets shuffled
		out = c.shuffle(out)
	case 11: // a hash becomes another that was seen
		out = c.swapHash(out)
	case 12: // a packet twice, or one left out
		out = c.repeat(out)
	case 13:
		if c.rng.IntN(2) == 0 {
			w.Header().Set("Content-Encoding", "gzip")
		} else {
			w.Header().Set("Content-Length", strconv.Itoa(len(out)+10))
		}
	}
	copyOut(w, answer, out)
}

func copyOut(w http.ResponseWriter, a *httptest.ResponseRecorder, body []byte) {
	for k, v := range a.Header() {
		if k != "Content-Length" {
			w.Header()[k] = v
		}
	}
	w.WriteHeader(a.Code)
	w.Write(body)
}

func packets(out []byte) (list [][]byte) {
	for len(out) >= 4 {
		n, err := strconv.ParseUint(string(out[:4]), 16, 16)
		if err != nil || int(n) > len(out) {
			break
		}
		n = max(n, 4)
		list = append(list, out[:n])
		out = out[n:]
	}
	if len(out) > 0 {
		list = append(list, out)
	}
	return list
}

func (c *garbler) insert(out []byte) []byte {
	list := packets(out)
	h := c.someHash(out)
	extra := []string{
		packet("shallow " + h + "\n"), packet("unshallow " + h + "\n"), packet("ERR \x1b[2Jgo away\n"), packet("\x02progress\x1b[31m\r\n"),
		packet("\x03fatal\n"), "0000", "0001", "0002", packet(h + " refs/heads/main\n"), packet(h + " refs/towpath/production/podinfo\n"),
		packet("acknowledgments\n"), packet("packfile\n"), packet("shallow-info\n") + packet("shallow "+h+"\n") + "0001", packet("ng refs/heads/main x\n"), packet("ok refs/heads/main\n"), packet(""), packet("\x01"), packet("NAK\n"),
	}[c.rng.IntN(18)]
	at := c.rng.IntN(len(list) + 1)
	var b bytes.Buffer
	for i, p := range list {
		if i == at {
			b.WriteString(extra)
		}
		b.Write(p)
	}
	if at == len(list) {
		b.WriteString(extra)
	}
	return b.Bytes()
}

func (c *garbler) shuffle(out []byte) []byte {
	list := packets(out)
	c.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return bytes.Join(list, nil)
}

func (c *garbler) repeat(out []byte) []byte {
	list := packets(out)
	if len(list) == 0 {
		return out
	}
	i := c.rng.IntN(len(list))
	if c.rng.IntN(2) == 0 {
		list[i] = append(bytes.Clone(list[i]), list[i]...)
	} else {
		list[i] = nil
	}
	return bytes.Join(list, nil)
}

// hashes are hex strings of 40 digits.
func hashesIn(out []byte) (found []string) {
	for i := 0; i+40 <= len(out); i++ {
		ok := true
		for _, b := range out[i : i+40] {
			if !strings.ContainsRune("0123456789abcdef", rune(b)) {
				ok = false
				break
			}
		}
		if ok {
			found = append(found, string(out[i:i+40]))
			i += 39
		}
	}
	return found
}

func (c *garbler) someHash(out []byte) string {
	all := hashesIn(out)
	for _, kind := range slices.Sorted(maps.Keys(c.past)) {
		for _, p := range c.past[kind] {
			if len(p) < 4000 {
				all = append(all, hashesIn(p)...)
			}
		}
	}
	if len(all) == 0 {
		return strings.Repeat("1", 40)
	}
	return all[c.rng.IntN(len(all))]
}

func (c *garbler) swapHash(out []byte) []byte {
	own := hashesIn(out)
	if len(own) == 0 {
		return out
	}
	return bytes.Replace(out, []byte(own[c.rng.IntN(len(own))]), []byte(c.someHash(nil)), 1)
}

// TestGarbledAnswers: nearly every second answer of an honest server is spoilt, or
// an older one is told again, while people push, revert, merge and reset. Nothing
// is promoted twice or told to hold what it does not, every error is one clean
// line, and once the server is honest again the next commit is promoted.
//
// GARBLE_SEED plays that one history.
func TestGarbledAnswers(t *testing.T) {
	t.Parallel()
	seeds := []uint64{1, 2, 3}
	if word := os.Getenv("GARBLE_SEED"); word != "" {
		seed, err := strconv.ParseUint(word, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds = []uint64{seed}
	}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			garbled(t, seed)
		})
	}
}

func garbled(t *testing.T, seed uint64) {
	o := lab.GitOptions{Config: map[string]string{}, V0: seed%5 == 2}
	if seed%3 == 1 {
		o.Config["receive.advertiseAtomic"] = "false"
	}
	y := newYard(t, plainFiles(), o)
	c := &garbler{rng: rand.New(rand.NewPCG(seed, 1)), past: map[string][][]byte{}}
	y.faults.all = c.play
	rng := rand.New(rand.NewPCG(seed, 2))
	reviewed := seed%4 == 3
	start := func() *Fleet {
		return y.fleet(func(o *Options) {
			if reviewed {
				o.PushBranch = "towpath/{{ .Image }}"
			}
		})
	}
	f := start()
	people := []func(){
		func() {
			y.person("main", lab.Commit{Message: "another", Files: map[string]string{"other": fmt.Sprint(rng.Int())}})
		},
		func() {
			bump := y.ledger("podinfo")
			if _, err := lab.TryGit(y.dir, "merge-base", "--is-ancestor", bump, "main"); bump != "" && err == nil && y.file("main", podinfoFile) == y.file(bump, podinfoFile) {
				y.revert("main", bump)
			}
		},
		func() { f = start() },
		func() {
			if parent := y.ref("main~1"); parent != "" {
				y.run("update-ref", "refs/heads/main", parent)
			}
		},
		func() {
			if y.ref("towpath/podinfo") == "" {
				return
			}
			if _, err := lab.TryGit(y.dir, "merge-base", "--is-ancestor", "main", "towpath/podinfo"); err == nil && rng.IntN(2) == 0 {
				y.run("update-ref", "refs/heads/main", "towpath/podinfo")
			}
			y.run("update-ref", "-d", "refs/heads/towpath/podinfo")
		},
		func() {},
	}
	n := 1
	for range 20 {
		c.spoil(false)
		people[rng.IntN(len(people))]()
		c.spoil(true)
		s, err := f.Promoted(t.Context(), podinfo)
		if err == nil && (s.Entry == nil || s.Entry.Source != source(n).Hash) {
			_, err = f.Promote(t.Context(), bumpTo(podinfo, n, s))
		}
		if err == nil {
			n++
		} else if len(err.Error()) > 3000 || strings.ContainsFunc(err.Error(), unicode.IsControl) {
			t.Errorf("an error that is not a clean line: %q", err)
		}
	}
	c.spoil(false)
	var err error
	for range 3 {
		n++
		var s State
		if s, err = f.Promoted(t.Context(), podinfo); err == nil {
			if _, err = f.Promote(t.Context(), bumpTo(podinfo, n, s)); err == nil {
				break
			}
		}
	}
	if err != nil {
		t.Fatalf("the server is honest again: %v\n%s\n%s", err, y.run("log", "--oneline", "--graph", "--all"), y.run("for-each-ref"))
	}
	want := Holds
	if reviewed {
		want = Proposed
	}
	y.stands(f, podinfo, want)
	y.sound()
}

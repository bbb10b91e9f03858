package fleet

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
)

// trick is what becomes of one request.
type trick = func(w http.ResponseWriter, r *http.Request, next http.Handler)

// faults stands before the git server and plays tricks on pushes.
type faults struct {
	all   trick // played on every request; nil: none
	mu    sync.Mutex
	queue []trick
	count map[string]int
}

// push queues tricks: each is played on one push, in order.
func (f *faults) push(tricks ...trick) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queue = append(f.queue, tricks...)
}

// counts returns how many requests of each kind came since it was last asked.
func (f *faults) counts() map[string]int {
	f.mu.Lock()
	defer f.mu.Unlock()
	counted := f.count
	f.count = nil
	return counted
}

func (f *faults) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f.all != nil {
			f.all(w, r, next)
			return
		}
		body, _ := io.ReadAll(r.Body)
		r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(bytes.NewReader(body)), int64(len(body)), nil
		f.mu.Lock()
		if f.count == nil {
			f.count = map[string]int{}
		}
		f.count[kind(r, body)]++
		var play trick
		if kind(r, body) == "push" && len(f.queue) > 0 {
			play, f.queue = f.queue[0], f.queue[1:]
		}
		f.mu.Unlock()
		if play != nil {
			play(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func kind(r *http.Request, body []byte) string {
	switch {
	case strings.HasSuffix(r.URL.Path, "/git-receive-pack"):
		return "push"
	case bytes.Contains(body, []byte("command=ls-refs")):
		return "refs"
	case bytes.Contains(body, []byte("command=fetch")):
		return "fetch"
	default:
		return "offer"
	}
}

// The tricks. What a real server applied is told to nobody; what it did not is
// told to have been.

func emptyAnswer(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	w.WriteHeader(http.StatusOK)
}

func appliedThenEmpty(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	w.WriteHeader(http.StatusOK)
}

func appliedThenCut(_ http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

func cut(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

func fails500(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	http.Error(w, "internal error", http.StatusInternalServerError)
}

func appliedThen500(w http.ResponseWriter, r *http.Request, next http.Handler) {
	next.ServeHTTP(httptest.NewRecorder(), r)
	http.Error(w, "internal error", http.StatusInternalServerError)
}

// discards reports success for every ref, and applies nothing.
func discards(w http.ResponseWriter, r *http.Request, _ http.Handler) {
	body, _ := io.ReadAll(r.Body)
	report := packet("unpack ok\n")
	for len(body) >= 4 {
		n, err := strconv.ParseUint(string(body[:4]), 16, 16)
		if err != nil || n < 4 || int(n) > len(body) {
			break // the flush before the pack
		}
		line, _, _ := strings.Cut(string(body[4:n]), "\x00")
		report += packet("ok " + strings.Fields(line)[2] + "\n")
		body = body[n:]
	}
	w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
	io.WriteString(w, packet("\x01"+report+"0000")+"0000")
}

func packet(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

func honest(w http.ResponseWriter, r *http.Request, next http.Handler) { next.ServeHTTP(w, r) }

// before runs something, then lets the push through.
func before(do func()) trick {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		do()
		next.ServeHTTP(w, r)
	}
}

package lab

import (
	"fmt"
	"net/http"
	"strconv"
	"sync"
)

// Weather stands before a server and spoils its answers for as long as a test
// says: use Before as a git server's middleware, or in a registry's hook. The
// zero value lets everything pass.
type Weather struct {
	mu     sync.Mutex
	storm  Storm
	struck int
	calm   chan struct{} // closed when a hanging storm ends
}

// Storm is what happens to every request.
type Storm struct {
	Status     int // answers with this status
	RetryAfter int // and asks to be left alone for so many seconds
	Cut        bool
	Hang       bool // says nothing until the storm ends, and then cuts
}

// String names the storm for a test's name.
func (s Storm) String() string {
	switch {
	case s.Hang:
		return "hangs"
	case s.Cut:
		return "cut"
	case s.RetryAfter > 0:
		return fmt.Sprintf("%d, retry after %ds", s.Status, s.RetryAfter)
	}
	return strconv.Itoa(s.Status)
}

// Begin begins a storm, which has struck nobody yet.
func (w *Weather) Begin(storm Storm) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.storm, w.struck, w.calm = storm, 0, make(chan struct{})
}

// End lets everything pass again.
func (w *Weather) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calm != nil {
		close(w.calm)
	}
	w.storm, w.calm = Storm{}, nil
}

// Struck is how many requests this storm has hit.
func (w *Weather) Struck() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.struck
}

// Before spoils a server's answers.
func (w *Weather) Before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		storm, calm := w.storm, w.calm
		if storm != (Storm{}) {
			w.struck++
		}
		w.mu.Unlock()
		switch {
		case storm == Storm{}:
			next.ServeHTTP(rw, r)
		case storm.Hang:
			select {
			case <-calm:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		case storm.Cut:
			panic(http.ErrAbortHandler)
		default:
			if storm.RetryAfter > 0 {
				rw.Header().Set("Retry-After", strconv.Itoa(storm.RetryAfter))
			}
			http.Error(rw, "bad weather", storm.Status)
		}
	})
}

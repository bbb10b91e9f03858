package e2e

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
)

// fault is what happens to a request, or to the daemon while it is served.
type fault string

const (
	fails       fault = "fails"                   // answered with 500, not carried out
	cut         fault = "cut"                     // the connection ends, not carried out
	appliedCut  fault = "applied but cut"         // carried out, and the connection ends
	killBefore  fault = "daemon killed before it" // SIGKILL, then carried out for nobody… or not at all
	killedAfter fault = "daemon killed after it"  // carried out, SIGKILL before the answer arrives
)

// faultsOf is what may happen to a step. One that only reads is the same to the
// world whether it was carried out or not.
func faultsOf(step string) []fault {
	if strings.Contains(step, " GET ") || strings.Contains(step, " HEAD ") || strings.Contains(step, "/git-upload-pack") {
		return []fault{fails, killedAfter}
	}
	return []fault{fails, cut, appliedCut, killBefore, killedAfter}
}

// saboteur sits before the git server and the registry. It names each request
// so that runs can be compared, and strikes the one it is told to.
type saboteur struct {
	mu     sync.Mutex
	seen   map[string]int
	steps  []string
	target string
	fault  fault
	struck bool
	kill   func()
}

// plan starts a new run: strike the named step, or none.
func (s *saboteur) plan(step string, f fault, kill func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen, s.steps, s.struck = map[string]int{}, nil, false
	s.target, s.fault, s.kill = step, f, kill
}

// record is the steps of the run so far.
func (s *saboteur) record() (steps []string, struck bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.steps, s.struck
}

var volatile = regexp.MustCompile(`sha256[:-][0-9a-f]{64}|[0-9a-f]{8}-[0-9a-f-]{27}|master-[0-9a-f]{12}-[0-9]+(-[0-9a-f]{8})?|uploads/[^/]*$`)

// name tells the n-th request of its kind from others, without what differs
// from run to run.
func (s *saboteur) name(server string, r *http.Request) string {
	path := volatile.ReplaceAllString(r.URL.Path, "*")
	if service := r.URL.Query().Get("service"); service != "" {
		path += "?" + service
	}
	key := server + " " + r.Method + " " + path
	s.seen[key]++
	return fmt.Sprintf("%s #%d", key, s.seen[key])
}

// around wraps a server.
func (s *saboteur) around(server string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if s.seen == nil {
			s.mu.Unlock()
			next.ServeHTTP(w, r)
			return
		}
		step := s.name(server, r)
		s.steps = append(s.steps, step)
		hit := step == s.target && !s.struck
		if hit {
			s.struck = true
		}
		f, kill := s.fault, s.kill
		s.mu.Unlock()
		if !hit {
			next.ServeHTTP(w, r)
			return
		}
		switch f {
		case fails:
			http.Error(w, "sabotage", http.StatusInternalServerError)
			return
		case appliedCut:
			next.ServeHTTP(httptest.NewRecorder(), r)
		case killBefore:
			kill()
		case killedAfter:
			next.ServeHTTP(httptest.NewRecorder(), r)
			kill()
		}
		panic(http.ErrAbortHandler)
	})
}

package job_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// storm is an API server that answers badly, in every way that one can, as long
// as it lasts: before a request was carried out, and after.
type storm struct {
	over atomic.Bool
	mu   sync.Mutex
	dice *rand.Rand
}

func (s *storm) throw(n int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.dice.IntN(n)
}

func (s *storm) through(config *rest.Config) *rest.Config {
	config = rest.CopyConfig(config)
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(r *http.Request) (*http.Response, error) {
			if s.over.Load() || s.throw(3) > 0 {
				response, err := next.RoundTrip(r)
				if err == nil && r.URL.Query().Get("watch") != "" && !s.over.Load() {
					response.Body = &cutBody{ReadCloser: response.Body, left: 200 + s.throw(6000)}
				}
				return response, err
			}
			answer := func(code int, reason metav1.StatusReason) (*http.Response, error) {
				body := fmt.Sprintf(`{"kind":"Status","apiVersion":"v1","status":"Failure","message":"a storm","reason":%q,"code":%d}`, reason, code)
				return &http.Response{
					StatusCode: code, Status: http.StatusText(code), Header: http.Header{"Content-Type": {"application/json"}},
					Body: io.NopCloser(strings.NewReader(body)), Request: r, Proto: "HTTP/2.0", ProtoMajor: 2,
				}, nil
			}
			switch s.throw(8) {
			case 0:
				return answer(http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests)
			case 1:
				return answer(http.StatusInternalServerError, metav1.StatusReasonInternalError)
			case 2:
				return answer(http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable)
			case 3:
				return answer(http.StatusGone, metav1.StatusReasonExpired)
			case 4:
				return answer(http.StatusGatewayTimeout, metav1.StatusReasonTimeout)
			case 5:
				return nil, errors.New("connection refused")
			case 6:
				return &http.Response{
					StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{"Content-Type": {"text/html"}},
					Body: io.NopCloser(bytes.NewReader([]byte("<html>sign in</html>"))), Request: r, Proto: "HTTP/2.0", ProtoMajor: 2,
				}, nil
			default: // carried out, and nobody is told
				response, err := next.RoundTrip(r)
				if err == nil {
					response.Body.Close()
				}
				return nil, errors.New("connection reset by peer")
			}
		})
	})
	return config
}

// cutBody is a stream that breaks.
type cutBody struct {
	io.ReadCloser
	left int
}

func (c *cutBody) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.ReadCloser.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// TestStorm: whatever an API server answers, and whatever it does not, costs time
// and nothing else: no build is blamed, none is run again that had ended well, and
// each ends with what its own Job published.
func TestStorm(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	s.Concurrency = 3
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	bad := &storm{dice: rand.New(rand.NewPCG(seed, 0))}
	b := builder(t, bad.through(daemon(t, s.Namespace)), s)
	b.Glance(200 * time.Millisecond)

	// Somebody runs what there is.
	ran := map[string]int{}
	stop := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		look := time.NewTicker(20 * time.Millisecond)
		defer look.Stop()
		for {
			select {
			case <-stop:
				return
			case <-look.C:
			}
			list, err := cluster.client.BatchV1().Jobs(s.Namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return
			}
			for i := range list.Items {
				one := &list.Items[i]
				if ran[string(one.UID)] > 0 {
					continue
				}
				ran[string(one.UID)]++
				cluster.succeed(cluster.pod(one, nil), digestOf(one))
				cluster.end(one, batchv1.JobComplete, "CompletionsReached", "")
			}
		}
	})
	const n = 6
	var all sync.WaitGroup
	time.AfterFunc(8*time.Second, func() { bad.over.Store(true) })
	for i := range n {
		all.Go(func() {
			what := what
			what.Order.Image = fmt.Sprintf("image-%d", i)
			what.Order.Destination.Repository = fmt.Sprintf("registry.example.com/apps/image-%d", i)
			again := time.NewTicker(50 * time.Millisecond)
			defer again.Stop()
			for range 400 {
				built, err := b.Run(t.Context(), what)
				var fault *kaniko.BuildError
				if errors.As(err, &fault) {
					t.Errorf("%d is blamed: %v", i, err)
					return
				}
				if err == nil {
					_, uid, _ := strings.Cut(built.Run, job.Name(what.Order)+"/")
					if built.Digest != digestOfUID(uid) {
						t.Errorf("%d: %s of Job %s", i, built.Digest, uid)
					}
					return
				}
				<-again.C
			}
			t.Errorf("%d never ended", i)
		})
	}
	all.Wait()
	close(stop)
	running.Wait()
	if len(ran) != n {
		t.Errorf("%d Jobs ran for %d builds", len(ran), n)
	}
}

func digestOf(j *batchv1.Job) string { return digestOfUID(string(j.UID)) }

func digestOfUID(uid string) string {
	hex := strings.ReplaceAll(uid, "-", "")
	return "sha256:" + hex + hex
}

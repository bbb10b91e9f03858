package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sync/errgroup"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
)

// TestPullOverAllowedPort builds from a registry of the private network, over
// plain HTTP: Allow opens it, and the image goes there too, with plain HTTP
// allowed.
func TestPullOverAllowedPort(t *testing.T) {
	t.Parallel()
	own := lab.OuterAddress(t)
	listener, err := net.Listen("tcp", own+":0")
	if err != nil {
		t.Fatal(err)
	}
	var requests atomic.Int64
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		handler.ServeHTTP(w, r)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { server.Close() })
	host := listener.Addr().String()
	base := lab.PushImage(t, host+"/base", "1", lab.Busybox(t))
	pushed := requests.Load()

	w := newWorld(t, nil)
	w.builder.Allow = []string{host}
	w.dockerfile(t, "FROM "+base+"\nCOPY --from="+host+"/base:1 /bin/busybox /again\nRUN cmp /bin/busybox /again\n")
	job := w.job()
	job.Order.Destination = kaniko.Destination{Repository: host + "/app", Insecure: true}
	if _, err := w.builder.Run(t.Context(), job); err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}
	if requests.Load() == pushed {
		t.Error("the registry was not asked")
	}
	w.nothingLeft(t)
}

// TestBaseBehindCredential: a build has none, so the same commit fails again
// until the config says otherwise, and the hint what.
func TestBaseBehindCredential(t *testing.T) {
	t.Parallel()
	for status, body := range map[int]string{
		http.StatusUnauthorized: `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`,
		http.StatusForbidden:    "go away",
	} {
		listener, err := net.Listen("tcp", lab.OuterAddress(t)+":0")
		if err != nil {
			t.Fatal(err)
		}
		server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, body, status)
		})}
		go func() { _ = server.Serve(listener) }()
		t.Cleanup(func() { server.Close() })

		w := newWorld(t, nil)
		w.builder.Allow = []string{listener.Addr().String()}
		w.dockerfile(t, "FROM "+listener.Addr().String()+"/private/base:1\nRUN true\n")
		job := w.job()
		hints := map[bool]string{true: "build.pull.secretRef", false: "over HTTPS"}
		if net.ParseIP(lab.OuterAddress(t)).IsPrivate() {
			hints[false] = hints[true] // kaniko speaks plain HTTP there unasked, and meets the refusal
		}
		for insecure, hint := range hints {
			job.Order.Destination = kaniko.Destination{Repository: listener.Addr().String() + "/app", Insecure: insecure}
			_, err = w.builder.Run(t.Context(), job)
			var fault *kaniko.BuildError
			var hinted interface{ Hint() string }
			if !errors.As(err, &fault) || !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), hint) {
				t.Errorf("%d: got %v, want the build's own fault with a hint of %s\n%s", status, err, hint, end(w.log(t)))
			}
		}
		w.nothingLeft(t)
	}
}

// TestSideBySide: builds at once, in places of their own, all come out the same.
func TestSideBySide(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.builder.Progress = nil
	var group errgroup.Group
	for i := range 3 {
		one := newWorld(t, nil)
		one.dockerfile(t, fmt.Sprintf("FROM BASE\nRUN id -u > /who && chown 1000 /who && echo %d > /n\n", i))
		group.Go(func() error {
			built, err := w.builder.Run(t.Context(), one.job())
			if err != nil {
				return err
			}
			if got := contents(t, one.image(t, built.Digest))["n"].content; got != fmt.Sprint(i, "\n") {
				return fmt.Errorf("build %d has the file of %q", i, got)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	w.nothingLeft(t)
}

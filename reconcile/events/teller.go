package events

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/reconcile"
)

// Address is where notification-controller listens in a cluster that Flux was
// installed in as its documentation says.
const Address = "http://notification-controller.flux-system.svc.cluster.local./"

// Options say where events go and whom they are about.
type Options struct {
	// Address is notification-controller's URL, which holds no credential.
	Address string
	// Repository names the GitRepository that watches a target; ok is false for
	// a target whose events nobody is told.
	Repository func(target string) (repository types.NamespacedName, ok bool)
	// Instance is this copy of Towpath: the pod's name.
	Instance string
	// Transport is for tests; nil: one that honours the proxy's variables.
	Transport http.RoundTripper
	Log       *slog.Logger
}

// Teller tells events. Report may be called by one goroutine at a time.
type Teller struct {
	options Options
	client  *http.Client
	memory  *memory
	queue   chan eventv1.Event
	stop    context.CancelFunc
	done    chan struct{}
	closing sync.Once
	lost    bool // an event was dropped because the queue was full, and nobody was told since
}

const (
	// queued bounds the events that wait, and so the memory that they take.
	queued = 256
	// attemptTimeout is for one POST: notification-controller answers when it
	// has found the alerts, and sends to providers afterwards.
	attemptTimeout = 15 * time.Second
)

// Between attempts the wait doubles up to longestPause. An event that could not
// be told when it is as old as maxAge is dropped.
const (
	firstPause   = time.Second
	longestPause = 30 * time.Second
	maxAge       = 5 * time.Minute
)

// New makes a Teller that remembers what the history says was found before.
// Close ends it.
func New(o Options, past []reconcile.Outcome) *Teller {
	if o.Transport == nil {
		o.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	}
	ctx, stop := context.WithCancel(context.Background())
	t := &Teller{
		options: o, memory: newMemory(), queue: make(chan eventv1.Event, queued), stop: stop, done: make(chan struct{}),
		client: &http.Client{
			Transport: o.Transport, Timeout: attemptTimeout,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	t.memory.recall(past, t.about, time.Now())
	go t.send(ctx)
	return t
}

func (t *Teller) about(target string) string {
	repository, _ := t.options.Repository(target)
	return repository.String()
}

// Report takes an outcome in. It never waits.
func (t *Teller) Report(o reconcile.Outcome) {
	repository, ok := t.options.Repository(o.Target)
	if !ok {
		return
	}
	for _, one := range t.memory.note(o, repository.String()) {
		select {
		case t.queue <- one.event(o, repository, t.options.Instance, time.Now()):
			t.lost = false
		default:
			if !t.lost {
				t.options.Log.Warn("events are lost: too many wait for notification-controller")
			}
			t.lost = true
		}
	}
}

// Close sends what waits until the context ends, and gives up the rest.
func (t *Teller) Close(ctx context.Context) {
	t.closing.Do(func() { close(t.queue) })
	select {
	case <-t.done:
	case <-ctx.Done():
	}
	t.stop()
	<-t.done
}

// send tells events, one after the other, in the order in which they came to be:
// the last status of a commit is the one that counts.
func (t *Teller) send(ctx context.Context) {
	defer close(t.done)
	var failing error // why the last event was not told
	for event := range t.queue {
		if failing != nil && time.Since(event.Timestamp.Time) > maxAge {
			continue // it waited behind the one that failed just now
		}
		err := t.tell(ctx, event)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && (failing == nil || failing.Error() != err.Error()):
			t.options.Log.Warn("notification-controller was not told", "reason", event.Reason, "error", err)
		}
		failing = err
	}
}

// tell tries until it is told, refused for good, or too old.
func (t *Teller) tell(ctx context.Context, event eventv1.Event) error {
	body, err := json.Marshal(event)
	if err != nil {
		return err
	}
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		err := t.post(ctx, body)
		var refused *refusedError
		if err == nil || errors.As(err, &refused) || time.Since(event.Timestamp.Time) > maxAge {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}

func (t *Teller) post(ctx context.Context, body []byte) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, t.options.Address, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := t.client.Do(request)
	if err != nil {
		var where *url.Error
		if errors.As(err, &where) {
			err = where.Err // the address is in the config
		}
		return err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 1<<16))
	switch code := response.StatusCode; {
	case code < 300, code == http.StatusTooManyRequests: // it has heard this one before
		return nil
	case code < 500:
		return &refusedError{response.Status}
	default:
		return fmt.Errorf("it answered %s", response.Status)
	}
}

// refusedError is an answer that would be the same again.
type refusedError struct{ status string }

func (e *refusedError) Error() string { return "it answered " + e.status }

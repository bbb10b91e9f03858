// Package job builds images as Kubernetes Jobs without trusting what it builds.
// A build is one Job with one pod, whose three containers run one after the
// other: `towpath fetch` with the git credential, kaniko with nothing, `towpath
// publish` with the registry credential. Kubernetes queues, places, bounds and
// ends them.
//
// The package knows Kubernetes and images, nothing of git, of the config or of
// the order of things. It keeps nothing: a Job's name follows from what is built
// and where it goes, so that a build is found again by whoever asks for it next,
// and the Job of a failed build is the record of the failure.
//
// What always holds: no secret is in a Job, only the names of Secrets, each
// mounted into the one step that needs it, and none into kaniko's. A result is
// believed only of a Job that is, field by field, the one rendered here, whose
// pod is the Job's own, has the containers of its template and ran the images
// pinned there, and whose last step ended well and says so of the order it was
// given. Where anything else is found it is said, and nothing is believed.
package job

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// Builder runs builds. It is safe for concurrent use, also by several processes
// that share a namespace.
type Builder struct {
	// Progress is called with a line for each step that a build reaches; may be
	// nil. It must not change once the Builder is used.
	Progress func(line string)

	client   kubernetes.Interface
	settings Settings
	log      *slog.Logger
	patience time.Duration // startup, unless a test has less
	glance   time.Duration // firstLook, unless a test has less

	mu     sync.Mutex
	sight  *sight // nil while nothing is watched
	users  int    // of sight
	idle   *time.Timer
	linger time.Duration
	closed bool

	gone   map[types.UID]time.Time // Jobs that were removed here, which the watch may still show
	unread map[types.UID]time.Time // failed builds whose log cannot be read, and since when
	swept  time.Time               // when sweep was last done
}

// requestTimeout bounds every request but watches and logs.
const requestTimeout = 30 * time.Second

// Client is a client for an API server as a Builder needs it. What the server
// warns of goes to the log.
func Client(to *rest.Config, log *slog.Logger) (kubernetes.Interface, error) {
	to = rest.CopyConfig(to)
	to.WarningHandler, to.WarningHandlerWithContext = nil, warnings{or(log, slog.New(slog.DiscardHandler))}
	// Not limited here: a build asks some ten times in all, however many are due at
	// once only Concurrency of them begin, and the API server itself limits fairly
	// and says when to come again, which is obeyed. A limit here would only hold
	// a result back that is ready.
	to.QPS, to.Burst, to.RateLimiter = -1, 0, nil
	to.UserAgent = or(to.UserAgent, "towpath")
	to.ContentType = "application/vnd.kubernetes.protobuf"
	to.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(to)
	if err != nil {
		return nil, fmt.Errorf("kubernetes: %w", err)
	}
	return client, nil
}

// warnings logs what the API server says beside its answers.
type warnings struct{ log *slog.Logger }

func (w warnings) HandleWarningHeaderWithContext(_ context.Context, code int, _ string, text string) {
	if code == 299 && text != "" {
		w.log.Warn("the API server warns", "text", line(text))
	}
}

// New makes a Builder. It asks nothing of the API server yet. A nil log is
// nowhere.
func New(client kubernetes.Interface, settings Settings, log *slog.Logger) (*Builder, error) {
	if err := settings.check(); err != nil {
		return nil, fmt.Errorf("build Jobs: %w", err)
	}
	return &Builder{client: client, settings: settings, log: or(log, slog.New(slog.DiscardHandler)), patience: startup, glance: firstLook, linger: linger, gone: map[types.UID]time.Time{}, unread: map[types.UID]time.Time{}}, nil
}

// Close ends the watches. Jobs at work go on, and are adopted by whoever asks
// for the same build next.
func (b *Builder) Close() error {
	b.mu.Lock()
	sight := b.sight
	b.sight, b.closed = nil, true
	if b.idle != nil {
		b.idle.Stop()
	}
	b.mu.Unlock()
	if sight != nil {
		sight.close()
	}
	return nil
}

// Retire says that another Builder has taken this one's place. Builds at work go
// on, and the watches end with the last of them.
func (b *Builder) Retire() {
	b.mu.Lock()
	b.linger = 0
	b.mu.Unlock()
	b.blink()
}

// ExecutorDigest is the digest of kaniko's image, sha256:<hex>.
func (b *Builder) ExecutorDigest() (string, error) { return Pinned(b.settings.Kaniko) }

// look returns the watches of the namespace, and begins them if need be. done must be
// called when they are needed no more: they end some time after the last caller's.
func (b *Builder) look(ctx context.Context) (seen *sight, done func(), err error) {
	b.mu.Lock()
	if b.closed {
		b.mu.Unlock()
		return nil, nil, errors.New("the builder is closed")
	}
	if b.sight == nil {
		if b.sight, err = open(b.client, b.settings.Namespace, b.settings.Concurrency, b.log); err != nil {
			b.mu.Unlock()
			return nil, nil, err
		}
	}
	if b.idle != nil {
		b.idle.Stop()
		b.idle = nil
	}
	seen = b.sight
	b.users++
	b.mu.Unlock()
	done = sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.users--; b.users == 0 && b.sight != nil {
			b.idle = time.AfterFunc(b.linger, b.blink)
		}
	})
	if err := seen.ready(ctx); err != nil {
		done()
		return nil, nil, hintAPI(err)
	}
	return seen, done, nil
}

// blink ends the watches if nobody needs them by now.
func (b *Builder) blink() {
	b.mu.Lock()
	sight := b.sight
	if b.users > 0 || sight == nil {
		b.mu.Unlock()
		return
	}
	b.sight = nil
	b.mu.Unlock()
	sight.close()
}

// hintAPI adds what a person can do about an answer of the API server.
func hintAPI(err error) error {
	var own interface{ Hint() string }
	if err == nil || errors.As(err, &own) {
		return err
	}
	if seconds, asks := apierrors.SuggestsClientDelay(err); asks && seconds > 0 {
		return later{err, time.Duration(seconds) * time.Second}
	}
	switch {
	case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err):
		return hinted{err, "towpath check tells which rights are missing, and what a quota or an admission policy refuses"}
	case apierrors.IsNotFound(err):
		return hinted{err, "see that the namespace named in builder.kubernetes.namespace is there"}
	case apierrors.IsInvalid(err):
		return hinted{err, "see builder.kubernetes in the config"}
	}
	return err
}

// later is an error of an API server that says when to ask again.
type later struct {
	error
	after time.Duration
}

func (e later) Unwrap() error { return e.error }

// RetryAfter is how long to wait.
func (e later) RetryAfter() time.Duration { return e.after }

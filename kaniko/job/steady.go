package job

import (
	"context"
	"errors"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// The pauses between two questions to an API server that is away: the first, and
// the longest.
const (
	awayFirst = 250 * time.Millisecond
	awayMost  = 5 * time.Second
)

// steady is a list and a watch that outlast an API server that is away: they ask
// until it answers. Left to itself an informer waits ever longer, up to a minute
// after the server is back, in which a build that has ended stands still; and a
// watch that is refused begins by listing anew.
type steady struct {
	*cache.ListWatch
	away func(error) // told of every question that had no answer
}

// ListWithContext is cache.ListerWithContext.
func (s steady) ListWithContext(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
	return ask(ctx, s.away, func() (runtime.Object, error) { return s.ListWatch.ListWithContext(ctx, options) })
}

// WatchWithContext is cache.WatcherWithContext.
func (s steady) WatchWithContext(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
	return ask(ctx, s.away, func() (watch.Interface, error) { return s.ListWatch.WatchWithContext(ctx, options) })
}

// ask asks until there is an answer, be it a refusal, or the context ends.
func ask[T any](ctx context.Context, away func(error), question func() (T, error)) (T, error) {
	for pause := awayFirst; ; pause = min(2*pause, awayMost) {
		answer, err := question()
		if err == nil || answered(err) || ctx.Err() != nil {
			return answer, err
		}
		away(err)
		wait := pause
		if seconds, asks := apierrors.SuggestsClientDelay(err); asks {
			wait = max(wait, time.Duration(seconds)*time.Second)
		}
		if over := sleep(ctx, nil, wait); over != nil {
			return answer, err
		}
	}
}

// answered tells whether an error is a word of the API server itself, and not of
// the network, of a proxy before it, or of a server that is coming up or has too
// much to do.
func answered(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) && !apierrors.IsTooManyRequests(err) && !apierrors.IsServiceUnavailable(err) &&
		!apierrors.IsServerTimeout(err) && !apierrors.IsTimeout(err) && !apierrors.IsInternalError(err)
}

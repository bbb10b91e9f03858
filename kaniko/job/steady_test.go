package job_test

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"towpath.dev/towpath/kaniko/job"
)

// awayServer answers lists and watches, except while it is away.
type awayServer struct {
	mu    sync.Mutex
	away  error
	asked int // while it was away
	fake  *watch.FakeWatcher
}

func (s *awayServer) leave(why error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = why
	if why != nil && s.fake != nil {
		s.fake.Stop()
		s.fake = nil
	}
}

func (s *awayServer) answer() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away != nil {
		s.asked++
	}
	return s.away
}

// watched is the watch that is open when all is at rest, or nil.
func (s *awayServer) watched() *watch.FakeWatcher {
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fake
}

func (s *awayServer) listWatch() *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
			return &corev1.PodList{ListMeta: metav1.ListMeta{ResourceVersion: "1"}}, s.answer()
		},
		WatchFuncWithContext: func(_ context.Context, options metav1.ListOptions) (watch.Interface, error) {
			if err := s.answer(); err != nil {
				return nil, err
			}
			if options.SendInitialEvents != nil {
				return nil, apierrors.NewInvalid(schema.GroupKind{}, "", nil) // an older server
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.fake = watch.NewFake()
			return s.fake, nil
		},
	}
}

// TestWatchesAgainAtOnce: when an API server that was away for a while is back,
// what happened meanwhile is seen within seconds, and it was not flooded.
func TestWatchesAgainAtOnce(t *testing.T) {
	t.Parallel()
	refused := &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: http.StatusServiceUnavailable, Reason: metav1.StatusReasonServiceUnavailable}}
	for name, why := range map[string]error{"nobody answers": errors.New("connection refused"), "it is coming up": refused} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				server := &awayServer{}
				seen := make(chan struct{}, 1)
				informer := cache.NewSharedIndexInformer(job.Steady(server.listWatch()), &corev1.Pod{}, 0, cache.Indexers{})
				if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: func(any) { seen <- struct{}{} }}); err != nil {
					t.Fatal(err)
				}
				ctx, stop := context.WithCancel(t.Context())
				var running sync.WaitGroup
				running.Go(func() { informer.RunWithContext(ctx) })
				defer running.Wait()
				defer stop()
				synctest.Wait()

				server.leave(why)
				time.Sleep(time.Minute)
				server.watched()
				if server.asked < 5 || server.asked > 25 {
					t.Errorf("it was asked %d times in a minute", server.asked)
				}
				server.leave(nil)
				back := time.Now()
				for fake := server.watched(); ; fake = server.watched() {
					if fake != nil {
						fake.Add(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "ended-meanwhile", ResourceVersion: "2"}})
						<-seen
					}
					took := time.Since(back)
					if took > 6*time.Second {
						t.Errorf("the server was back for %s, and nothing was seen", took)
					}
					if fake != nil || t.Failed() {
						break
					}
					time.Sleep(100 * time.Millisecond)
				}
			})
		})
	}
}

package job

import "sync"

// turns lets builds begin one after the other, in the order they asked, while
// fewer than limit Jobs are at work. Jobs of an earlier process and of other
// copies of Towpath count, as far as they have been seen: copies that begin at
// the same moment may go over the limit by one each. A ResourceQuota on
// count/jobs.batch is a bound that nobody passes.
type turns struct {
	limit int                        // 0: no bound
	live  func() map[string]struct{} // names of the Jobs at work, as last seen

	mu      sync.Mutex
	queue   []*turn
	granted map[string]struct{} // may be made now, or were and have not been seen yet
}

// turn is one build's place in the queue.
type turn struct {
	name  string
	ready chan struct{} // closed when its Job may be made
}

// join queues for the turn of the Job of a name.
func (t *turns) join(name string) *turn {
	mine := &turn{name, make(chan struct{})}
	t.mu.Lock()
	t.queue = append(t.queue, mine)
	t.mu.Unlock()
	t.grant()
	return mine
}

// leave gives a turn up, or ends it: its Job was seen, or was not made.
func (t *turns) leave(mine *turn) {
	t.mu.Lock()
	waiting := false
	for i, queued := range t.queue {
		if queued == mine {
			t.queue = append(t.queue[:i:i], t.queue[i+1:]...)
			waiting = true
			break
		}
	}
	if !waiting {
		delete(t.granted, mine.name)
	}
	t.mu.Unlock()
	t.grant()
}

// grant lets as many begin as may.
func (t *turns) grant() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 {
		return
	}
	busy := t.live()
	for name := range t.granted {
		busy[name] = struct{}{}
	}
	for len(t.queue) > 0 && (t.limit <= 0 || len(busy) < t.limit) {
		next := t.queue[0]
		t.queue = t.queue[1:]
		t.granted[next.name] = struct{}{}
		busy[next.name] = struct{}{}
		close(next.ready)
	}
}

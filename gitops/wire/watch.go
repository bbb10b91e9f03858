package wire

import (
	"context"
	"errors"
	"io"
	"time"
)

// watch ends a conversation when the server keeps silent: its context is
// cancelled once one wait has lasted for the whole of its patience. Time that
// this side spends between two waits does not count, so a slow disk is not
// taken for a slow server.
type watch struct {
	ctx      context.Context
	cancel   context.CancelCauseFunc
	patience time.Duration
}

func newWatch(ctx context.Context, patience time.Duration) *watch {
	inner, cancel := context.WithCancelCause(ctx)
	return &watch{inner, cancel, patience}
}

// wait starts to wait for the server, until the timer is stopped.
func (w *watch) wait() *time.Timer {
	return time.AfterFunc(w.patience, func() { w.cancel(errSilent) })
}

func (w *watch) close() { w.cancel(context.Canceled) }

// reading watches over every Read, and tells why it failed. For one goroutine.
func (w *watch) reading(r io.Reader) io.Reader {
	return &watchedReader{r: r, pause: w.pause()}
}

type watchedReader struct {
	r io.Reader
	pause
}

func (r *watchedReader) Read(p []byte) (int, error) {
	r.begin()
	n, err := r.r.Read(p)
	r.end()
	if n > 0 && errors.Is(err, io.EOF) {
		err = nil // the next Read says so again
	}
	// A connection that was closed from this side may read like one that ended.
	return n, because(r.w.ctx, err)
}

// writing watches over every Write. For one goroutine.
func (w *watch) writing(to io.Writer) io.Writer {
	return &watchedWriter{to: to, pause: w.pause()}
}

type watchedWriter struct {
	to io.Writer
	pause
}

func (o *watchedWriter) Write(p []byte) (int, error) {
	o.begin()
	n, err := o.to.Write(p)
	o.end()
	return n, because(o.w.ctx, err)
}

// pause is a wait that comes again and again.
type pause struct {
	w     *watch
	timer *time.Timer
}

func (w *watch) pause() pause {
	timer := w.wait()
	timer.Stop()
	return pause{w, timer}
}

func (p pause) begin() { p.timer.Reset(p.w.patience) }
func (p pause) end()   { p.timer.Stop() }

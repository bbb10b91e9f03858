package wire

import (
	"context"
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

// reading watches over every Read, and tells why it failed.
func (w *watch) reading(r io.Reader) io.Reader { return &watchedReader{r, w} }

type watchedReader struct {
	r io.Reader
	w *watch
}

func (r *watchedReader) Read(p []byte) (int, error) {
	timer := r.w.wait()
	n, err := r.r.Read(p)
	timer.Stop()
	if err != nil && err != io.EOF {
		err = because(r.w.ctx, err)
	} else if err == io.EOF && n == 0 {
		// A connection closed from this side reads like one that ended.
		if cause := because(r.w.ctx, err); cause != nil {
			err = cause
		}
	}
	return n, err
}

// writing watches over every Write.
func (w *watch) writing(to io.Writer) io.Writer { return &watchedWriter{to, w} }

type watchedWriter struct {
	to io.Writer
	w  *watch
}

func (o *watchedWriter) Write(p []byte) (int, error) {
	timer := o.w.wait()
	n, err := o.to.Write(p)
	timer.Stop()
	return n, because(o.w.ctx, err)
}

package registry

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"
)

// patience is the longest wait inside an operation. A registry that asks for
// more gets its error returned, with RetryAfter, and the caller's back-off.
const patience = 30 * time.Second

// call is one attempt at an operation: what the transport below go-containerregistry
// noticed on the way, and the secrets that must not appear in its error.
type call struct {
	bulk bool // the answer goes to a file, its size checked elsewhere

	mu     sync.Mutex
	after  time.Duration // that the registry asks to wait
	hidden []string
	secure error // why HTTPS failed, where go-containerregistry tried plain HTTP after it
}

type callKey struct{}

// note returns the attempt that a request belongs to.
func note(ctx context.Context) *call {
	if found, ok := ctx.Value(callKey{}).(*call); ok {
		return found
	}
	return &call{}
}

func (c *call) wait(after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.after = max(c.after, after)
}

func (c *call) failed(secure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secure = secure
}

func (c *call) hide(secrets ...string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hidden = append(c.hidden, secrets...)
}

// redact takes what must stay secret out of a text, even where the registry
// itself put it in.
func (c *call) redact(text string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, secret := range c.hidden {
		if len(secret) >= 4 {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	return text
}

// attempt runs one step of an operation until it succeeds, fails for good, or
// has been tried often enough. again says which errors beyond the usual passing
// ones are worth another try; nil: none.
func (c *Client) attempt(ctx context.Context, op string, bulk bool, again func(*Error) bool, step func(context.Context, *access) error) error {
	fresh := true // a refused credential is read anew once
	for try := 1; ; try++ {
		this := &call{bulk: bulk}
		inner := context.WithValue(ctx, callKey{}, this)
		access, err := c.access(inner)
		if err == nil {
			this.hide(access.secrets...)
			err = step(inner, access)
		}
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			// Whatever the step returned: net/http returns the context's cause,
			// which may be another goroutine's error.
			return c.givenUp(ctx, op)
		}
		failed := c.explain(op, this, err)
		if access != nil && failed.Status == http.StatusUnauthorized {
			c.drop(access)
			if fresh {
				fresh = false
				continue
			}
		}
		passing := failed.passing || again != nil && again(failed)
		if !passing || try >= c.options.Attempts {
			return failed
		}
		pause := c.options.Pause << (try - 1)
		pause = max(pause/2+rand.N(pause/2+1), failed.After)
		if deadline, ok := ctx.Deadline(); pause > patience || ok && time.Until(deadline) < pause {
			return failed
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return c.givenUp(ctx, op)
		}
	}
}

func (c *Client) givenUp(ctx context.Context, op string) *Error {
	return &Error{Op: op, Host: c.repo.RegistryStr(), Text: ctx.Err().Error(), Err: ctx.Err()}
}

// found turns an error that says "not there" into an answer.
func found(err error) (bool, error) {
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

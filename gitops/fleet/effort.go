package fleet

import (
	"context"
	"errors"
	"time"

	"towpath.dev/towpath/gitops"
)

// maxEffort bounds how much of the past one comparison looks at, in the unit of
// marker.Weight: YAML of that weight, even if it was made to be slow, is parsed in
// some seconds. Somebody could keep us busy by committing ever new versions of a
// large file, or thousands of markers. Then a comparison ends with what it has seen
// so far, and what it has not seen counts as a reason to write nothing. Counted is
// what is looked at, remembered or not, so that every copy of Towpath stops at the
// same place.
const maxEffort = 1 << 23

// maxTime is how long one reading, one judgement or one attempt to promote may
// take, whatever the server sends. Each takes seconds, except for the first fetch of
// a repository, which may be large and far away.
const maxTime = time.Hour

// slow returns a SlowError instead of an error that came because maxTime was over.
func (f *Fleet) slow(ctx context.Context, err error) error {
	if err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return &SlowError{After: f.patience, Err: err}
	}
	return err
}

// perLook is what looking up one marker in one tree of the past counts for, besides
// the parsing of its file.
const perLook = 64

// errTired says that maxEffort is used up.
var errTired = errors.New("too much to look at")

// spend takes from what is left of maxEffort; errTired: there is not enough.
func (c *comparison) spend(effort int) error {
	if c.left -= effort; c.left < 0 {
		return errTired
	}
	return nil
}

// pay spends what parsing a file of the past costs, once for each file.
func (c *comparison) pay(blob gitops.Hash, weight int) error {
	if c.paid[blob] {
		return nil
	}
	c.paid[blob] = true
	return c.spend(weight)
}

// value is what a marker held in a tree of the past. found is false where the tree
// has no such marker.
func (c *comparison) value(tree gitops.Hash, p place) (value string, found bool, err error) {
	if err := c.spend(perLook); err != nil {
		return "", false, err
	}
	return c.f.scanner.value(c.f.store, tree, p, c.pay)
}

package reconcile

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Back-off after failures: the first wait and the longest one.
const (
	firstWait   = 5 * time.Second
	longestWait = 15 * time.Minute
)

// jittered spreads a period by a tenth to either side, so that many loops that
// started together drift apart.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// backOff is how long to wait after so many failures in a row: doubled each
// time up to the longest wait, and never shorter than what the other side asked
// for, however long that is.
func backOff(failures int, err error) time.Duration {
	wait := longestWait
	if failures < 16 {
		wait = min(firstWait<<max(failures-1, 0), longestWait)
	}
	wait = jittered(wait)
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		wait = max(wait, asked.RetryAfter())
	}
	return wait
}

package reconcile

import (
	"errors"
	"math/rand/v2"
	"time"
)

// Back-off after failures: bounds of the first wait and of the longest one,
// whatever the interval.
const (
	firstWait   = 5 * time.Second
	longestWait = 15 * time.Minute
)

// jittered spreads a period by a tenth to either side, so that many loops that
// started together drift apart.
func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64()))
}

// backOff is how long to wait after so many failures in a row. The first wait is one
// interval or five seconds, whichever is shorter; it is doubled with each failure, up
// to fifteen intervals or a quarter of an hour, whichever is shorter. So whoever polls
// often also learns soon that a fault is over. The wait is never shorter than what the
// other side asked for.
func backOff(failures int, interval time.Duration, err error) time.Duration {
	first, longest := firstWait, longestWait
	if interval > 0 {
		first, longest = min(first, interval), min(longest, 15*interval)
	}
	wait := longest
	if failures < 16 {
		wait = min(first<<max(failures-1, 0), longest)
	}
	wait = jittered(wait)
	return max(wait, retryAfter(err))
}

// retryAfter is how long the other side asks to be left alone; 0: it does not
// say.
func retryAfter(err error) time.Duration {
	var asked interface{ RetryAfter() time.Duration }
	if errors.As(err, &asked) {
		return asked.RetryAfter()
	}
	return 0
}

package store

import (
	"fmt"
	"io"
	"time"
)

// progressEvery is how long a fetch is silent at first, and between two lines.
const progressEvery = time.Second

// telling passes on how a fetch goes: what the server says of its work, and how
// much has come. Of many lines it drops all but one in a while, so that quick
// fetches are silent and long ones do not flood.
type telling struct {
	say      func(string) // nil: nobody wants to know
	every    time.Duration
	last     time.Time
	received int64
}

// server is for wire.FetchRequest.Progress: its lines are clean.
func (t *telling) server() func(string) {
	if t.say == nil {
		return nil
	}
	return func(line string) { t.tell(func() string { return "remote: " + line }) }
}

// count passes a stream on, and counts it.
func (t *telling) count(source io.Reader) io.Reader {
	if t.say == nil {
		return source
	}
	return counting{source, t}
}

type counting struct {
	io.Reader
	*telling
}

func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.received += int64(n)
	switch {
	case c.received >= 1<<20:
		c.tell(func() string { return fmt.Sprintf("%.1f MiB received", float64(c.received)/(1<<20)) })
	case c.received >= 1<<10: // less is only that it begins
		c.tell(func() string { return fmt.Sprintf("%d KiB received", c.received>>10) })
	}
	return n, err
}

func (t *telling) tell(line func() string) {
	if now := time.Now(); now.Sub(t.last) >= t.every {
		t.last = now
		t.say(line())
	}
}

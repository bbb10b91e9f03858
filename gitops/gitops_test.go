package gitops_test

import (
	"runtime"
	"strings"
	"testing"

	"towpath.dev/towpath/gitops"
)

// TestLineKeepsNothingElse: what a line was cut from is not kept with it.
func TestLineKeepsNothingElse(t *testing.T) {
	const long, lines = 4 << 20, 16
	held := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := held()
	var kept []string
	for range lines {
		kept = append(kept, gitops.Line("word"+strings.Repeat(" ", long), 500))
	}
	if after := held(); after > before+long {
		t.Errorf("%d lines of %q hold %d bytes", lines, kept[0], after-before)
	}
	runtime.KeepAlive(kept)
}

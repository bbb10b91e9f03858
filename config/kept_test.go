package config_test

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"towpath.dev/towpath/config"
)

// TestLoadKeepsNothingOfItsReading: a daemon has its config for as long as it
// lives, and with it whatever that still leads to: no file, no tree of YAML, no
// line of a key. The comment is far larger than all that the config says.
//
// It counts what the whole process has in memory, so no other test may run beside it.
func TestLoadKeepsNothingOfItsReading(t *testing.T) { //nolint:paralleltest // see above
	const large, copies = 2 << 20, 8
	file := filepath.Join(t.TempDir(), "towpath.yaml")
	// A comment stays with the tree that the YAML parser makes.
	_, images, _ := strings.Cut(podinfo, "images:")
	src := small + "images:" + images + "defaults:\n  # " + strings.Repeat("long ", large/5) + "\n  pin: digest\n"
	if err := os.WriteFile(file, []byte(src), 0o600); err != nil {
		t.Fatal(err)
	}
	before := inUse()
	var kept []*config.Config
	for range copies {
		c, err := config.Load(config.Options{File: file})
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, c)
	}
	if grown := inUse() - before; grown > large {
		t.Errorf("%d configs keep %d KiB; their files have %d KiB", copies, grown>>10, copies*len(src)>>10)
	}
	runtime.KeepAlive(kept)
}

// inUse is how many bytes of the heap are reachable.
func inUse() int64 {
	runtime.GC()
	runtime.GC() // what finalizers and pools held on to
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

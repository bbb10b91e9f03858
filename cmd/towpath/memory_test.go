package main

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestReleaseProgram: what start-up needed of the program itself is resident no
// more, and the program goes on.
func TestReleaseProgram(t *testing.T) {
	before := residentOfFiles(t)
	if err := releaseProgram(); err != nil {
		t.Fatal(err)
	}
	after := residentOfFiles(t)
	t.Logf("of files: %d KiB, then %d KiB", before, after)
	if after > before/2 {
		t.Errorf("%d KiB of files were resident and %d KiB are", before, after)
	}
}

// residentOfFiles is what this process has of files in memory, in KiB.
func residentOfFiles(t *testing.T) (n int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "\nRssFile:")
	if _, err := fmt.Sscanf(rest, "%d kB", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestMappings: what was written to is told from what can be read again.
func TestMappings(t *testing.T) {
	got := mappings([]byte(`00400000-01f91000 r-xp 00000000 fe:00 393 /usr/local/bin/towpath
Size:              28228 kB
Rss:               21888 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
01f91000-03e34000 r--p 01b91000 fe:00 393                               /usr/local/bin/towpath
Rss:               19724 kB
Anonymous:            12 kB
7ff9d160e000-7ff9d16e4000 rw-p 00000000 00:00 0
Anonymous:           764 kB
`))
	want := []mapping{
		{from: 0x400000, to: 0x1f91000, rights: "r-xp", file: "/usr/local/bin/towpath"},
		{from: 0x1f91000, to: 0x3e34000, rights: "r--p", file: "/usr/local/bin/towpath", written: true},
		{from: 0x7ff9d160e000, to: 0x7ff9d16e4000, rights: "rw-p", written: true},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(mapping{})); diff != "" {
		t.Errorf("mappings (-want +got):\n%s", diff)
	}
}

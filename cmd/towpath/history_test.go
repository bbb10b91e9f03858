package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"towpath.dev/towpath/reconcile"
)

// TestHistoryIsRead: whatever its lines are like, the others are read.
func TestHistoryIsRead(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	kept := openHistory(cache)
	for _, o := range []reconcile.Outcome{
		{Image: "a", State: reconcile.Done},
		{Image: "b", State: reconcile.Broken, Reason: strings.Repeat("x", 2<<20)},
		{Image: "c", State: reconcile.Failed},
	} {
		if err := kept.append(o); err != nil {
			t.Fatal(err)
		}
	}
	// A daemon died within a line, and another wrote after it.
	file, err := os.OpenFile(filepath.Join(cache, "outcomes.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("{\"image\":\"d\",\"sta\n{\"image\":\"e\",\"state\":\"held\"}\n{\"image\":\"f\""); err != nil {
		t.Fatal(err)
	}
	past, err := readHistory(cache)
	if err != nil {
		t.Fatal(err)
	}
	var read []string
	for _, o := range past {
		read = append(read, o.Image)
	}
	if got := strings.Join(read, " "); got != "a b c e" {
		t.Errorf("read: %s", got)
	}
}

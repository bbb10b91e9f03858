package config_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/config"
)

// told is what a watch told.
type told struct {
	config *config.Config
	err    error
}

// watching loads a config and watches it until the test ends.
func watching(t *testing.T, file string) <-chan told {
	t.Helper()
	options := config.Options{File: file}
	running, err := config.Load(options)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	news, ended := make(chan told, 100), make(chan struct{})
	go func() {
		defer close(ended)
		config.Watch(ctx, options, running, func(c *config.Config, err error) error { news <- told{c, err}; return nil })
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return news
}

func next(t *testing.T, news <-chan told) told {
	t.Helper()
	select {
	case n := <-news:
		return n
	case <-time.After(25 * time.Second): // less than the half minute after which it looks by itself
		t.Fatal("the change was not seen")
		return told{}
	}
}

// put replaces a file as editors do: another one takes its place.
func put(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path+"~", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+"~", path); err != nil {
		t.Fatal(err)
	}
}

func TestWatchEdits(t *testing.T) {
	t.Parallel()
	directory := write(t, map[string]string{"towpath.yaml": small + "include: [images.d/*.yaml]\n"})
	file := filepath.Join(directory, "towpath.yaml")
	news := watching(t, file)

	// Written in place, it may be seen while it is still empty.
	if err := os.WriteFile(file, []byte(small+"include: [images.d/*.yaml]\ninterval: 2m\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n := next(t, news)
	for n.err != nil {
		n = next(t, news)
	}
	if n.config.Interval != 2*time.Minute {
		t.Fatalf("written in place: %+v", n.config)
	}
	put(t, file, small+"include: [images.d/*.yaml]\ninterval: 3m\n")
	if n := next(t, news); n.err != nil || n.config.Interval != 3*time.Minute {
		t.Fatalf("renamed: %+v, %v", n.config, n.err)
	}
	// A mistake is told and changes nothing; mending it is told as well.
	put(t, file, small+"include: [images.d/*.yaml]\ninterval: never\n")
	if n := next(t, news); n.config != nil || n.err == nil || !strings.Contains(n.err.Error(), `interval: "never" is no duration`) {
		t.Fatalf("mistaken: %+v, %v", n.config, n.err)
	}
	put(t, file, small+"include: [images.d/*.yaml]\ninterval: 3m\n")
	if n := next(t, news); n.err != nil || n.config.Interval != 3*time.Minute {
		t.Fatalf("mended: %+v, %v", n.config, n.err)
	}
	// Taken away, and put back.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if n := next(t, news); n.err == nil || !strings.Contains(n.err.Error(), "does not exist") {
		t.Fatalf("removed: %+v, %v", n.config, n.err)
	}
	put(t, file, small+"include: [images.d/*.yaml]\ninterval: 4m\n")
	if n := next(t, news); n.err != nil || n.config.Interval != 4*time.Minute {
		t.Fatalf("put back: %+v, %v", n.config, n.err)
	}
	// A file that include comes to match, in a directory that was not there.
	if err := os.Mkdir(filepath.Join(directory, "images.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(directory, "images.d", "a.yaml"), podinfo)
	if n := next(t, news); n.err != nil || len(n.config.Images) != 1 {
		t.Fatalf("included: %+v, %v", n.config, n.err)
	}
	if err := os.Remove(filepath.Join(directory, "images.d", "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if n := next(t, news); n.err != nil || len(n.config.Images) != 0 {
		t.Fatalf("no longer included: %+v, %v", n.config, n.err)
	}
}

// TestWatchConfigMap: kubelet writes a new directory and swaps ..data.
func TestWatchConfigMap(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	main, teams := filepath.Join(root, "etc"), filepath.Join(root, "etc", "images.d")
	mount(t, main, 0, map[string]string{"towpath.yaml": small + "include: [images.d/*.yaml]\n"})
	mount(t, teams, 0, map[string]string{"a.yaml": podinfo})
	news := watching(t, filepath.Join(main, "towpath.yaml"))
	for i := 1; i <= 3; i++ {
		interval := time.Duration(i+1) * time.Minute
		mount(t, main, i, map[string]string{"towpath.yaml": small + "include: [images.d/*.yaml]\ninterval: " + interval.String() + "\n"})
		if n := next(t, news); n.err != nil || n.config.Interval != interval || len(n.config.Images) != 1 {
			t.Fatalf("swap %d: %+v, %v", i, n.config, n.err)
		}
	}
	mount(t, teams, 1, map[string]string{"a.yaml": podinfo + "    pin: tag\n"})
	if n := next(t, news); n.err != nil || n.config.Images[0].Pin != "tag" {
		t.Fatalf("included: %+v, %v", n.config, n.err)
	}
}

// TestWatchQuiet: what changes nothing is not told.
func TestWatchQuiet(t *testing.T) {
	t.Parallel()
	directory := write(t, map[string]string{"towpath.yaml": small})
	file := filepath.Join(directory, "towpath.yaml")
	news := watching(t, file)
	put(t, filepath.Join(directory, "other"), "x")
	put(t, file, small+"# a comment\n")
	put(t, file, small+"suspend: true\n")
	if n := next(t, news); n.err != nil || !n.config.Suspend {
		t.Fatalf("first news: %+v, %v", n.config, n.err)
	}
}

package sandbox_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko"
)

// TestStepsGoWrong tells the commit's own faults from the machinery's.
func TestStepsGoWrong(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		step, how string
		fault     bool
		text      string
		hint      string
		within    time.Duration // of each step
	}{
		{"fetch", "fault", true, "fetch: submodules are not supported", "push a commit that builds, and nothing else is to be done; the whole output is in ", 0},
		{"fetch", "fail", false, "fetch: the host is away", "wait", 0},
		{"fetch", "die", false, "fetch: ended with exit status 7 and no report: something terrible", "", 0},
		{"fetch", "hang", false, "fetch: not done within 2s", "", 2 * time.Second},
		{"publish", "fault", true, "publish: submodules are not supported", "push a commit that builds, and nothing else is to be done; the whole output is in ", 0},
		{"publish", "fail", false, "publish: the host is away", "wait", 0},
		{"publish", "die", false, "publish: ended with exit status 7", "", 0},
		// The steps before it have to be done in that time.
		{"publish", "hang", false, "publish: not done within 20s", "", 20 * time.Second},
	} {
		t.Run(c.step+" "+c.how, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.dockerfile(t, "FROM scratch\nCOPY Dockerfile /\n")
			w.say(t, c.step, c.how)
			if c.how == "hang" {
				w.builder.Timeout = c.within
			}
			_, err := w.builder.Run(t.Context(), w.job())
			var fault *kaniko.BuildError
			if err == nil || errors.As(err, &fault) != c.fault || !strings.HasPrefix(err.Error(), c.text) {
				t.Errorf("got %v (a fault: %t), want %q (%t)", err, fault != nil, c.text, c.fault)
			}
			var hinted interface{ Hint() string }
			hint := ""
			if errors.As(err, &hinted) {
				hint = hinted.Hint()
			}
			if !strings.HasPrefix(hint, c.hint) || (c.hint == "") != (hint == "") {
				t.Errorf("the hint is %q, want %q", hint, c.hint)
			}
			w.nothingLeft(t)
		})
	}
}

// TestStepsSeeNoneOfOurSecrets: a step gets directories by name, and of our
// environment what it needs.
func TestStepsSeeNoneOfOurSecrets(t *testing.T) {
	t.Setenv("TOWPATH_PASSWORD", canary)
	t.Setenv("AWS_SECRET_ACCESS_KEY", canary)
	t.Setenv("HTTPS_PROXY", "http://proxy.example.com:3128")
	t.Setenv("NO_PROXY", "*")
	t.Setenv("DOCKER_CONFIG", "/docker-of-test")
	w := newWorld(t, nil)
	w.dockerfile(t, "FROM scratch\nCOPY Dockerfile /\n")
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Fatal(err)
	}
	log := w.log(t)
	if strings.Contains(log, canary) {
		t.Errorf("a step saw our environment:\n%s", grep(log, "environment of"))
	}
	for _, step := range []string{"fetch", "publish"} {
		if !strings.Contains(log, "environment of "+step+" HTTPS_PROXY=http://proxy.example.com:3128") {
			t.Errorf("%s does not know the proxy:\n%s", step, grep(log, "environment of"))
		}
	}
	// It holds the credential that pushes, which base images are not pulled with.
	for step, want := range map[string]bool{"fetch": false, "publish": true} {
		if strings.Contains(log, "environment of "+step+" DOCKER_CONFIG=/docker-of-test") != want {
			t.Errorf("%s knows Docker's configuration: want %v\n%s", step, want, grep(log, "environment of"))
		}
	}
}

// TestRegistryAway is the machinery's fault: kaniko's last line says so, and the
// hint how a build comes by such a base image.
func TestRegistryAway(t *testing.T) {
	t.Parallel()
	for host, hint := range map[string]string{
		"10.99.0.1:5000": `builder.sandbox.allow: ["10.99.0.1:5000"]`,
		"127.0.0.1:5000": "build.pull.allow",
	} {
		w := newWorld(t, nil)
		w.dockerfile(t, "FROM "+host+"/private/base:1\nRUN true\n")
		_, err := w.builder.Run(t.Context(), w.job())
		var fault *kaniko.BuildError
		if err == nil || errors.As(err, &fault) {
			t.Fatalf("got %v, want the machinery's error\n%s", err, end(w.log(t)))
		}
		var hinted interface{ Hint() string }
		if !errors.As(err, &hinted) || !strings.Contains(hinted.Hint(), hint) {
			t.Errorf("%v has no hint of %s", err, hint)
		}
		w.nothingLeft(t)
	}
}

// TestExecutorOfAnotherMachine is no fault of the commit's.
func TestExecutorOfAnotherMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.dockerfile(t, "FROM scratch\nCOPY . /\n")
	w.builder.Executor = filepath.Join(t.TempDir(), "executor")
	if err := os.WriteFile(w.builder.Executor, []byte("\x7fELF of another machine"), 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := w.builder.Run(t.Context(), w.job())
	var fault *kaniko.BuildError
	if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), "exec format error") {
		t.Fatalf("got %v, want the machinery's error\n%s", err, end(w.log(t)))
	}
	w.nothingLeft(t)
}

// TestOrdersThatAreRefused never start anything.
func TestOrdersThatAreRefused(t *testing.T) {
	t.Parallel()
	for text, edit := range map[string]func(*kaniko.Order){
		"path \"../Dockerfile\" of the Dockerfile": func(o *kaniko.Order) { o.Dockerfile = "../Dockerfile" },
		"--destination is not allowed":             func(o *kaniko.Order) { o.KanikoArgs = []string{"--destination=x"} },
		"the order is for executor sha256:0":       func(o *kaniko.Order) { o.Executor = "sha256:0" },
		"an order needs an image":                  func(o *kaniko.Order) { o.Image = "" },
	} {
		w := newWorld(t, nil)
		job := w.job()
		edit(&job.Order)
		_, err := w.builder.Run(t.Context(), job)
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
		if _, err := os.Stat(w.builder.Dir); err == nil {
			t.Errorf("%s: something was started", text)
		}
	}
}

// TestFullDisk is the machinery's fault, and tried again.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.builder.Dir = t.TempDir()
	if err := unix.Mount("tmpfs", w.builder.Dir, "tmpfs", 0, "size=200m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// What is being started at this moment may have a file of it open.
		if err := unix.Unmount(w.builder.Dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	w.dockerfile(t, "FROM BASE\nRUN probe spin\n")
	_, err := w.builder.Run(t.Context(), w.job())
	var fault *kaniko.BuildError
	if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), "is full") {
		t.Errorf("got %v, want that the disk is full\n%s", err, end(w.log(t)))
	}
	w.nothingLeft(t)
}

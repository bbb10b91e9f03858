package sandbox_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/sandbox"
)

// The canary is planted wherever a careless sandbox would let a build read. It
// is spelt in halves here and in every Dockerfile, so that finding it means that it leaked.
const canaryHalf, canaryRest = "canary-5d1f", "c0ffee-of-towpath"

const canary = canaryHalf + canaryRest

// TestHostileSteps runs Dockerfiles that try to get out, up, or on everybody's
// nerves. None may succeed, and nothing of them may be left.
func TestHostileSteps(t *testing.T) {
	planted := plant(t)
	for _, c := range []struct {
		name  string
		files map[string]string
		run   string                 // the instructions after FROM
		tune  func(*sandbox.Builder) // narrower bounds, so that hitting them is quick
		fails string                 // what the BuildError says; empty: the build succeeds and every attempt was held
	}{
		{
			name: "secrets in files, environments and command lines",
			run:  "RUN probe search " + canaryHalf + " " + canaryRest + "\nUSER app\nRUN probe search " + canaryHalf + " " + canaryRest,
		},
		{name: "secrets in keyrings", run: "RUN probe keys NAME"},
		{name: "abstract sockets of the machine", run: "RUN probe abstract NAME"},
		{
			name: "the machine's loopback, through every address that could mean it",
			run:  "RUN probe dial 127.0.0.1:PORT 10.0.2.2:PORT 10.0.2.3:PORT 10.0.2.15:PORT 0.0.0.0:PORT [::1]:PORT",
		},
		{name: "the machine's own addresses", run: "RUN probe dial OWN:PORT"},
		{
			name: "private, link-local and metadata addresses",
			run:  "RUN probe dial 169.254.169.254:80 10.0.0.1:80 172.16.0.1:80 192.168.0.1:80 100.64.0.1:80 [fd00:ec2::254]:80 [fe80::1]:80",
		},
		{name: "opening the network", run: "RUN probe routes\nRUN probe dial 169.254.169.254:80 OWN:PORT"},
		{name: "system calls", run: "RUN probe calls\nUSER app\nRUN probe calls"},
		{name: "new namespaces", run: "RUN probe namespaces\nUSER app\nRUN probe namespaces"},
		{name: "identity and capabilities", run: "RUN probe identity"},
		{name: "descriptors that lead out", run: "RUN probe descriptors"},
		{name: "a working directory that leads out", run: "WORKDIR /proc/self/fd/7\nRUN true", fails: "build: "},
		{name: "devices", run: "RUN probe devices"},
		{
			name: "writing what is not the build's",
			run: "RUN probe write /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger " +
				"/kaniko/.context/Dockerfile /kaniko/.context/new /kaniko/.bases/new /kaniko/executor /kaniko/ssl/certs/new /etc/resolv.conf /etc/hosts /proc/1/oom_score_adj-",
		},
		{
			name: "links out of the output",
			run:  "RUN mkdir /kaniko/.out/links && ln -s DECOY /kaniko/.out/links/decoy && ln -s /etc/shadow /kaniko/.out/links/shadow && ln -s DECOY /decoy && ln -s / /kaniko/.out/root",
		},
		{
			name: "setuid programs and forbidding modes",
			run:  "RUN cp /bin/busybox /kaniko/.out/su && chmod 6755 /kaniko/.out/su && cp /bin/busybox /su && chmod 6777 /su && mkdir -p /kaniko/.out/closed/closed && chmod 0 /kaniko/.out/closed/closed /kaniko/.out/closed",
		},
		{name: "a process that outlives its step", run: "RUN probe daemon"},
		{name: "a digest file and a layout of its own", run: "RUN mkdir -p /kaniko/.out/image && echo mine > /kaniko/.out/image/index.json && echo sha256:0 > /kaniko/.out/digest"},

		{name: "too many processes", run: "RUN probe forks", tune: func(b *sandbox.Builder) { b.Pids = 100 }, fails: "more processes than the 100"},
		{
			name: "a fork bomb", run: "RUN bomb() { bomb | bomb & }; bomb; sleep 1; while true; do bomb; sleep 0.1; done",
			tune: func(b *sandbox.Builder) { b.Pids, b.Timeout = 200, 10*time.Second }, fails: "build: it ",
		},
		{name: "too much memory", run: "RUN probe memory", tune: func(b *sandbox.Builder) { b.Memory = 256 << 20 }, fails: "more memory than the 256 MiB"},
		{name: "too large a file", run: "RUN probe fill /var/big", tune: smallDisk, fails: "build: "},
		{name: "too large an output", run: "RUN probe fill /kaniko/.out/big & probe fill /kaniko/.out/big2 & probe fill /kaniko/.out/big3; wait", tune: smallDisk, fails: "more disk than the 300 MiB"},
		{name: "too many files", run: "RUN probe files /var", tune: func(b *sandbox.Builder) { b.Disk = 80 << 20 }, fails: "more disk than the 80 MiB"},
		{name: "files without a name", run: "RUN probe hidden /var", tune: smallDisk, fails: "more disk than the 300 MiB"},
		{
			name: "files without a name, in memory alone", run: "RUN probe mapped /var",
			tune: smallDisk, fails: "more disk than the 300 MiB",
		},
		{
			name: "files without a name, under way in sockets", run: "RUN probe flying /var",
			tune: smallDisk, fails: "more disk went than the 300 MiB",
		},
		{name: "a sparse file", run: "RUN probe sparse /var/sparse", tune: smallDisk},
		{name: "directories too deep", run: "RUN probe deep", tune: smallDisk, fails: "nested deeper than 1000"},
		{name: "no end", run: "RUN probe spin", tune: func(b *sandbox.Builder) { b.Timeout = 10 * time.Second }, fails: "not done within the 10s"},
		{name: "no end of words", run: "RUN probe talk", tune: func(b *sandbox.Builder) { b.Timeout = 11 * time.Second }, fails: "not done within the 11s"},
		{name: "a step that fails", run: "RUN echo the last words && exit 3", fails: "build: RUN echo the last words && exit 3: exit status 3: "},
		{name: "an image that is not there", run: "COPY nothing /", fails: "nothing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, c.files)
			words := strings.NewReplacer("PORT", planted.port, "OWN", planted.own, "DECOY", planted.decoy, "NAME", planted.name)
			w.dockerfile(t, "FROM BASE\nCOPY . /context\n"+words.Replace(c.run)+"\n")
			if c.tune != nil {
				c.tune(w.builder)
			}
			job := w.job()
			job.GitSecret, job.PushSecret = planted.secrets, planted.secrets
			_, err := w.builder.Run(t.Context(), job)
			log := w.log(t)
			switch {
			case strings.Contains(log, "BREACH"):
				t.Errorf("the sandbox did not hold:\n%s", grep(log, "BREACH"))
			case strings.Contains(log, canary):
				t.Errorf("the canary is in the log:\n%s", grep(log, canary))
			case c.fails == "" && err != nil:
				t.Errorf("%v\n%s", err, end(log))
			case c.fails != "":
				var fault *kaniko.BuildError
				if !errors.As(err, &fault) || !strings.Contains(err.Error(), c.fails) {
					t.Errorf("got %v\nwant a BuildError with %q\n%s", err, c.fails, end(log))
				}
			}
			w.nothingLeft(t)
			planted.unharmed(t)
		})
	}
}

func smallDisk(b *sandbox.Builder) { b.Disk = 300 << 20 }

func grep(log, word string) string {
	var found []string
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, word) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "\n")
}

func end(log string) string { return log[max(0, len(log)-4000):] }

// garden is what was planted around the sandbox.
type garden struct {
	secrets string // directory with a secret
	decoy   string // directory that links lead to
	own     string // an address of this machine that is not loopback
	port    string // where something listens on every address
	pattern string // the machine's core_pattern
	name    string // of a key and an abstract socket, which this machine's tests share
}

func plant(t *testing.T) garden {
	t.Helper()
	g := garden{secrets: t.TempDir(), decoy: t.TempDir(), name: fmt.Sprintf("towpath-canary-%d", os.Getpid())}
	for _, path := range []string{filepath.Join(g.secrets, "identity"), filepath.Join(g.decoy, "file")} {
		if err := os.WriteFile(path, []byte(canary), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("TOWPATH_CANARY", canary)

	// In the keyrings of every thread that could start a build.
	for _, ring := range []int{unix.KEY_SPEC_USER_KEYRING, unix.KEY_SPEC_SESSION_KEYRING} {
		key, err := unix.AddKey("user", g.name, []byte(canary), ring)
		if err != nil {
			t.Fatalf("add key: %v", err)
		}
		t.Cleanup(func() { _, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, key, ring, 0, 0) })
	}

	listener, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	speak(t, listener)
	_, g.port, _ = net.SplitHostPort(listener.Addr().String())
	socket, err := net.Listen("unix", "@"+g.name)
	if err != nil {
		t.Fatal(err)
	}
	speak(t, socket)

	g.own = lab.OuterAddress(t)
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil {
		t.Fatal(err)
	}
	g.pattern = string(pattern)
	return g
}

// speak answers every connection with the canary.
func speak(t *testing.T, listener net.Listener) {
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, canary)
			conn.Close()
		}
	}()
}

// unharmed checks that what was planted is as it was.
func (g garden) unharmed(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(g.decoy)
	if err != nil || len(entries) != 1 {
		t.Errorf("the decoy holds %v, %v", entries, err)
	}
	var stat unix.Stat_t
	if err := unix.Lstat(filepath.Join(g.decoy, "file"), &stat); err != nil || stat.Uid != 0 || stat.Mode != unix.S_IFREG|0o644 {
		t.Errorf("the decoy's file belongs to %d, mode %o, %v", stat.Uid, stat.Mode, err)
	}
	pattern, err := os.ReadFile("/proc/sys/kernel/core_pattern")
	if err != nil || string(pattern) != g.pattern {
		t.Errorf("core_pattern is %q, was %q", pattern, g.pattern)
	}
}

// TestAllow opens one port of this machine, and nothing beside it.
func TestAllow(t *testing.T) {
	planted := plant(t)
	other, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	speak(t, other)
	_, port, _ := net.SplitHostPort(other.Addr().String())

	w := newWorld(t, nil)
	w.builder.Allow = []string{planted.own + ":" + planted.port}
	w.dockerfile(t, fmt.Sprintf("FROM BASE\nRUN probe reach %s:%s\nRUN probe dial %s:%s 10.0.0.1:80 169.254.169.254:80\n", planted.own, planted.port, planted.own, port))
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}
	if !strings.Contains(w.log(t), "reached "+planted.own+":"+planted.port+": "+canary) {
		t.Errorf("the allowed port was not reached:\n%s", end(w.log(t)))
	}

	w.builder.Allow = []string{planted.own + "/32"}
	w.dockerfile(t, fmt.Sprintf("FROM BASE\nRUN probe reach %s:%s\nRUN probe reach %s:%s\nRUN probe dial 10.0.0.1:80\n", planted.own, planted.port, planted.own, port))
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}

	// A network around it does not open the machine itself.
	w.builder.Allow = []string{"0.0.0.0/1", "128.0.0.0/1"}
	w.dockerfile(t, fmt.Sprintf("FROM BASE\nRUN probe dial %s:%s\n", planted.own, planted.port))
	if _, err := w.builder.Run(t.Context(), w.job()); err != nil {
		t.Fatalf("%v\n%s", err, end(w.log(t)))
	}
	w.nothingLeft(t)
}

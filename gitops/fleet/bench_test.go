package fleet

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// A fleet as large ones are: 10,000 YAML files in nested directories, 200 markers,
// 5,000 commits.
const (
	benchFiles   = 10_000
	benchMarkers = 200
	benchCommits = 5_000
)

// BenchmarkBump is one promotion of one image, warm, over local HTTP, up to the
// ledger read back; the CPU is our own process's, without git's.
func BenchmarkBump(b *testing.B) {
	url := largeRepository(b)
	f := benchFleet(b, url)
	image := imageNamed("app-7")
	promote := func(n int) {
		s, err := f.Promoted(b.Context(), image)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Promote(b.Context(), bumpTo(image, n, s)); err != nil {
			b.Fatal(err)
		}
	}
	promote(0)
	n, cpu := 1, processorTime()
	for b.Loop() {
		promote(n)
		n++
	}
	b.ReportMetric(float64((processorTime()-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

// BenchmarkBumpCold is the same with no cache at all.
func BenchmarkBumpCold(b *testing.B) {
	url := largeRepository(b)
	image := imageNamed("app-7")
	n, cpu := 0, processorTime()
	for b.Loop() {
		f := benchFleet(b, url)
		s, err := f.Promoted(b.Context(), image)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := f.Promote(b.Context(), bumpTo(image, n, s)); err != nil {
			b.Fatal(err)
		}
		f.Close()
		n++
	}
	b.ReportMetric(float64((processorTime()-cpu).Microseconds())/1000/float64(b.N), "cpu-ms/op")
}

func processorTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

var benchSecret map[string][]byte

func benchFleet(b *testing.B, url string) *Fleet {
	b.Helper()
	if benchSecret == nil {
		var err error
		if benchSecret, _, err = trust.NewSigningKey("towpath@example.com", nil); err != nil {
			b.Fatal(err)
		}
	}
	remote, err := wire.New(wire.Options{URL: url})
	if err != nil {
		b.Fatal(err)
	}
	f, err := Open(Options{
		Name: "production", URL: url, Branch: "main", Path: "./clusters",
		Author: gitops.Person{Name: "Towpath", Email: "towpath@example.com"},
		Remote: remote, Dir: b.TempDir(),
		Signer: func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, benchSecret) },
		Keys:   func() (*trust.Keyring, error) { return trust.OwnKeys(trust.SSH, benchSecret) },
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { f.Close(); remote.Close() })
	return f
}

// largeRepository makes the repository with git fast-import.
func largeRepository(b *testing.B) (url string) {
	b.Helper()
	git := lab.NewGit(b)
	url = git.Create(repository)
	var in bytes.Buffer
	file := func(i int) (path, content string) {
		name := fmt.Sprintf("file-%d", i)
		content = deployment(name, "registry.example.com/apps/"+name+":1")
		if i%(benchFiles/benchMarkers) == 0 {
			name = fmt.Sprintf("app-%d", i/(benchFiles/benchMarkers))
			content = deployment(name, "registry.example.com/apps/"+name+":none")
		} else {
			content = string(bytes.ReplaceAll([]byte(content), []byte("$imagepolicy"), []byte("comment")))
		}
		return fmt.Sprintf("clusters/%d/%d/%d/%s.yaml", i%7, i%61, i%13, name), content
	}
	commit := func(n int) {
		fmt.Fprintf(&in, "commit refs/heads/main\ncommitter Pat <pat@example.com> %d +0000\ndata 6\nchange\n", lab.Epoch.Unix()+int64(n))
	}
	commit(0)
	for i := range benchFiles {
		path, content := file(i)
		fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", path, len(content), content)
	}
	for n := 1; n < benchCommits; n++ {
		commit(n)
		path, content := file(1 + (n*37)%(benchFiles-1))
		content += fmt.Sprintf("# %d\n", n)
		fmt.Fprintf(&in, "M 100644 inline %s\ndata %d\n%s\n", path, len(content), content)
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin, cmd.Stderr = git.Dir(repository), &in, os.Stderr
	if err := cmd.Run(); err != nil {
		b.Fatal(err)
	}
	lab.RunGit(b, git.Dir(repository), "repack", "-adq")
	return url
}

package fleet

import (
	"crypto/sha1"
	"crypto/sha256"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/gitops/wire"
)

// yard is a GitOps repository on a real server, a person who works on it, and
// the keys of a Towpath.
type yard struct {
	t       *testing.T
	git     *lab.Git
	url     string
	dir     string // of the bare repository on the server
	pat     *lab.Work
	secret  map[string][]byte
	allowed string // file with git's allowed signers
	faults  *faults
	clock   atomic.Int64
}

const repository = "fleet.git"

// deployment is a manifest as people write them.
func deployment(name, image string) string {
	return fmt.Sprintf(`---

apiVersion: apps/v1
kind:   Deployment      # spaces that mean nothing
metadata: {name: %[1]s,   namespace: apps}
spec:
      template:
            spec:
                  containers:
                  - name: %[1]s
                    image: "%[2]s"   # {"$imagepolicy": "flux-system:%[1]s"}
                    args: [ 'a',   "b" ]
`, name, image)
}

const (
	podinfoFile = "clusters/production/podinfo.yaml"
	placeholder = "registry.example.com/apps/podinfo:none"
)

func plainFiles() map[string]string {
	return map[string]string{
		"README.md": "# fleet\n",
		podinfoFile: deployment("podinfo", placeholder),
	}
}

func newYard(t *testing.T, files map[string]string, options ...lab.GitOptions) *yard {
	t.Helper()
	var o lab.GitOptions
	if len(options) > 0 {
		o = options[0]
	}
	y := &yard{t: t, faults: &faults{}}
	o.Middleware = y.faults.wrap
	y.git = lab.NewGit(t, o)
	y.url = y.git.Create(repository)
	y.dir = y.git.Dir(repository)
	y.pat = lab.NewWork(t, y.url)
	y.pat.Commit(lab.Commit{Message: "first", Files: files, Author: "Pat Platform <pat@example.com>"})
	y.pat.Push("HEAD:main")
	y.newKey()
	y.clock.Store(lab.Epoch.Add(time.Hour).Unix())
	return y
}

// newKey replaces Towpath's signing key.
func (y *yard) newKey() {
	y.t.Helper()
	secret, allowed, err := trust.NewSigningKey("towpath@example.com", nil)
	if err != nil {
		y.t.Fatal(err)
	}
	y.secret = secret
	y.allowed = filepath.Join(y.t.TempDir(), "allowed_signers")
	lab.WriteFile(y.t, y.allowed, []byte(allowed+"\n"))
}

// options are those of a Towpath that starts with no cache.
func (y *yard) options() Options {
	y.t.Helper()
	remote, err := wire.New(wire.Options{URL: y.url})
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { remote.Close() })
	secret := maps.Clone(y.secret)
	return Options{
		Name: "production", URL: y.url, Branch: "main", Path: "./clusters/production",
		Author: gitops.Person{Name: "Towpath", Email: "towpath@example.com"},
		Remote: remote, Dir: y.t.TempDir(),
		Signer: func() (*trust.Signer, error) { return trust.LoadSigner(trust.SSH, secret) },
		Keys:   func() (*trust.Keyring, error) { return trust.OwnKeys(trust.SSH, secret) },
		Now:    func() time.Time { return time.Unix(y.clock.Add(1), 0).UTC() },
	}
}

// fleet opens the target, changed by any number of functions.
func (y *yard) fleet(change ...func(*Options)) *Fleet {
	y.t.Helper()
	o := y.options()
	for _, c := range change {
		c(&o)
	}
	f, err := Open(o)
	if err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() { f.Close() })
	return f
}

// run runs real git on the server's repository.
func (y *yard) run(args ...string) string {
	y.t.Helper()
	return strings.TrimRight(lab.RunGit(y.t, y.dir, args...), "\n")
}

// ref is where a ref of the server points; empty: nowhere.
func (y *yard) ref(name string) string {
	out, err := lab.TryGit(y.dir, "rev-parse", "--verify", "--quiet", name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(out)
}

func (y *yard) ledger(image string) string { return y.ref("refs/towpath/production/" + image) }

// file is a file's content on a branch of the server.
func (y *yard) file(branch, path string) string { return y.run("show", branch+":"+path) }

// person commits to a branch as Pat, on its newest head.
func (y *yard) person(branch string, c lab.Commit) gitops.Hash {
	y.t.Helper()
	y.pat.Git("fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")
	y.pat.Git("checkout", "--quiet", "-B", branch, "origin/"+branch)
	if c.Author == "" {
		c.Author = "Pat Platform <pat@example.com>"
	}
	hash := y.pat.Commit(c)
	y.pat.Push("HEAD:" + branch)
	return mustHash(y.t, hash)
}

// works runs git commands in Pat's clone of a branch, and pushes what came of it.
func (y *yard) works(branch string, commands ...[]string) {
	y.t.Helper()
	y.pat.Git("fetch", "--quiet", "--prune", "origin", "+refs/heads/*:refs/remotes/origin/*")
	y.pat.Git("checkout", "--quiet", "-B", branch, "origin/"+branch)
	for _, c := range commands {
		y.pat.Git(c...)
	}
	y.pat.Push("--force", "HEAD:"+branch)
}

func (y *yard) revert(branch, commit string) {
	y.t.Helper()
	y.works(branch, []string{"revert", "--no-edit", commit})
}

// write puts a podinfo manifest onto main that holds an image.
func (y *yard) write(image string) gitops.Hash {
	y.t.Helper()
	return y.person("main", lab.Commit{Message: "set an image", Files: map[string]string{podinfoFile: deployment("podinfo", image)}})
}

func mustHash(t *testing.T, s string) gitops.Hash {
	t.Helper()
	h, err := gitops.ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

var podinfo = Image{Name: "podinfo", Policy: marker.Policy{Namespace: "flux-system", Name: "podinfo"}, Pin: true}

func imageNamed(name string) Image {
	return Image{Name: name, Policy: marker.Policy{Namespace: "flux-system", Name: name}, Pin: true}
}

// source is the n-th commit of an application.
func source(n int) gitops.Commit {
	return gitops.Commit{
		Hash: gitops.Hash(sha1.Sum(fmt.Append(nil, "source ", n))), Subject: fmt.Sprintf("Change number %d", n),
		Author: gitops.Person{Name: "Dana Developer", Email: "dana@example.com", When: lab.Epoch},
	}
}

// bumpTo is the bump of an image to the n-th source commit, decided on a state.
func bumpTo(image Image, n int, on State) Bump {
	b := Bump{
		Image: image, SourceURL: "https://git.example.com/apps/" + image.Name + ".git", SourceRef: "refs/heads/master",
		Commit: source(n), Commits: []gitops.Commit{source(n)},
		Name: "registry.example.com/apps/" + image.Name, Tag: fmt.Sprintf("master-%d", n),
		Digest:     fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, image.Name, n))),
		Provenance: fmt.Sprintf("sha256:%x", sha256.Sum256(fmt.Append(nil, "provenance ", n))),
	}
	if on.Entry != nil {
		b.Base, b.BaseBump = on.Entry.Source, on.Entry.Bump
	}
	return b
}

// value is what a marker of podinfo holds after its n-th bump.
func value(image Image, n int) string {
	b := bumpTo(image, n, State{})
	return b.Name + ":" + b.Tag + "@" + b.Digest
}

func (y *yard) state(f *Fleet, image Image) State {
	y.t.Helper()
	s, err := f.Promoted(y.t.Context(), image)
	if err != nil {
		y.t.Fatalf("Promoted: %v", err)
	}
	return s
}

// promote promotes the n-th source commit.
func (y *yard) promote(f *Fleet, image Image, n int) Promotion {
	y.t.Helper()
	p, err := f.Promote(y.t.Context(), bumpTo(image, n, y.state(f, image)))
	if err != nil {
		y.t.Fatalf("Promote: %v", err)
	}
	return p
}

// stands asserts how podinfo stands, asked of a daemon that knows the past and of
// one that knows nothing: they must agree.
func (y *yard) stands(f *Fleet, image Image, want Standing) State {
	y.t.Helper()
	warm := y.state(f, image)
	change := func(o *Options) {
		dir, remote := o.Dir, o.Remote
		*o = f.Options
		o.Dir, o.Remote = dir, remote
	}
	cold := y.state(y.fleet(change), image)
	if warm.Standing != want {
		y.t.Fatalf("standing is %q, want %q\n%s", warm.Standing, want, y.run("log", "--graph", "--oneline", "--all"))
	}
	if cold.Standing != warm.Standing {
		y.t.Fatalf("a warm cache says %q, none says %q", warm.Standing, cold.Standing)
	}
	if (warm.Entry == nil) != (cold.Entry == nil) || warm.Entry != nil && *warm.Entry != *cold.Entry {
		y.t.Fatalf("a warm cache names entry %+v, none names %+v", warm.Entry, cold.Entry)
	}
	return warm
}

// sound asserts what must hold of the repository whatever happened: git finds no
// fault, and no source commit was promoted twice. To fill a new marker is no
// promotion, and neither is what a person accepted.
func (y *yard) sound() {
	y.t.Helper()
	if out, err := lab.TryGit(y.dir, "fsck", "--strict", "--no-dangling"); err != nil {
		y.t.Fatalf("fsck: %v\n%s", err, out)
	}
	seen := map[string]bool{}
	log := y.run("log", "--invert-grep", "--grep=Fills markers", "--grep=^Towpath-Accepted:", "--format=%(trailers:key=Towpath-Image,valueonly,separator=) %(trailers:key=Towpath-Commit,valueonly,separator=) %(trailers:key=Towpath-Target,valueonly,separator=)", "main")
	for _, line := range strings.Split(log, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		if seen[line] {
			y.t.Errorf("promoted twice on main: %s", line)
		}
		seen[line] = true
	}
}

// read reads a file that a hook has written on the server.
func (y *yard) read(name string) string {
	y.t.Helper()
	content, err := os.ReadFile(filepath.Join(y.dir, name))
	if err != nil {
		y.t.Fatal(err)
	}
	return string(content)
}

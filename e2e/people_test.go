package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"towpath.dev/towpath/e2e/lab"
)

// people are those who work on the repositories of a chronicle, at random:
// developers, platform engineers, administrators. Each of their acts returns
// what it was, or "" where it was not possible at that moment.
type people struct {
	c       *chronicle
	form    string // the config as it was first
	signers string // git's allowed signers: every key that ever signed

	n        int // makes names and contents differ
	args     int
	pin      string
	hold     bool
	accepted string
	former   string // public keys that signed before
}

const nothing = "nothing happens"

func newPeople(c *chronicle, form string) *people {
	p := &people{c: c, form: form, pin: "digest", signers: filepath.Join(c.w.Dir, "signers")}
	p.allow()
	return p
}

// act is one random step.
func (p *people) act() string {
	acts := []func() string{
		p.push, p.push, p.push, p.pushDocs, p.merge, p.amend, p.setBack, p.recover, p.recover, p.recover, p.recover, p.recover, p.recover,
		p.revert, p.revert, p.takeOver, p.putBack, p.putBack, p.placeholder, p.move, p.chatter, p.reset,
		p.mergeReview, p.mergeReview, p.squashReview, p.rebaseReview, p.closeReview, p.closeReview, p.meddle, p.conflict,
		p.changeBuild, p.changeRules, p.accept, p.rotate, p.rotateProvenance, p.loseCache,
		func() string { return nothing },
	}
	for {
		if told := acts[p.c.rng.IntN(len(acts))](); told != "" {
			return told
		}
	}
}

// reconcile makes peace: what people left in Towpath's way is taken out of it.
func (p *people) reconcile() string {
	p.hold, p.accepted = false, ""
	p.configure()
	for _, target := range p.c.targets {
		if target.entry.ref != "" {
			p.write(target, target.entry.ref)
		}
		if target.review != "" && p.c.ref("refs/heads/"+target.review) != "" {
			p.c.w.Fleet.Push(":" + target.review)
		}
	}
	// A commit that descends from everything that was promoted anywhere.
	app := p.c.w.App
	app.Git("switch", "--quiet", "--force-create", "master", p.c.targets[0].entry.source)
	for _, target := range p.c.targets[1:] {
		app.Git("merge", "--quiet", "--no-edit", "--strategy=ours", target.entry.source)
	}
	p.change()
	app.Push("+HEAD:master")
	return "people make peace"
}

func (p *people) next() int {
	p.n++
	return p.n
}

// Developers.

func (p *people) change() {
	n := p.next()
	p.c.w.App.Commit(lab.Commit{Message: fmt.Sprintf("Choose shade %d", n), Files: map[string]string{"colour": fmt.Sprintf("shade-%d\n", n)}})
}

func (p *people) push() string {
	for range 1 + p.c.rng.IntN(2) {
		p.change()
	}
	p.c.w.App.Push("+HEAD:master")
	return "a push"
}

func (p *people) pushDocs() string {
	n := p.next()
	p.c.w.App.Commit(lab.Commit{Message: "Document", Files: map[string]string{"docs/guide.txt": fmt.Sprint(n)}})
	p.c.w.App.Push("+HEAD:master")
	return "a push of what is not watched"
}

func (p *people) merge() string {
	app := p.c.w.App
	if _, err := lab.TryGit(app.Dir, "switch", "--quiet", "--force-create", "topic", "master~1"); err != nil {
		return ""
	}
	n := p.next()
	app.Commit(lab.Commit{Message: "On a branch", Files: map[string]string{fmt.Sprintf("file-%d", n): "new\n"}})
	app.Git("switch", "--quiet", "master")
	app.Git("merge", "--quiet", "--no-ff", "-m", fmt.Sprint("Merge topic ", n), "topic")
	app.Push("+HEAD:master")
	return "a merge"
}

func (p *people) amend() string {
	p.c.w.App.Git("commit", "--quiet", "--amend", "-m", fmt.Sprint("Rewritten ", p.next()))
	p.c.w.App.Push("+HEAD:master")
	return "the tip is rewritten by force"
}

func (p *people) setBack() string {
	if _, err := lab.TryGit(p.c.w.App.Dir, "reset", "--quiet", "--hard", "HEAD~1"); err != nil {
		return ""
	}
	p.c.w.App.Push("+HEAD:master")
	return "the source branch is set back"
}

// recover goes on from what was promoted, where that is one line.
func (p *people) recover() string {
	source := p.c.targets[0].entry.source
	for _, target := range p.c.targets {
		if _, err := lab.TryGit(p.c.w.App.Dir, "merge-base", "--is-ancestor", source, target.entry.source); err == nil {
			source = target.entry.source
		}
	}
	if source == "" {
		return ""
	}
	p.c.w.App.Git("reset", "--quiet", "--hard", source)
	p.change()
	p.c.w.App.Push("+HEAD:master")
	return "developers go on from what was promoted"
}

// Platform engineers.

func (p *people) target() *target { return p.c.targets[p.c.rng.IntN(len(p.c.targets))] }

// reviewed is a target whose review branch exists.
func (p *people) reviewed() *target {
	for _, target := range p.c.targets {
		if target.review != "" && p.c.ref("refs/heads/"+target.review) != "" {
			return target
		}
	}
	return nil
}

// fleet brings the clone to where the branch is.
func (p *people) fleet() *lab.Work {
	fleet := p.c.w.Fleet
	fleet.Git("fetch", "--quiet", "--prune", "origin")
	fleet.Git("checkout", "--quiet", "--force", "-B", "main", "origin/main")
	fleet.Git("clean", "-qfdx")
	return fleet
}

// pushed pushes the branch as people do, and notes what has been taken back.
func (p *people) pushed(told string) string {
	held := map[*target]bool{}
	for _, target := range p.c.targets {
		held[target] = target.entry.ref != "" && strings.Contains(p.c.manifests(target), target.entry.ref)
	}
	p.c.w.Fleet.Push("+HEAD:main")
	for _, target := range p.c.targets {
		switch holds := strings.Contains(p.c.manifests(target), target.entry.ref); {
		case target.entry.ref == "":
		case holds:
			target.undone = ""
		case held[target]:
			target.undone = target.entry.ref
		}
	}
	return told
}

func (p *people) revert() string {
	fleet, target := p.fleet(), p.target()
	newest := fleet.Git("log", "-1", "--first-parent", "-m", "--format=%H %P", "--", target.dir)
	words := strings.Fields(newest)
	if len(words) < 2 {
		return "" // the first commit
	}
	args := []string{"revert", "--no-edit", words[0]}
	if len(words) > 2 {
		args = append(args, "-m", "1")
	}
	if _, err := lab.TryGit(fleet.Dir, args...); err != nil {
		_, _ = lab.TryGit(fleet.Dir, "revert", "--abort") // there may be nothing to abort
		fleet.Git("reset", "--quiet", "--hard", "origin/main")
		return ""
	}
	return p.pushed("a revert in " + target.name)
}

var value = regexp.MustCompile(`image: *"[^"]*"( *# \{"\$imagepolicy": "flux-system:podinfo"\})`)

// write sets every marker of a target.
func (p *people) write(target *target, ref string) string {
	fleet := p.fleet()
	files, err := filepath.Glob(filepath.Join(fleet.Dir, target.dir, "*.yaml"))
	if err != nil {
		p.c.t.Fatal(err)
	}
	changed := false
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			p.c.t.Fatal(err)
		}
		edited := value.ReplaceAllString(string(content), `image: "`+ref+`"$1`)
		changed = changed || edited != string(content)
		if err := os.WriteFile(file, []byte(edited), 0o644); err != nil {
			p.c.t.Fatal(err)
		}
	}
	if !changed {
		return ""
	}
	fleet.Commit(lab.Commit{Message: fmt.Sprint("Set the image ", p.next())})
	return p.pushed(target.name + " is set to " + ref[:min(len(ref), 30)])
}

func (p *people) takeOver() string {
	return p.write(p.target(), fmt.Sprintf("registry.example.com/other:%d", p.next()))
}

func (p *people) putBack() string {
	target := p.target()
	if target.entry.ref == "" {
		return ""
	}
	return p.write(target, target.entry.ref)
}

func (p *people) placeholder() string {
	fleet, target := p.fleet(), p.target()
	fleet.Commit(lab.Commit{Message: "Open a cluster", Files: map[string]string{
		fmt.Sprintf("%s/more-%d.yaml", target.dir, p.next()): markerLine("nobody/nothing:0"),
	}})
	return p.pushed("a placeholder in " + target.name)
}

func (p *people) move() string {
	fleet, target := p.fleet(), p.target()
	files, err := filepath.Glob(filepath.Join(fleet.Dir, target.dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return ""
	}
	file := files[p.c.rng.IntN(len(files))]
	if err := os.Rename(file, filepath.Join(filepath.Dir(file), fmt.Sprintf("moved-%d.yaml", p.next()))); err != nil {
		p.c.t.Fatal(err)
	}
	fleet.Commit(lab.Commit{Message: fmt.Sprint("Tidy up ", p.n)})
	return p.pushed("a file is moved in " + target.name)
}

func (p *people) chatter() string {
	p.fleet().Commit(lab.Commit{Message: "Say more", Files: map[string]string{"README.md": fmt.Sprint(p.next())}})
	return p.pushed("a commit about something else")
}

func (p *people) reset() string {
	fleet := p.fleet()
	if _, err := lab.TryGit(fleet.Dir, "reset", "--quiet", "--hard", fmt.Sprintf("HEAD~%d", 1+p.c.rng.IntN(2))); err != nil {
		return ""
	}
	return p.pushed("an administrator resets the GitOps branch")
}

// Reviewers.

func (p *people) mergeReview() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	fleet := p.fleet()
	if _, err := lab.TryGit(fleet.Dir, "merge", "--quiet", "--no-ff", "-m", fmt.Sprint("Merge ", p.next()), "origin/"+target.review); err != nil {
		fleet.Git("reset", "--quiet", "--hard", "origin/main")
		return ""
	}
	return p.pushed(p.delete(target, "the review is merged"))
}

func (p *people) squashReview() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	fleet := p.fleet()
	if _, err := lab.TryGit(fleet.Dir, "merge", "--quiet", "--squash", "origin/"+target.review); err != nil {
		fleet.Git("reset", "--quiet", "--hard", "origin/main")
		return ""
	}
	fleet.Commit(lab.Commit{Message: fmt.Sprint("Deploy ", p.next())})
	return p.pushed(p.delete(target, "the review is squashed"))
}

func (p *people) rebaseReview() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	fleet := p.fleet()
	fleet.Commit(lab.Commit{Message: fmt.Sprint("Meanwhile ", p.next())})
	if _, err := lab.TryGit(fleet.Dir, "cherry-pick", "origin/main..origin/"+target.review); err != nil {
		_, _ = lab.TryGit(fleet.Dir, "cherry-pick", "--abort") // there may be nothing to abort
		fleet.Git("reset", "--quiet", "--hard", "origin/main")
		return ""
	}
	return p.pushed(p.delete(target, "the review is rebased"))
}

// delete deletes the review branch at times, as some forges do after a merge.
func (p *people) delete(target *target, told string) string {
	if p.c.rng.IntN(2) == 0 {
		return told
	}
	p.c.w.Fleet.Push("HEAD:main") // first: the branch was merged before it was deleted
	p.c.w.Fleet.Push(":" + target.review)
	return told + " and its branch deleted"
}

func (p *people) closeReview() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	p.c.w.Fleet.Push(":" + target.review)
	return "the review is closed"
}

func (p *people) meddle() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	fleet := p.fleet()
	fleet.Git("checkout", "--quiet", "--force", "-B", "theirs", "origin/"+target.review)
	fleet.Commit(lab.Commit{Message: fmt.Sprint("I help ", p.next())})
	fleet.Push("HEAD:" + target.review)
	return "somebody commits to the review branch"
}

func (p *people) conflict() string {
	target := p.reviewed()
	if target == nil {
		return ""
	}
	fleet := p.fleet()
	files, err := filepath.Glob(filepath.Join(fleet.Dir, target.dir, "*.yaml"))
	if err != nil || len(files) == 0 {
		return ""
	}
	content, err := os.ReadFile(files[0])
	if err != nil {
		p.c.t.Fatal(err)
	}
	n := p.next()
	edited := strings.Replace(string(content), "image: ", fmt.Sprintf("note-%d: here\nimage: ", n), 1)
	if err := os.WriteFile(files[0], []byte(edited), 0o644); err != nil {
		p.c.t.Fatal(err)
	}
	fleet.Commit(lab.Commit{Message: fmt.Sprint("Note ", n)})
	return p.pushed("a commit beside the marker in " + target.name)
}

// Administrators.

func (p *people) changeBuild() string {
	p.args = p.next()
	p.configure()
	return "the build's arguments change"
}

func (p *people) changeRules() string {
	p.hold = !p.hold
	if p.c.rng.IntN(2) == 0 {
		p.pin = map[string]string{"digest": "tag", "tag": "digest"}[p.pin]
	}
	p.configure()
	return fmt.Sprintf("pin is %s, after a revert hold is %t", p.pin, p.hold)
}

func (p *people) accept() string {
	p.accepted = p.c.w.App.Head()
	p.configure()
	return "the config accepts the tip"
}

// configure writes the config as everybody's wishes are now.
func (p *people) configure() {
	config := strings.Replace(p.form, "    build:\n", fmt.Sprintf("    build:\n      args: {N: \"%d\"}\n", p.args), 1)
	config = strings.Replace(config, "    policy:", "    pin: "+p.pin+"\n    policy:", 1)
	watch := "      watch: [\"/\", \"!/docs/\"]\n"
	if p.accepted != "" {
		watch += fmt.Sprintf("      accept: [{commit: %s, reason: \"because %s\"}]\n", p.accepted, p.accepted[:8])
	}
	config = strings.Replace(config, "    build:\n", watch+"    build:\n", 1)
	rule := "next"
	if p.hold {
		rule = "hold"
	}
	begin, end := strings.Index(config, "  - name: production"), strings.Index(config, "builder:")
	production := strings.Replace(config[begin:end], "    update:", "    afterRevert: "+rule+"\n    update:", 1)
	staging := strings.NewReplacer(
		"name: production", "name: staging", "clusters/production", "clusters/staging",
		"    afterRevert:", "      push: {branch: \"review/staging/{{ .Image }}\"}\n    afterRevert:",
	).Replace(production)
	lab.WriteFile(p.c.t, p.c.w.Config, []byte(config[:begin]+production+staging+config[end:]))
}

// rotate makes a new signing key and keeps the public half of the former one.
func (p *people) rotate() string {
	secret := filepath.Join(p.c.w.Dir, "secrets", "towpath-signing")
	public, err := os.ReadFile(filepath.Join(secret, "identity.pub"))
	if err != nil {
		p.c.t.Fatal(err)
	}
	p.former += strings.TrimSpace(string(public)) + "\n"
	if err := os.RemoveAll(secret); err != nil {
		p.c.t.Fatal(err)
	}
	p.keygen("--provenance", fmt.Sprint("spare-", p.next()))
	lab.WriteFile(p.c.t, filepath.Join(secret, "former.pub"), []byte(p.former))
	p.allow()
	return "the signing key is rotated"
}

// rotateProvenance makes a new provenance key. What the former one sealed is
// not ours any longer.
func (p *people) rotateProvenance() string {
	if err := os.RemoveAll(filepath.Join(p.c.w.Dir, "secrets", "towpath-provenance")); err != nil {
		p.c.t.Fatal(err)
	}
	p.keygen("--signing", fmt.Sprint("spare-", p.next()))
	return "the provenance key is rotated"
}

func (p *people) keygen(args ...string) {
	p.c.w.MustRun(append([]string{"keygen", "--secrets", filepath.Join(p.c.w.Dir, "secrets"), "--email", "towpath@example.com"}, args...)...)
}

// allow adds the signing key to git's allowed signers.
func (p *people) allow() {
	key, err := os.ReadFile(filepath.Join(p.c.w.Dir, "secrets", "towpath-signing", "allowed_signers"))
	if err != nil {
		p.c.t.Fatal(err)
	}
	known, err := os.ReadFile(p.signers)
	if err != nil && !os.IsNotExist(err) {
		p.c.t.Fatal(err)
	}
	lab.WriteFile(p.c.t, p.signers, append(known, key...))
}

func (p *people) loseCache() string {
	if err := os.RemoveAll(filepath.Join(p.c.w.Dir, "cache")); err != nil {
		p.c.t.Fatal(err)
	}
	p.c.logs = map[string]bool{}
	return "the cache is lost"
}

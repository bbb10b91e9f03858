package config

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// together reports targets of one repository that can never work beside each other:
// two that edit the same markers, so that each would take the other for a stranger, and
// two of which one pushes to the other's branches.
func (l *loader) together() {
	for j := range l.config.GitOps {
		for i := range j {
			a, b := &l.config.GitOps[i], &l.config.GitOps[j]
			if a.Name == b.Name || !oneRepository(a.URL, b.URL) {
				continue // of two targets of one name it is reported already
			}
			l.markers(i, j)
			l.reviews(i, j)
			l.reviews(j, i)
			l.mirrors(i, j)
			l.mirrors(j, i)
		}
		for i := range l.config.GitOps {
			if oneRepository(l.config.GitOps[i].URL, l.config.GitOps[j].URL) {
				l.besideLedger(j, l.config.GitOps[i].Name)
			}
		}
	}
}

// oneRepository tells whether two URLs lead to the same repository, as far as
// that shows: by whatever protocol, as whatever user, with or without .git. Of one
// protocol, another port is another server; of two, each has its own.
func oneRepository(a, b string) bool {
	first, err := parseRemote(a)
	if err != nil {
		return false
	}
	second, err := parseRemote(b)
	if err != nil {
		return false
	}
	place := func(r remote) string {
		host := r.host
		if first.scheme != second.scheme {
			host = r.name
		}
		return strings.TrimSuffix(strings.Join(append([]string{host}, r.segments...), "/"), ".git")
	}
	return place(first) == place(second)
}

// markers wants targets that read one branch to edit markers of their own:
// paths apart, or policies apart.
func (l *loader) markers(i, j int) {
	a, b := &l.config.GitOps[i], &l.config.GitOps[j]
	before, at := l.at(index("gitops", i)+".update.path"), l.at(index("gitops", j)+".update.path")
	if a.Branch() != b.Branch() || !overlap(a.Path(), b.Path()) || l.report.blamed(before) || l.report.blamed(at) {
		return
	}
	for x := range l.config.Images {
		for y := range l.config.Images {
			one, other := &l.config.Images[x], &l.config.Images[y]
			if one.Policy == "" || one.Policy != other.Policy || !one.goesTo(a.Name) || !other.goesTo(b.Name) {
				continue
			}
			who := "image " + one.Name + " goes to both"
			if one.Name != other.Name {
				who = fmt.Sprintf("images %s and %s have one policy", one.Name, other.Name)
			}
			l.flag(at, fmt.Sprintf("%s of target %s overlaps %s of target %s, and %s", where(b), b.Name, where(a), a.Name, who),
				"two targets cannot edit one marker: take paths of which none holds the other, or name one target alone under gitops of the image")
			return
		}
	}
}

// where is a target's path as people call it.
func where(t *Target) string {
	if path.Clean(t.Path()) == "." {
		return "the whole repository"
	}
	return quote(t.Path())
}

// overlap tells whether one directory is the other or holds it.
func overlap(a, b string) bool {
	a, b = path.Clean(a), path.Clean(b)
	return a == b || a == "." || b == "." || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}

// reviews wants the review branches of target i to be its own: they are made
// anew at will, and a commit that is not the target's own stops it there.
func (l *loader) reviews(i, j int) {
	a, b := &l.config.GitOps[i], &l.config.GitOps[j]
	at := l.at(index("gitops", i) + ".git.push.branch")
	theirs := l.reviewBranches(b)
	for _, branch := range l.reviewBranches(a) {
		switch {
		case branch == b.Branch():
			l.flag(at, fmt.Sprintf("%s is the branch that target %s reads", quote(branch), b.Name), "a review branch is the target's own: name another")
		case i > j && slices.Contains(theirs, branch):
			l.flag(at, fmt.Sprintf("%s is also the review branch of target %s", quote(branch), b.Name), "a review branch is the target's own: as in towpath/{{ .Image }}-"+a.Name)
		}
		for _, other := range append(theirs, b.Branch()) {
			if strings.HasPrefix(branch, other+"/") || strings.HasPrefix(other, branch+"/") {
				l.flag(at, fmt.Sprintf("git cannot have both branches %s and %s, of target %s", quote(branch), quote(other), b.Name), "")
			}
		}
	}
}

// reviewBranches are those that a target's images are proposed on, each once.
func (l *loader) reviewBranches(target *Target) []string {
	var branches []string
	for _, name := range l.imagesOf(target.Name) {
		branch, err := target.PushBranch(name)
		if err == nil && branch != "" && branch != target.Branch() && !slices.Contains(branches, branch) {
			branches = append(branches, branch)
		}
	}
	return branches
}

// mirrors keeps the further ref of target i off the branches of target j,
// where it would soon be no fast-forward any more.
func (l *loader) mirrors(i, j int) {
	a, b := &l.config.GitOps[i], &l.config.GitOps[j]
	if a.Git.Push == nil {
		return
	}
	_, to, _ := strings.Cut(a.Git.Push.Refspec, ":")
	branch, ok := strings.CutPrefix(to, "refs/heads/")
	if ok && slices.Contains(append(l.reviewBranches(b), b.Branch()), branch) && branch != a.Branch() {
		l.flag(l.at(index("gitops", i)+".git.push.refspec"), fmt.Sprintf("pushes to %s, a branch of target %s", quote(branch), b.Name), "name a ref that nobody else pushes to")
	}
}

// besideLedger refuses branches that git confuses with ledger entries: asked
// for towpath/TARGET/IMAGE it finds refs/towpath/TARGET/IMAGE first, in the
// server's repository and in every mirror of it.
func (l *loader) besideLedger(i int, ledger string) {
	target := &l.config.GitOps[i]
	for _, branch := range l.reviewBranches(target) {
		if strings.HasPrefix(branch, "towpath/"+ledger+"/") {
			l.flag(l.at(index("gitops", i)+".git.push.branch"),
				fmt.Sprintf("git would take %s for refs/%s, where the ledger of target %s is", quote(branch), branch, ledger), "as in towpath/{{ .Image }}-"+target.Name)
		}
	}
}

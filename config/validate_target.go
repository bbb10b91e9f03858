package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	flux "github.com/fluxcd/image-automation-controller/api/v1"
	"github.com/go-git/go-git/v5/plumbing"
)

func (l *loader) targets() {
	first := map[string]int{}
	for i := range l.config.GitOps {
		target, path := &l.config.GitOps[i], index("gitops", i)
		if l.label(l.at(path+".name"), target.Name) {
			if other, again := first[target.Name]; again {
				l.flag(l.at(path+".name"), quote(target.Name)+" is taken by "+l.where(l.at(index("gitops", other)+".name")), "")
			} else {
				first[target.Name] = i
			}
		}
		l.gitURL(l.at(path+".url"), target.URL)
		l.secretRef(l.at(path+".secretRef"), target.SecretRef, false)
		l.verify(l.at(path+".verify.mode"), target.Verify.Mode)
		l.oneOf(l.at(path+".afterRevert"), target.AfterRevert, RevertNext, RevertHold)
		l.flux(path+".flux", target.Flux)
		l.oneOf(l.at(path+".update.strategy"), string(target.Update.Strategy), string(flux.UpdateStrategySetters))
		l.inside(l.at(path+".update.path"), target.Update.Path)
		l.checkout(path+".git.checkout.ref", target)
		l.commit(path+".git.commit", &target.Git.Commit)
		l.push(path+".git.push", target)
	}
}

// where says where something is written, for a problem elsewhere.
func (l *loader) where(at place) string {
	found := l.report.find(at)
	if found.line == 0 {
		return found.file
	}
	return fmt.Sprintf("%s:%d", found.file, found.line)
}

// checkout wants a branch: Flux may check out anything, Towpath commits to it.
func (l *loader) checkout(path string, target *Target) {
	if target.Git.Checkout == nil {
		target.Git.Checkout = &flux.GitCheckoutSpec{}
	}
	ref := target.Git.Checkout.Reference
	for _, other := range [][2]string{{"tag", ref.Tag}, {"semver", ref.SemVer}, {"name", ref.Name}, {"commit", ref.Commit}} {
		if other[1] != "" {
			l.flag(l.at(step(path, other[0])), "is not supported: bumps are committed to a branch", "name the branch under branch")
		}
	}
	l.branch(l.at(path+".branch"), ref.Branch)
}

func (l *loader) commit(path string, commit *flux.CommitSpec) {
	odd := func(s string) bool {
		return strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '<' || r == '>' })
	}
	if odd(commit.Author.Name) {
		l.flag(l.at(path+".author.name"), quote(commit.Author.Name)+" holds <, > or a control character", "")
	}
	at := l.at(path + ".author.email")
	if email := commit.Author.Email; l.notEmpty(at, email) && (odd(email) || strings.Contains(email, " ") || !strings.Contains(email, "@")) {
		l.flag(at, quote(email)+" is no e-mail address", "")
	}
	if commit.SigningKey == nil {
		l.flag(l.at(path+".signingKey"), "is missing: every bump is signed", "`towpath keygen` makes a key")
	} else {
		l.label(l.at(path+".signingKey.secretRef.name"), commit.SigningKey.SecretRef.Name)
		if kind := commit.SigningKey.Type; kind != "" { // Flux's own default is gpg
			l.oneOf(l.at(path+".signingKey.type"), string(kind), string(flux.SigningKeyTypeSSH), string(flux.SigningKeyTypeGPG))
		}
	}
	at = l.at(path + ".messageTemplate")
	if _, err := template.New("").Funcs(messageFuncs()).Parse(commit.MessageTemplate); err != nil {
		l.flag(at, templateError(err), "")
	} else if strings.Contains(commit.MessageTemplate, ".Updated") {
		l.flag(at, "uses .Updated, which Flux removed", "use .Changed")
	}
}

// messageFuncs are the functions that a message template may use: sprig's, but
// none that depends on the environment, the network, the clock or chance, and
// none that does cryptography. The list is that of gitops/bump, which renders; this
// package may not import that one, so a test in e2e compares the two.
func messageFuncs() template.FuncMap {
	funcs := sprig.HermeticTxtFuncMap()
	for _, name := range []string{
		"ago", "randInt", "shuffle", "toDate", "mustToDate", "mustDateModify", "must_date_modify",
		"bcrypt", "htpasswd", "derivePassword", "encryptAES", "decryptAES", "genPrivateKey", "buildCustomCert", "genCA",
		"genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey",
	} {
		delete(funcs, name)
	}
	return funcs
}

// push checks where bumps go beside the branch that is read.
func (l *loader) push(path string, target *Target) {
	push := target.Git.Push
	if push == nil {
		return
	}
	l.reviewBranch(l.at(path+".branch"), target)
	l.refspec(l.at(path+".refspec"), target)
	for _, key := range slices.Sorted(maps.Keys(push.Options)) {
		if key == "" || strings.Contains(key, "=") || strings.ContainsAny(key+push.Options[key], "\n\x00") {
			l.flag(l.at(step(path+".options", key)), "is no push option that git can send", "")
		}
	}
}

// reviewBranch renders the branch for every image that goes to the target.
// Git can have either the branch a or branches a/…, so they must not mix.
func (l *loader) reviewBranch(at place, target *Target) {
	base, text := target.Branch(), target.Git.Push.Branch
	if text == "" || text == base {
		return
	}
	seen := []string{base}
	names := l.imagesOf(target.Name)
	if len(names) == 0 {
		names = []string{"image"}
	}
	for _, name := range names {
		branch, err := target.PushBranch(name)
		switch {
		case err != nil:
			l.flag(at, err.Error(), "a branch, or a Go template that knows {{ .Image }}")
			return
		case branch == base:
			l.flag(at, "is, for image "+name+", the branch that is read", "leave it empty to commit to that directly")
			return
		case !l.branch(at, branch):
			return
		}
		for _, other := range seen {
			if strings.HasPrefix(branch, other+"/") || strings.HasPrefix(other, branch+"/") {
				l.flag(at, fmt.Sprintf("git cannot have both branches %s and %s", quote(other), quote(branch)), "")
				return
			}
		}
		if !slices.Contains(seen, branch) {
			seen = append(seen, branch)
		}
	}
}

// imagesOf are the names of the images that go to a target.
func (l *loader) imagesOf(target string) []string {
	var names []string
	for _, image := range l.config.Images {
		if image.Name != "" && image.goesTo(target) {
			names = append(names, image.Name)
		}
	}
	return names
}

// refspec accepts what pushes the bump to one more ref and nothing else.
func (l *loader) refspec(at place, target *Target) {
	spec := target.Git.Push.Refspec
	if spec == "" {
		return
	}
	from, to, ok := strings.Cut(spec, ":")
	reviewed, _ := target.PushBranch("image")
	var pushed []string
	for _, branch := range []string{target.Branch(), reviewed} {
		pushed = append(pushed, branch, "refs/heads/"+branch)
	}
	switch {
	case strings.HasPrefix(spec, "+"):
		l.flag(at, "begins with +, which forces: Towpath never does", "take the + out")
	case from == "":
		l.flag(at, "deletes a ref, which Towpath never does", "")
	case !ok, strings.Contains(to, ":"), !strings.HasPrefix(to, "refs/"), plumbing.ReferenceName(to).Validate() != nil:
		l.flag(at, quote(spec)+" does not name one ref to push to", "as in HEAD:refs/heads/auto")
	case from != "HEAD" && !slices.Contains(pushed, from):
		l.flag(at, quote(from)+" is not what is pushed here", "write HEAD for the commit that Towpath makes")
	case strings.HasPrefix(to, "refs/towpath/"):
		l.flag(at, "pushes to refs/towpath/, where the ledger is", "")
	case slices.Contains(pushed, to):
		l.flag(at, "pushes to the branch itself", "leave it empty")
	}
}

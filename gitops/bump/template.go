package bump

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
	"unicode"

	"github.com/Masterminds/sprig/v3"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops"
)

// Bounds of a template's run. They guard against mistakes in a template: its
// author is whoever writes the config, and is trusted.
const (
	maxOutput = 64 << 10 // bytes
	maxSteps  = 20_000   // iterations and template calls
	maxTime   = 2 * time.Second
)

// TemplateError is a fault of the user's messageTemplate.
type TemplateError struct{ Err error }

func (e *TemplateError) Error() string { return "messageTemplate: " + e.Err.Error() }
func (e *TemplateError) Unwrap() error { return e.Err }

// Hint says where the template's data are described.
func (e *TemplateError) Hint() string {
	return "it is a Go template with sprig's functions; its data are Flux's (.AutomationObject, .Changed, .Values) and .Image, .Commit, .Commits, .More, .Previous, .Ref, .Tag, .Digest, .Policy, .Target, .Subject, .Body"
}

// templateData is what a template sees: Flux's data by Flux's names, and ours.
// All text from source commits is defused before.
type templateData struct {
	AutomationObject types.NamespacedName
	Changed          Result
	Values           map[string]string

	Image    string         // its name in the config
	Commit   sourceCommit   // the source commit promoted
	Commits  []sourceCommit // those that come with it, newest first
	More     int            // how many of them are not listed
	Previous string         // the source commit promoted before, in full; empty: none
	Ref      string         // name:tag@digest; empty: nothing is promoted
	Tag      string
	Digest   string
	Policy   string // namespace:name
	Target   string // the target's name
	Subject  string // the default message's
	Body     string // the default message's
}

// sourceCommit is a source commit as templates see it. Printed as it is, it is
// the full hash.
type sourceCommit struct {
	Hash    string
	Short   string
	Subject string
	Author  string
	When    time.Time // the committer's
}

func (c sourceCommit) String() string { return c.Hash }

func newSourceCommit(c gitops.Commit) sourceCommit {
	return sourceCommit{
		Hash: c.Hash.String(), Short: gitops.Short(c.Hash),
		Subject: Defuse(c.Subject, maxSubject), Author: Defuse(c.Author.Name, maxAuthor), When: c.Committer.When.UTC(),
	}
}

func newTemplateData(d Data) templateData {
	_, tag, digest := d.Trailers.image()
	target, _, _ := strings.Cut(d.Trailers.Target, " ")
	data := templateData{
		AutomationObject: d.Automation,
		Changed:          newResult(d.Changes),
		Values:           d.Values,
		Image:            d.Trailers.Image,
		Commit:           newSourceCommit(d.Commit),
		More:             max(d.More, 0),
		Ref:              d.Trailers.Ref,
		Tag:              tag,
		Digest:           digest,
		Policy:           d.Trailers.Policy,
		Target:           target,
		Subject:          subject(d),
		Body:             strings.TrimRight(body(d), "\n"),
	}
	if !d.Base.IsZero() {
		data.Previous = d.Base.String()
	}
	for _, c := range d.Commits {
		data.Commits = append(data.Commits, newSourceCommit(c))
	}
	return data
}

// CheckTemplate says whether a messageTemplate can be used, by running it over
// a made-up bump. An empty one can.
func CheckTemplate(text string, values map[string]string) error {
	if text == "" {
		return nil
	}
	commit := gitops.Commit{Hash: gitops.Hash{0xab}, Subject: "a subject", Author: gitops.Person{Name: "A U Thor", Email: "author@example.com"}}
	said, err := render(Data{
		Trailers: Trailers{
			Image: "image", Policy: "flux-system:image", Target: "production main .",
			Source: "https://git.example.com/app.git refs/heads/main", Commit: commit.Hash.String(),
			Ref:        "registry.example.com/image:tag@sha256:" + strings.Repeat("0", 64),
			Provenance: "sha256:" + strings.Repeat("0", 64),
		},
		Commit: commit, Commits: []gitops.Commit{commit}, Base: gitops.Hash{0xcd},
		Changes: []Change{{File: "deployment.yaml", Object: ObjectIdentifier{APIVersion: "apps/v1", Kind: "Deployment", Name: "image"},
			Old: "registry.example.com/image:before", New: "registry.example.com/image:tag", Setter: "flux-system:image"}},
		Automation: types.NamespacedName{Namespace: "flux-system", Name: "production"},
		Template:   text, Values: values,
	})
	if err == nil && said == "" {
		err = &TemplateError{errors.New("it says nothing")}
	}
	return err
}

// render runs the user's template and returns its text, cleaned: no control
// characters but newline and tab, no blank line at either end.
func render(d Data) (string, error) {
	run := &run{until: time.Now().Add(maxTime)}
	tmpl, err := template.New("messageTemplate").Option("missingkey=zero").Funcs(run.functions()).Parse(d.Template)
	if err != nil {
		return "", &TemplateError{err}
	}
	tick := template.Must(template.New("").Funcs(run.functions()).Parse("{{" + tickName + "}}")).Root.Nodes[0]
	for _, t := range tmpl.Templates() {
		if t.Tree != nil {
			guardLoops(t.Root, tick)
			prepend(t.Root, tick)
		}
	}
	err = tmpl.Execute(run, newTemplateData(d))
	if run.overrun != nil {
		err = run.overrun // without the place, which is our own tick
	}
	if err != nil {
		return "", &TemplateError{err}
	}
	return clean(run.out.String()), nil
}

// clean takes out of a template's output what a commit message must not hold.
func clean(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\r\n", "\n")
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || !unicode.IsControl(r) {
			return r
		}
		return -1
	}, s)
	return strings.TrimSpace(s)
}

// run is one run of a template, and the end of its patience.
type run struct {
	out     strings.Builder
	steps   int
	until   time.Time
	overrun error
}

// Write takes the template's output.
func (r *run) Write(p []byte) (int, error) {
	if r.out.Len()+len(p) > maxOutput {
		r.overrun = fmt.Errorf("it says more than %d KiB", maxOutput>>10)
		return 0, r.overrun
	}
	return r.out.Write(p)
}

const tickName = "_tick"

// tick counts a step. text/template cannot be interrupted from outside, so
// every iteration and every template begins with a call of this.
func (r *run) tick() (string, error) {
	r.steps++
	if r.steps > maxSteps || time.Now().After(r.until) {
		r.overrun = fmt.Errorf("it runs for too long (more than %d steps, or %s)", maxSteps, maxTime)
		return "", r.overrun
	}
	return "", nil
}

// guardLoops puts tick at the head of each loop's body.
func guardLoops(list *parse.ListNode, tick parse.Node) {
	if list == nil {
		return
	}
	for _, node := range list.Nodes {
		switch n := node.(type) {
		case *parse.RangeNode:
			guardLoops(n.List, tick)
			guardLoops(n.ElseList, tick)
			prepend(n.List, tick)
		case *parse.IfNode:
			guardLoops(n.List, tick)
			guardLoops(n.ElseList, tick)
		case *parse.WithNode:
			guardLoops(n.List, tick)
			guardLoops(n.ElseList, tick)
		}
	}
}

func prepend(list *parse.ListNode, node parse.Node) {
	list.Nodes = append([]parse.Node{node}, list.Nodes...)
}

// functions are sprig's, without those that depend on the environment, the
// network, the clock or chance, that do cryptography, or that make much out of
// little.
func (r *run) functions() template.FuncMap {
	functions := sprig.HermeticTxtFuncMap() // as Flux: no environment, clock, network
	for _, name := range []string{
		"ago", "randInt", "shuffle", "toDate", "mustToDate", "mustDateModify", "must_date_modify", // clock, zone, chance
		"bcrypt", "htpasswd", "derivePassword", "encryptAES", "decryptAES", "genPrivateKey", "buildCustomCert", "genCA",
		"genCAWithKey", "genSelfSignedCert", "genSelfSignedCertWithKey", "genSignedCert", "genSignedCertWithKey",
	} {
		delete(functions, name)
	}
	functions["repeat"] = func(count int, s string) (string, error) {
		if count < 0 || count*max(len(s), 1) > maxOutput || count > maxOutput {
			return "", tooMuch("repeat")
		}
		return strings.Repeat(s, count), nil
	}
	functions["until"] = func(count int) ([]int, error) { return steps("until", 0, count, 1) }
	functions["untilStep"] = func(start, stop, step int) ([]int, error) { return steps("untilStep", start, stop, step) }
	seq := functions["seq"].(func(...int) string)
	functions["seq"] = func(params ...int) (string, error) {
		if slices.ContainsFunc(params, func(n int) bool { return n < -maxSteps || n > maxSteps }) {
			return "", tooMuch("seq")
		}
		return seq(params...), nil
	}
	for _, name := range []string{"indent", "nindent"} {
		sprigs := functions[name].(func(int, string) string)
		functions[name] = func(spaces int, s string) (string, error) {
			if spaces < 0 || spaces > 200 {
				return "", tooMuch(name)
			}
			return sprigs(spaces, s), nil
		}
	}
	for name, own := range map[string]any{
		"print": fmt.Sprint, "println": fmt.Sprintln, "printf": printf,
		"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
	} {
		functions[name] = own
	}
	for name, function := range functions {
		functions[name] = bounded(name, function)
	}
	functions[tickName] = r.tick
	return functions
}

func tooMuch(function string) error { return fmt.Errorf("%s: too much", function) }

// steps are the numbers from start towards stop, without it.
func steps(function string, start, stop, step int) ([]int, error) {
	var numbers []int
	if step == 0 {
		return numbers, nil
	}
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(numbers) >= maxSteps {
			return nil, tooMuch(function)
		}
		numbers = append(numbers, i)
	}
	return numbers, nil
}

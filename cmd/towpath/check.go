package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/automation"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/marker"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/gitops/trust"
	"towpath.dev/towpath/kaniko/executor"
	"towpath.dev/towpath/kaniko/seal"
)

// soon is how long before its end a key or certificate is warned of.
const soon = 30 * 24 * time.Hour

// finding is what check says of one thing that the config names.
type finding struct {
	Subject string `json:"subject"`
	Verdict string `json:"verdict"` // ok, warning or problem
	Text    string `json:"text,omitempty"`
	Hint    string `json:"hint,omitempty"`
}

// Verdicts of findings.
const (
	good    = "ok"
	warning = "warning"
	problem = "problem"
)

// checker gathers findings from checks that run side by side.
type checker struct {
	cfg *config.Config
	w   *wiring
	in  *cluster // nil: none

	findings []finding
}

func newCheck(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "check", Args: noArguments,
		Short: "Reach everything the config names, and try the rights it needs",
		Long: `Loads the config, then reaches every repository, registry and key that it
names, tries the rights that are needed, and foresees expiring keys and
certificates. Reports every problem, not only the first. Changes nothing.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, w, _, err := g.open("")
			if err != nil {
				return err
			}
			defer w.close()
			c := &checker{cfg: cfg, w: w, in: g.cluster(cfg)}
			c.run(cmd.Context())
			if err := g.print(c.findings, func(out io.Writer) { printFindings(out, c.findings) }); err != nil {
				return err
			}
			problems := 0
			for _, f := range c.findings {
				if f.Verdict == problem {
					problems++
				}
			}
			if problems > 0 {
				have := "have"
				if problems == 1 {
					have = "has"
				}
				return fmt.Errorf("check: %d of %d %s a problem", problems, len(c.findings), have)
			}
			return nil
		},
	}
}

// run runs every check; the findings come in the config's order.
func (c *checker) run(ctx context.Context) {
	checks := []func(context.Context) []finding{c.brakes, c.builder, c.provenance, c.certificates, c.turns, c.events}
	for i := range c.cfg.GitOps {
		checks = append(checks,
			func(ctx context.Context) []finding { return c.target(ctx, &c.cfg.GitOps[i]) },
			func(ctx context.Context) []finding { return c.watched(ctx, &c.cfg.GitOps[i]) })
	}
	for i := range c.cfg.Images {
		checks = append(checks, func(ctx context.Context) []finding { return c.image(ctx, &c.cfg.Images[i]) })
	}
	results := make([][]finding, len(checks))
	var all sync.WaitGroup
	for i, check := range checks {
		all.Go(func() { results[i] = check(ctx) })
	}
	all.Wait()
	c.findings = slices.Concat(results...)
}

// builder checks what builds need of this machine.
func (c *checker) builder(ctx context.Context) []finding {
	var found []finding
	for _, err := range slices.Concat(executor.CheckArguments(c.cfg.Builder.Kaniko.Args), c.w.builder.Check(ctx)) {
		found = append(found, findingOf("builder", err))
	}
	if digest, err := c.w.builder.ExecutorDigest(); err == nil && len(found) == 0 {
		found = append(found, finding{"builder", good, c.cfg.Builder.Type + ", executor " + digest, ""})
	}
	if jobs, ok := c.w.builder.(*inCluster); ok {
		found = append(found, c.jobSecrets(ctx, jobs))
	}
	return found
}

// jobSecrets checks that the Secrets that builds mount are in the builds'
// namespace, as far as that is to be seen.
func (c *checker) jobSecrets(ctx context.Context, jobs *inCluster) finding {
	subject := "secrets of builds"
	var names []string
	for i := range c.cfg.Images {
		with := c.w.images(c.cfg, &c.cfg.Images[i]).with
		names = append(names, with.git, with.pull, with.push)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
	namespace := c.cfg.Builder.Kubernetes.Namespace
	if len(names) == 0 {
		return finding{subject, good, "builds need none", ""}
	}
	missing, visible, err := jobs.MissingSecrets(ctx, names)
	switch {
	case err != nil:
		return findingOf(subject, err)
	case !visible:
		return finding{subject, good, fmt.Sprintf("builds need %s in namespace %s, where Towpath may not look, as it should be", strings.Join(names, ", "), namespace), ""}
	case len(missing) > 0:
		return finding{subject, problem, fmt.Sprintf("namespace %s has no Secret %s", namespace, strings.Join(missing, ", ")), "make them there, with the keys that they have in Towpath's own namespace"}
	}
	return finding{subject, good, fmt.Sprintf("%s are in namespace %s", strings.Join(names, ", "), namespace), ""}
}

// provenance checks the key that signs images.
func (c *checker) provenance(context.Context) []finding {
	name := c.cfg.Signing.Provenance.SecretRef.Name
	subject := "provenance key " + name
	keys, err := c.secrets().Read(name)
	if err != nil {
		return []finding{findingOf(subject, err)}
	}
	key, err := seal.LoadKey(keys)
	if err != nil {
		return []finding{findingOf(subject, err)}
	}
	return []finding{{subject, good, key.Fingerprint(), ""}}
}

// target checks a GitOps repository: that it answers, has its branch and
// markers, and takes what Towpath pushes; and the key that signs there.
func (c *checker) target(ctx context.Context, target *config.Target) []finding {
	subject := "target " + target.Name
	found := []finding{c.signer(target)}
	open, err := c.w.openFleet(c.cfg, target)
	if err != nil {
		return append(found, findingOf(subject, err))
	}
	if found[0].Verdict == problem {
		// Whatever else is asked of a target begins with our keys.
		if _, err := open.Remote.Refs(ctx, "refs/heads/"+open.Branch); err != nil {
			return append(found, findingOf(subject, err))
		}
		return append(found, finding{subject, warning, "it answers; what else it needs is not looked at without the signing key", ""})
	}
	rights, err := open.Check(ctx)
	if err != nil {
		return append(found, findingOf(subject, err))
	}
	if rights.Branch != nil {
		found = append(found, findingOf(subject+": push bumps", rights.Branch))
	}
	if rights.Ledger != nil {
		ledger := findingOf(subject+": push refs/towpath", rights.Ledger)
		ledger.Verdict, ledger.Hint = warning, fleet.LedgerLost
		found = append(found, ledger)
	}
	if rights.Signing != nil {
		found = append(found, findingOf(subject+": sign", rights.Signing))
	}
	if !rights.Atomic {
		found = append(found, finding{subject, warning, "the server knows no atomic pushes: branch and ledger move one after the other, and the next start mends what a crash leaves between", ""})
	}
	if len(found) == 1 {
		found = append(found, finding{subject, good, open.Target() + " takes bumps and their ledger", ""})
	}
	return slices.Concat(found, c.markers(ctx, target, open), c.automation(ctx, target, open))
}

// automation refuses a second writer: Flux's own automation, which would put back
// what it thinks newest behind every bump.
func (c *checker) automation(ctx context.Context, target *config.Target, open *fleet.Fleet) []finding {
	var objects automation.Objects
	if err := open.Manifests(ctx, objects.Add); err != nil {
		return []finding{findingOf("target "+target.Name+": Flux's automation", err)}
	}
	var found []finding
	for i := range c.cfg.Images {
		image := &c.cfg.Images[i]
		policy, err := marker.ParsePolicy(image.Policy)
		if err != nil || !slices.Contains(image.GitOps, target.Name) {
			continue // said elsewhere
		}
		told := map[string]bool{}
		subject, remedy := image.Name+" in "+target.Name, "delete "+join(objects.Of(policy))
		tell := func(writers []automation.Update, verdict, text, hint string) {
			for _, writer := range writers {
				if !told[writer.String()] {
					told[writer.String()] = true
					found = append(found, finding{subject, verdict, fmt.Sprintf("%s (%s) %s", writer, writer.File, text), hint})
				}
			}
		}
		for _, file := range objects.Markers[policy] {
			tell(objects.Writers(policy, file, target.URL), problem, "writes the same markers, as in "+file,
				"two writers undo each other: "+remedy+"; or suspend the automation")
			tell(objects.Resting(policy, file, target.URL), warning, "is suspended: once it is resumed it writes the same markers, as in "+file, remedy)
		}
	}
	return found
}

// join lists objects and the files that they are in.
func join(objects []automation.Object) string {
	var all []string
	for _, o := range objects {
		all = append(all, fmt.Sprintf("%s (%s)", o, o.File))
	}
	return strings.Join(all, ", ")
}

// markers checks that a target has a marker for every image that goes there,
// in files that can be edited.
func (c *checker) markers(ctx context.Context, target *config.Target, open *fleet.Fleet) []finding {
	var found []finding
	for i := range c.cfg.Images {
		image := &c.cfg.Images[i]
		if !slices.Contains(image.GitOps, target.Name) {
			continue
		}
		subject := image.Name + " in " + target.Name
		policy, err := marker.ParsePolicy(image.Policy)
		if err != nil {
			found = append(found, findingOf(subject, err))
			continue
		}
		state, err := open.Promoted(ctx, fleet.Image{Name: image.Name, Policy: policy, Pin: image.Pin == config.PinDigest})
		if err == nil && state.Standing == fleet.NoMarker {
			err = &fleet.NoMarkerError{Policy: policy.String(), Path: "./" + strings.TrimPrefix(target.Path(), "."), Branch: target.Branch()}
		}
		if err != nil {
			found = append(found, findingOf(subject, err))
		} else {
			found = append(found, standstill(subject, target, image, state)...)
		}
		for _, p := range state.Problems {
			if !p.Ours {
				continue // plan and run tell of it once, and it stops nothing
			}
			place := p.File
			if p.Line > 0 {
				place = fmt.Sprintf("%s:%d", p.File, p.Line)
			}
			found = append(found, finding{subject, problem, place + ": " + p.Text, ""})
		}
	}
	return found
}

func (c *checker) signer(target *config.Target) finding {
	key := target.Git.Commit.SigningKey
	subject := "signing key " + key.SecretRef.Name
	keys, err := c.secrets().Read(key.SecretRef.Name)
	if err != nil {
		return findingOf(subject, err)
	}
	signer, err := trust.LoadSigner(string(key.Type), keys)
	if err != nil {
		found := findingOf(subject, err)
		found.Text = strings.TrimPrefix(found.Text, "signing key: ")
		return found
	}
	if end, expires := signer.Expires(); expires && time.Until(end) < soon {
		return finding{subject, warning, fmt.Sprintf("%s expires on %s", signer.Fingerprint(), end.Format(time.DateOnly)), "make the next key, and keep the public half of this one beside it as former.asc"}
	}
	return finding{subject, good, signer.Fingerprint(), ""}
}

// image checks an image's source and destination.
func (c *checker) image(ctx context.Context, image *config.Image) []finding {
	return []finding{c.source(ctx, image), c.destination(ctx, image)}
}

func (c *checker) source(ctx context.Context, image *config.Image) finding {
	subject := "source of " + image.Name
	remote, err := c.w.openRemote(c.cfg, image.Source.URL, c.cfg.GitSecret(image.Source.URL, image.Source.SecretRef.Name))
	if err != nil {
		return findingOf(subject, err)
	}
	ref := "refs/heads/" + image.Source.Branch
	refs, err := remote.Refs(ctx, ref)
	if err != nil {
		return findingOf(subject, err)
	}
	head, ok := refs[ref]
	if !ok {
		return findingOf(subject, source.NoBranch(ctx, remote, image.Source.Branch))
	}
	return finding{subject, good, fmt.Sprintf("%s is at %s", image.Source.Branch, gitops.Short(head)), ""}
}

func (c *checker) destination(ctx context.Context, image *config.Image) finding {
	subject := "destination of " + image.Name
	client, err := c.w.images(c.cfg, image).registry(image.Destination.Repository)
	if err != nil {
		return findingOf(subject, err)
	}
	defer client.Close()
	if err := client.Check(ctx); err != nil {
		return findingOf(subject, err)
	}
	return finding{subject, good, client.Repository() + " takes uploads", ""}
}

// certificates foresees the end of every certificate in the secrets named.
func (c *checker) certificates(context.Context) []finding {
	var found []finding
	for _, name := range c.named() {
		keys, err := c.secrets().Read(name)
		if err != nil {
			found = append(found, findingOf("secret "+name, err))
			continue
		}
		for _, key := range []string{"ca.crt", "caFile", "tls.crt"} {
			if end, ok := firstEnd(keys[key]); ok && time.Until(end) < soon {
				verdict, text := warning, "expires on "
				if time.Now().After(end) {
					verdict, text = problem, "expired on "
				}
				found = append(found, finding{"secret " + name, verdict, key + " " + text + end.Format(time.DateOnly), "renew the certificate"})
			}
		}
	}
	return found
}

// named lists the secrets that repositories and registries use.
func (c *checker) named() []string {
	var names []string
	for i := range c.cfg.GitOps {
		names = append(names, c.cfg.GitSecret(c.cfg.GitOps[i].URL, c.cfg.GitOps[i].SecretRef.Name))
	}
	for i := range c.cfg.Images {
		image := &c.cfg.Images[i]
		names = append(names,
			c.cfg.GitSecret(image.Source.URL, image.Source.SecretRef.Name),
			c.cfg.RegistrySecret(image.Destination.Repository, image.Destination.SecretRef.Name),
			image.Build.Pull.SecretRef.Name)
	}
	slices.Sort(names)
	return slices.DeleteFunc(slices.Compact(names), func(name string) bool { return name == "" })
}

func (c *checker) secrets() config.Secrets { return config.Secrets{Dir: c.cfg.Secrets} }

// firstEnd is when the first of the certificates in a PEM text ends.
func firstEnd(content []byte) (end time.Time, ok bool) {
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err == nil && (!ok || certificate.NotAfter.Before(end)) {
			end, ok = certificate.NotAfter, true
		}
	}
	return end, ok
}

func findingOf(subject string, err error) finding {
	f := finding{Subject: subject, Verdict: problem, Text: strings.TrimPrefix(err.Error(), subject+": ")}
	var own interface{ Hint() string }
	if errors.As(err, &own) {
		f.Hint = own.Hint()
	}
	return f
}

func printFindings(out io.Writer, findings []finding) {
	for _, f := range findings {
		fmt.Fprintf(out, "%-8s %s: %s\n", f.Verdict, f.Subject, gitops.Line(f.Text, 1000))
		if f.Hint != "" {
			fmt.Fprintf(out, "%-8s %s\n", "", strings.TrimSpace(gitops.Line(f.Hint, 1000)))
		}
	}
}

package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/source"
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
certificates; says what is suspended, held or taken over, so that nothing would
be promoted. Reports every problem, not only the first. Changes nothing.`,
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
	names := buildSecrets(c.cfg)
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

// image checks an image's source and destination.
func (c *checker) image(ctx context.Context, image *config.Image) []finding {
	return []finding{c.source(ctx, image), c.destination(ctx, image)}
}

func (c *checker) source(ctx context.Context, image *config.Image) finding {
	subject := "source of " + image.Name
	remote, err := c.w.openRemote(c.cfg, image.Source.URL, sourceSecret(c.cfg, image))
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
	for _, name := range connectionSecrets(c.cfg) {
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
	return finding{Subject: subject, Verdict: problem, Text: strings.TrimPrefix(err.Error(), subject+": "), Hint: hintOf(err)}
}

func printFindings(out io.Writer, findings []finding) {
	for _, f := range findings {
		fmt.Fprintf(out, "%-8s %s: %s\n", f.Verdict, f.Subject, gitops.Line(f.Text, 1000))
		if f.Hint != "" {
			fmt.Fprintf(out, "%-8s %s\n", "", strings.TrimSpace(gitops.Line(f.Hint, 1000)))
		}
	}
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"

	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/gitops/flux"
	"towpath.dev/towpath/reconcile/election"
	"towpath.dev/towpath/reconcile/events"
)

// The checks in this file are of things that Towpath can do without. What is wrong with
// them is a warning, unless the config insists.

// watched checks the object of Flux that watches a target.
func (c *checker) watched(ctx context.Context, target *config.Target) []finding {
	repository, ok := gitRepository(c.cfg.GitOps, target.Name)
	if !ok {
		return nil
	}
	subject := "flux of " + target.Name
	if c.in == nil {
		return []finding{{subject, warning, "there is no cluster here: Flux finds bumps at its next interval", "run check in Towpath's pod"}}
	}
	client, err := flux.New(c.in.config)
	if err != nil {
		return []finding{lesser(subject, err)}
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var found []finding
	if err := client.TryNudge(limited, repository); err != nil {
		found = append(found, lesser(subject, fmt.Errorf("ask Flux to pull at once: %w", err)))
	}
	applied, err := client.Applied(limited, repository)
	switch {
	case err != nil:
		return append(found, lesser(subject, fmt.Errorf("what Flux has applied cannot be read: %w", err)))
	case applied.Unknown != nil:
		found = append(found, lesser(subject, fmt.Errorf("what Flux has applied cannot be read: %w", applied.Unknown)))
	case len(applied.Kustomizations) == 0:
		found = append(found, finding{subject, warning, fmt.Sprintf("no Kustomization in namespace %s applies GitRepository %s", repository.Namespace, repository), "status tells what is live from those beside the GitRepository alone"})
	}
	if watches := place(applied.URL); watches != place(target.URL) {
		found = append(found, finding{subject, warning, fmt.Sprintf("GitRepository %s watches %s, and bumps go to %s", repository, watches, place(target.URL)), "name the GitRepository of this target in gitops[].flux.gitRepository"})
	}
	if applied.Branch != "" && applied.Branch != target.Branch() {
		found = append(found, finding{subject, warning, fmt.Sprintf("GitRepository %s watches branch %s, and this target is branch %s", repository, applied.Branch, target.Branch()), "name the GitRepository of this target in gitops[].flux.gitRepository"})
	}
	found = append(found, stalled(subject, target, repository, applied)...)
	if len(found) == 0 {
		found = []finding{{subject, good, fmt.Sprintf("GitRepository %s may be asked to pull, and what is applied is read", repository), ""}}
	}
	return found
}

// events checks whether somebody listens where events go. None is sent.
func (c *checker) events(ctx context.Context) []finding {
	address := c.cfg.Events.Address
	if address == "" && c.in != nil && c.in.pod {
		address = events.Address
	}
	told := false
	for i := range c.cfg.GitOps {
		told = told || c.cfg.GitOps[i].Flux != nil
	}
	if address == "" || !told {
		return nil
	}
	const subject = "events"
	parsed, err := url.Parse(address)
	if err != nil {
		return []finding{lesser(subject, err)}
	}
	port := parsed.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[parsed.Scheme]
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	connection, err := (&net.Dialer{}).DialContext(limited, "tcp", net.JoinHostPort(parsed.Hostname(), port))
	if err != nil {
		return []finding{lesser(subject, hinted{fmt.Errorf("notification-controller is not reached: %w", err), "name its address in events.address, and let a network policy of its namespace admit Towpath, as in deploy/flux"})}
	}
	connection.Close()
	return []finding{{subject, good, "notification-controller is reached", ""}}
}

// turns checks the right to the Lease by which copies take turns.
func (c *checker) turns(ctx context.Context) []finding {
	wanted := c.cfg.LeaderElection.Enabled
	if c.in == nil || wanted != nil && !*wanted || wanted == nil && !c.in.pod {
		return nil
	}
	const subject = "leader election"
	lease := types.NamespacedName{Namespace: c.in.namespace, Name: leaseName}
	offer, err := election.New(c.in.config, election.Options{Lease: lease, Identity: "check", Log: slog.New(slog.DiscardHandler)})
	if err == nil {
		limited, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err = offer.Check(limited)
	}
	switch {
	case err == nil:
		return []finding{{subject, good, "Lease " + lease.String() + " may be held", ""}}
	case wanted != nil:
		return []finding{findingOf(subject, err)} // it would wait for ever
	default:
		return []finding{lesser(subject, err)}
	}
}

// lesser is a warning: what is wrong is something that Towpath can do without.
func lesser(subject string, err error) finding {
	f := findingOf(subject, err)
	f.Verdict = warning
	return f
}

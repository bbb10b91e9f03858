package main

import (
	"context"
	"fmt"
	"io"
	"regexp"
	"time"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/fleet"
	"towpath.dev/towpath/gitops/source"
	"towpath.dev/towpath/reconcile"
)

// promotion is one that the ledger, or the history behind it, still tells of.
type promotion struct {
	Source   string    `json:"source"`
	Bump     string    `json:"bump"`
	Ref      string    `json:"ref,omitempty"`
	Accepted string    `json:"accepted,omitempty"`
	When     time.Time `json:"when"`
}

// sourceCommit is a commit of the source branch, as people are told of it.
type sourceCommit struct {
	Hash    string `json:"hash"`
	Subject string `json:"subject"`
	Author  string `json:"author"`
}

// hexadecimal is what commits, digests and bumps look like, whole or cut.
var hexadecimal = regexp.MustCompile(`^(sha256:)?[0-9a-f]{7,64}$`)

// pastOf looks further than the newest promotion: among older ones, and in the
// source branch. seen is nil where neither knows what was asked about.
func pastOf(ctx context.Context, d *reconcile.Delivery, what string) (promotions []promotion, seen *sourceCommit, err error) {
	if !hexadecimal.MatchString(what) {
		return nil, nil, nil
	}
	if target, ok := d.Fleet.(*fleet.Fleet); ok {
		entries, err := target.Lookup(ctx, what, 20)
		if err != nil {
			return nil, nil, fmt.Errorf("target %s: %w", d.Target, err)
		}
		for _, entry := range entries {
			if entry.Image == d.Image.Name {
				promotions = append(promotions, promotion{hashText(entry.Source), hashText(entry.Bump), entry.Ref, entry.Accepted, entry.When})
			}
		}
	}
	if repository, ok := d.Source.(*source.Repository); ok && len(what) <= 40 {
		if commit, err := repository.Lookup(ctx, d.Query.Branch, what); err == nil {
			seen = &sourceCommit{commit.Hash.String(), commit.Subject, commit.Author.Name} // a hash that means nothing in the source is no failure: it may be a bump's
		}
	}
	return promotions, seen, nil
}

func hashText(h gitops.Hash) string {
	if h.IsZero() {
		return ""
	}
	return h.String()
}

// printPast prints what pastOf found.
func printPast(out io.Writer, promotions []promotion, seen *sourceCommit) {
	if seen != nil {
		fmt.Fprintf(out, "  commit   %s %s, by %s\n", short(seen.Hash), seen.Subject, seen.Author)
		if len(promotions) == 0 {
			fmt.Fprintln(out, "           never promoted itself: only the newest commit of a round is built")
		}
	}
	for _, p := range promotions {
		fmt.Fprintf(out, "  promoted %s as %s, bump %s  %s\n", short(p.Source), p.Ref, short(p.Bump), p.When.UTC().Format("2006-01-02 15:04:05Z"))
		if p.Accepted != "" {
			fmt.Fprintf(out, "           accepted: %s\n", gitops.Line(p.Accepted, 300))
		}
	}
}

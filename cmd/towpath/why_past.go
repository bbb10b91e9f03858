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

// promotion is a bump that the ledger, or the history behind it, still tells of.
type promotion struct {
	Source   string    `json:"source"`
	Bump     string    `json:"bump"`
	Ref      string    `json:"ref,omitempty"`
	Accepted string    `json:"accepted,omitempty"`
	Fate     string    `json:"fate"` // of the newest one, as in status; older ones reached the branch: promoted
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

// pastOf looks further than the newest bump: among older ones, and in the source
// branch. seen is nil where neither knows what was asked about.
func pastOf(ctx context.Context, d *reconcile.Delivery, now fleet.State, what string) (promotions []promotion, seen *sourceCommit, err error) {
	if !hexadecimal.MatchString(what) {
		return nil, nil, nil
	}
	if target, ok := d.Fleet.(*fleet.Fleet); ok {
		entries, err := target.Lookup(ctx, what, 20)
		if err != nil {
			return nil, nil, fmt.Errorf("target %s: %w", d.Target, err)
		}
		for _, entry := range entries {
			if entry.Image != d.Image.Name {
				continue
			}
			fate := "promoted"
			if now.Entry != nil && now.Entry.Bump == entry.Bump {
				fate = reconcile.Fate(now)
			}
			promotions = append(promotions, promotion{hashText(entry.Source), hashText(entry.Bump), entry.Ref, entry.Accepted, fate, entry.When})
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
		verb, since := pastTense(p.Fate)
		as := ""
		if p.Ref != "" {
			as = " as " + p.Ref
		}
		fmt.Fprintf(out, "  %-8s %s%s, bump %s  %s\n", verb, short(p.Source), as, short(p.Bump), p.When.UTC().Format("2006-01-02 15:04:05Z"))
		if since != "" {
			fmt.Fprintf(out, "           %s\n", since)
		}
		if p.Accepted != "" {
			fmt.Fprintf(out, "           accepted: %s\n", gitops.Line(p.Accepted, 300))
		}
	}
}

// pastTense says what was done by a bump, and what became of that since.
func pastTense(fate string) (verb, since string) {
	switch fate {
	case "proposed":
		return fate, "for review; not promoted yet"
	case "rejected":
		return "proposed", "for review, and rejected by a person: never promoted"
	case "unmerged":
		return "proposed", "not merged by a person, or reset away"
	case "undone":
		return "promoted", "undone by a person since"
	case "overwritten":
		return "promoted", "somebody else has written over it since"
	case "observed":
		return fate, "the source is observed from here on; nothing was promoted"
	default:
		return "promoted", ""
	}
}

package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"towpath.dev/towpath/gitops"
)

// PushRequest asks the server to change refs.
type PushRequest struct {
	Updates []Update

	// Pack holds the objects that the new values need and the server lacks;
	// nil: there are none.
	Pack io.Reader

	// Atomic: all updates or none. With one update it is so by nature.
	Atomic bool

	// Options go to the server's hooks (git-push(1), --push-option).
	Options []string

	// Progress takes what the server and its hooks tell meanwhile, a clean line
	// each; nil: the server is asked to be quiet.
	Progress func(string)
}

// Update changes one ref, if the server still has the old value.
type Update struct {
	Ref string      // its full name
	Old gitops.Hash // what was read; zero: the ref does not exist
	New gitops.Hash // zero: delete it
}

// Push sends the updates in one request and returns nil only when the server
// reported "ok" for every ref. Whether an update is a fast-forward is the
// caller's to know: the server compares the old value and no more.
//
// Errors: *RejectedError where the server said no; ErrAtomicUnsupported and
// ErrPushOptionsUnsupported before anything is sent; ErrOutcomeUnknown once
// bytes went out and no whole report came back.
func (r *Remote) Push(ctx context.Context, p PushRequest) error {
	if err := r.push(ctx, p); err != nil {
		r.forget()
		return r.fault("push to", err)
	}
	return nil
}

func (r *Remote) push(ctx context.Context, p PushRequest) error {
	if err := p.check(); err != nil {
		return err
	}
	talk, err := r.link.begin(ctx, receivePack, false)
	if err != nil {
		return err
	}
	defer talk.close()
	o, err := r.offered(talk, &r.pushing, nil)
	if err != nil {
		return err
	}
	head, err := p.commands(o)
	if err != nil {
		return err
	}
	pack := p.Pack
	if pack == nil && !p.deletesOnly() {
		pack = strings.NewReader(emptyPack) // the server waits for one
	}
	reply, err := talk.exchange(head, pack)
	if err != nil {
		return unknownUnless(err)
	}
	told := &lines{each: p.Progress, scrub: r.link.scrub}
	rejected, err := p.report(reply, o.has("side-band-64k"), told)
	if err != nil {
		if text := told.text(); text != "" {
			err = fmt.Errorf("%s: %w", text, err)
		}
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	// The report was whole; that the connection can serve again is not its
	// concern.
	_ = talk.finish()
	if len(rejected) > 0 {
		for ref, reason := range rejected {
			rejected[ref] = r.link.scrub(gitops.Line(reason, 200))
		}
		return &RejectedError{Refs: rejected, Messages: told.text()}
	}
	return nil
}

// unknownUnless sorts out what is known about a push that brought no report:
// nothing was sent, or the server refused the request before it looked into it.
func unknownUnless(err error) error {
	var nothing *unsent
	if errors.As(err, &nothing) {
		return nothing.error
	}
	var status *statusError
	if errors.As(err, &status) && status.refusedBeforeUse() {
		return err
	}
	return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
}

// emptyPack is a pack of no objects (gitformat-pack(5)).
const emptyPack = "PACK\x00\x00\x00\x02\x00\x00\x00\x00" +
	"\x02\x9d\x08\x82\x3b\xd8\xa8\xea\xb5\x10\xad\x6a\xc7\x5c\x82\x3c\xfd\x3e\xd3\x1e"

func (p PushRequest) check() error {
	if len(p.Updates) == 0 {
		return errors.New("a push needs a ref to update")
	}
	seen := make(map[string]bool, len(p.Updates))
	for _, u := range p.Updates {
		if err := CheckRef(u.Ref); err != nil {
			return err
		}
		if seen[u.Ref] {
			return fmt.Errorf("ref %q comes twice", u.Ref)
		}
		seen[u.Ref] = true
		if u.Old.IsZero() && u.New.IsZero() {
			return fmt.Errorf("ref %q has neither an old nor a new value", u.Ref)
		}
	}
	for _, option := range p.Options {
		if strings.ContainsAny(option, "\n\x00") || len(option) > maxPacket-8 {
			return errors.New("a push option is too long or holds a newline or NUL")
		}
	}
	return nil
}

func (p PushRequest) deletesOnly() bool {
	for _, u := range p.Updates {
		if !u.New.IsZero() {
			return false
		}
	}
	return true
}

// commands is the request up to the pack (protocol-pack(5), reference update
// request).
func (p PushRequest) commands(o *offer) ([]byte, error) {
	atomic := p.Atomic && len(p.Updates) > 1
	switch {
	case !o.has("report-status"):
		return nil, errors.New("the server reports no result of a push")
	case atomic && !o.has("atomic"):
		return nil, ErrAtomicUnsupported
	case len(p.Options) > 0 && !o.has("push-options"):
		return nil, hint(ErrPushOptionsUnsupported, "the server needs receive.advertisePushOptions; or drop push.options")
	}
	capabilities := []string{"report-status"}
	want := func(capability string, needed bool) {
		name, _, _ := strings.Cut(capability, "=")
		if needed && o.has(name) {
			capabilities = append(capabilities, capability)
		}
	}
	want("side-band-64k", true)
	want("atomic", atomic)
	want("push-options", len(p.Options) > 0)
	want("quiet", p.Progress == nil)
	want("object-format=sha1", true)
	want(agent, true)

	q := &request{}
	for i, u := range p.Updates {
		if u.New.IsZero() && !o.has("delete-refs") {
			return nil, errors.New("the server does not let refs be deleted")
		}
		if i == 0 {
			q.linef("%s %s %s\x00 %s\n", u.Old, u.New, u.Ref, strings.Join(capabilities, " "))
		} else {
			q.linef("%s %s %s\n", u.Old, u.New, u.Ref)
		}
	}
	q.flush()
	if len(p.Options) > 0 {
		for _, option := range p.Options {
			q.linef("%s", option)
		}
		q.flush()
	}
	return q.Bytes(), nil
}

// report reads the server's report to its end: "unpack ok", then a line for
// every ref of the push and for no other. It returns the refs that were
// rejected with the reasons. An error means that the outcome is unknown.
func (p PushRequest) report(r reader, banded bool, told *lines) (rejected map[string]string, err error) {
	outer := newPackets(r, maxReport)
	inner := outer
	if banded {
		band := newSideband(outer, maxReport, errTooLong, told)
		inner = newPackets(band, maxReport)
		defer func() {
			if err == nil {
				// The report stands. What may follow is the output of
				// post-receive hooks, which would die of a closed connection:
				// wait for them, as git does, and ask no more of the end.
				_, _ = io.Copy(io.Discard, band)
			}
		}()
	}
	k, text, err := inner.line()
	if err != nil {
		return nil, err
	}
	unpack, ok := strings.CutPrefix(text, "unpack ")
	if k != data || !ok {
		return nil, garbage("a report without its first line: %q", gitops.Line(text, 60))
	}
	pending := make(map[string]bool, len(p.Updates))
	for _, u := range p.Updates {
		pending[u.Ref] = true
	}
	rejected = make(map[string]string)
	for {
		k, text, err := inner.line()
		if err != nil {
			return nil, err
		}
		if k == flush {
			break
		}
		verdict, rest, _ := strings.Cut(text, " ")
		ref, reason, _ := strings.Cut(rest, " ")
		switch {
		case k != data || verdict != "ok" && verdict != "ng":
			return nil, garbage("no verdict in the report: %q", gitops.Line(text, 60))
		case !pending[ref]:
			return nil, garbage("a verdict on a ref that was not pushed, or a second one: %q", gitops.Line(ref, 60))
		case verdict == "ng":
			rejected[ref] = reason
		case unpack != "ok":
			return nil, garbage("the pack was not taken and yet %q is ok", gitops.Line(ref, 60))
		}
		delete(pending, ref)
	}
	for ref := range pending {
		return nil, garbage("no verdict on %q", ref)
	}
	if unpack != "ok" {
		for ref, reason := range rejected {
			rejected[ref] = reason + " (unpack: " + unpack + ")"
		}
	}
	return rejected, nil
}

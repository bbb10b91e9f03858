package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"towpath.dev/towpath/gitops"
)

// FetchRequest asks for commits and for everything that they need and this side
// lacks.
type FetchRequest struct {
	Wants    []gitops.Hash // at least one
	Haves    []gitops.Hash // commits that are here, with all that they need but for the Shallows
	Shallows []gitops.Hash // commits that are here while their parents are not
	Depth    int           // commits of history from each want; 0: all, up to what is here

	// Progress takes what the server tells meanwhile, a clean line each; nil:
	// it is asked to be quiet.
	Progress func(string)
}

// Pack is a packfile on its way (gitformat-pack(5)): self-contained, since no
// thin pack is asked for. Read it to io.EOF, then Close it; any other end means
// that the pack is not whole. Nothing of it was checked.
type Pack struct {
	io.ReadCloser
	Shallow   []gitops.Hash // commits that have become shallow by this fetch
	Unshallow []gitops.Hash // commits that are so no more
}

// Fetch asks for commits by hash and gives the pack that holds them. A server
// of version 0 gives only tips of its refs, unless it says otherwise; else
// ErrNotAdvertised. The context must live until the pack was read.
func (r *Remote) Fetch(ctx context.Context, f FetchRequest) (*Pack, error) {
	pack, err := r.fetch(ctx, f)
	if err != nil {
		r.forget()
		return nil, r.fault("fetch from", err)
	}
	return pack, nil
}

func (r *Remote) fetch(ctx context.Context, f FetchRequest) (_ *Pack, err error) {
	if len(f.Wants) == 0 || f.Depth < 0 || slices.Contains(f.Wants, gitops.Hash{}) {
		return nil, errors.New("a fetch needs commits to fetch and a depth that is not negative")
	}
	talk, err := r.link.begin(ctx, uploadPack, true)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			talk.close()
		}
	}()
	missing := make(map[gitops.Hash]bool, len(f.Wants))
	for _, want := range f.Wants {
		missing[want] = true
	}
	o, err := r.offered(talk, &r.fetching, func(_ string, h gitops.Hash) error {
		delete(missing, h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	var body []byte
	if o.version == 2 {
		body, err = fetchRequest(o, f)
	} else {
		body, err = oldFetchRequest(o, f, missing)
	}
	if err != nil {
		return nil, err
	}
	reply, err := talk.exchange(body, nil)
	if err != nil {
		return nil, err
	}
	p := newPackets(reply, maxReply)
	pack := &Pack{}
	if o.version == 2 {
		err = pack.parseSections(p)
	} else {
		err = pack.parseOld(p, f.Depth > 0)
	}
	if err != nil {
		return nil, err
	}
	tooLong := hint(fmt.Errorf("%w: over %d bytes", ErrTooLarge, r.maxPack), "is it the right repository? the bound guards memory and disk")
	pack.ReadCloser = &packReader{
		remote: r,
		talk:   talk,
		band:   newSideband(p, r.maxPack, tooLong, &lines{each: f.Progress, scrub: r.link.scrub}),
	}
	return pack, nil
}

// fetchRequest asks in one round (protocol-v2(5), fetch): with "done" the server
// sends no acknowledgements, and takes of the haves those that it knows.
func fetchRequest(o *offer, f FetchRequest) ([]byte, error) {
	if (f.Depth > 0 || len(f.Shallows) > 0) && !o.feature("fetch", "shallow") {
		return nil, errors.New("the server knows no shallow history")
	}
	q := o.command("fetch")
	q.linef("ofs-delta\n")
	if f.Progress == nil {
		q.linef("no-progress\n")
	}
	for _, h := range f.Shallows {
		q.linef("shallow %s\n", h)
	}
	if f.Depth > 0 {
		q.linef("deepen %d\n", f.Depth)
	}
	for _, h := range f.Wants {
		q.linef("want %s\n", h)
	}
	for _, h := range f.Haves {
		q.linef("have %s\n", h)
	}
	q.linef("done\n")
	q.flush()
	return q.Bytes(), nil
}

// parseSections reads the reply up to the packfile's first byte.
func (pack *Pack) parseSections(p *packets) error {
	for {
		k, text, err := p.line()
		if err != nil {
			return err
		}
		if k != data {
			return garbage("no section where one begins")
		}
		switch text {
		case "packfile":
			return nil
		case "shallow-info":
			err = pack.parseShallow(p, delimiter)
		case "acknowledgments":
			// Not asked for, and harmless: the pack follows "ready".
			err = skipSection(p)
		default:
			err = garbage("an unknown section: %q", gitops.Line(text, 60))
		}
		if err != nil {
			return err
		}
	}
}

func skipSection(p *packets) error {
	for {
		switch k, _, err := p.line(); {
		case err != nil:
			return err
		case k == delimiter:
			return nil
		case k != data:
			return garbage("no pack after the acknowledgements")
		}
	}
}

// parseShallow reads shallow and unshallow lines up to the given end.
func (pack *Pack) parseShallow(p *packets, end kind) error {
	for {
		k, text, err := p.line()
		if err != nil {
			return err
		}
		if k == end {
			return nil
		}
		what, id, _ := strings.Cut(text, " ")
		if k != data || what != "shallow" && what != "unshallow" {
			return garbage("neither shallow nor unshallow: %q", gitops.Line(text, 60))
		}
		h, err := parseHash(id)
		if err != nil {
			return err
		}
		if what == "shallow" {
			pack.Shallow = append(pack.Shallow, h)
		} else {
			pack.Unshallow = append(pack.Unshallow, h)
		}
	}
}

// oldFetchRequest asks in version 0, in one round too, over HTTP as over SSH:
// "done" follows the haves at once, so the server says what it has to say of
// them and sends the pack (protocol-pack(5)). missing are the wants that no ref
// names.
func oldFetchRequest(o *offer, f FetchRequest, missing map[gitops.Hash]bool) ([]byte, error) {
	anything := o.has("allow-reachable-sha1-in-want") || o.has("allow-any-sha1-in-want") || o.has("allow-tip-sha1-in-want")
	if len(missing) > 0 && !anything {
		for h := range missing {
			return nil, hint(fmt.Errorf("%w: %s is no tip of its refs, and protocol version 2 is not to be had", ErrNotAdvertised, h),
				"let the server speak version 2; over SSH, sshd_config needs AcceptEnv GIT_PROTOCOL")
		}
	}
	if !o.has("side-band-64k") {
		return nil, errors.New("the server knows no side-band-64k, which every git has had since 2006")
	}
	if (f.Depth > 0 || len(f.Shallows) > 0) && !o.has("shallow") {
		return nil, errors.New("the server knows no shallow history")
	}
	capabilities := []string{"side-band-64k"}
	switch { // Azure DevOps insists on one of them
	case o.has("multi_ack_detailed"):
		capabilities = append(capabilities, "multi_ack_detailed")
	case o.has("multi_ack"):
		capabilities = append(capabilities, "multi_ack")
	}
	for _, optional := range []string{"ofs-delta", "no-progress"} {
		if o.has(optional) && (optional != "no-progress" || f.Progress == nil) {
			capabilities = append(capabilities, optional)
		}
	}
	if o.has("agent") {
		capabilities = append(capabilities, agent)
	}
	if o.has("object-format") {
		capabilities = append(capabilities, "object-format=sha1")
	}
	q := &request{}
	for i, h := range f.Wants {
		if i == 0 {
			q.linef("want %s %s\n", h, strings.Join(capabilities, " "))
		} else {
			q.linef("want %s\n", h)
		}
	}
	for _, h := range f.Shallows {
		q.linef("shallow %s\n", h)
	}
	if f.Depth > 0 {
		q.linef("deepen %s\n", strconv.Itoa(f.Depth))
	}
	q.flush()
	for _, h := range f.Haves {
		q.linef("have %s\n", h)
	}
	q.linef("done\n")
	return q.Bytes(), nil
}

// parseOld reads version 0's reply up to the packfile's first byte.
func (pack *Pack) parseOld(p *packets, deepened bool) error {
	if deepened {
		if err := pack.parseShallow(p, flush); err != nil {
			return err
		}
	}
	// "ACK hash common" and the like tell of single haves; a bare ACK or NAK ends
	// them.
	for {
		k, text, err := p.line()
		if err != nil {
			return err
		}
		words := strings.Split(text, " ")
		switch {
		case k == data && text == "NAK", k == data && words[0] == "ACK" && len(words) == 2:
			return nil
		case k == data && words[0] == "ACK" && len(words) == 3:
		default:
			return garbage("neither ACK nor NAK: %q", gitops.Line(text, 60))
		}
	}
}

// packReader gives the pack's bytes and ends the conversation with it.
type packReader struct {
	remote *Remote
	talk   conversation
	band   *sideband
	err    error
}

func (p *packReader) Read(to []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	n, err := p.band.Read(to)
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF):
		// The pack is whole; that the connection can serve again is not its
		// concern.
		_ = p.talk.finish()
		p.err = io.EOF
	default:
		p.remote.forget()
		p.err = p.remote.fault("fetch from", err)
	}
	return n, p.err
}

func (p *packReader) Close() error {
	if p.err == nil {
		p.err = errors.New("the pack was closed before its end")
	}
	p.talk.close()
	return nil
}

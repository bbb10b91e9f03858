package wire

import (
	"strings"

	"towpath.dev/towpath/gitops"
)

// offer is what a server says first: its protocol version and capabilities.
type offer struct {
	version      int // 0, 1 or 2
	capabilities map[string]string
}

func (o *offer) has(capability string) bool {
	_, found := o.capabilities[capability]
	return found
}

func (o *offer) value(capability string) string { return o.capabilities[capability] }

// feature: version 2 lists a command's features as its value: fetch=shallow ….
func (o *offer) feature(command, name string) bool {
	for feature := range strings.FieldsSeq(o.value(command)) {
		if feature == name {
			return true
		}
	}
	return false
}

// maxCapabilities is far above the dozen or two that servers have.
const maxCapabilities = 1000

// parseOffer reads an advertisement of any version, with or without the service
// line of HTTP (protocol-http(5)). Version 0 and 1 list every ref: each goes to
// each, peeled tags and capabilities^{} left out.
func parseOffer(p *packets, each func(name string, h gitops.Hash) error) (*offer, error) {
	k, text, err := p.line()
	if err == nil && k == data && strings.HasPrefix(text, "# service=") {
		if k, _, err = p.line(); err == nil && k != flush {
			return nil, garbage("no flush after the service")
		}
		k, text, err = p.line()
	}
	if err != nil {
		return nil, err
	}
	o := &offer{capabilities: make(map[string]string)}
	if k == data && text == "version 2" {
		o.version = 2
		return o, o.parseCapabilities(p)
	}
	if k == data && text == "version 1" {
		o.version = 1
		if k, text, err = p.line(); err != nil {
			return nil, err
		}
	}
	for first := true; ; first = false {
		switch k {
		case flush:
			return o, nil // an empty repository of an old server has no line at all
		case data:
		default:
			return nil, garbage("a delimiter among refs")
		}
		if err := o.parseRef(text, first, each); err != nil {
			return nil, err
		}
		if k, text, err = p.line(); err != nil {
			return nil, err
		}
	}
}

func (o *offer) parseRef(text string, first bool, each func(string, gitops.Hash) error) error {
	if first {
		var list string
		text, list, _ = strings.Cut(text, "\x00")
		for capability := range strings.FieldsSeq(list) {
			if err := o.add(capability); err != nil {
				return err
			}
		}
	}
	id, name, ok := strings.Cut(text, " ")
	if !ok {
		return garbage("a line that is no ref: %q", gitops.Line(text, 60))
	}
	if id == "shallow" {
		return nil // the server's repository is itself shallow
	}
	h, err := parseHash(id)
	if err != nil {
		return err
	}
	if each == nil || strings.HasSuffix(name, "^{}") {
		return nil
	}
	return each(name, h)
}

// parseCapabilities reads the rest of version 2's advertisement.
func (o *offer) parseCapabilities(p *packets) error {
	for {
		switch k, text, err := p.line(); {
		case err != nil:
			return err
		case k == flush:
			return nil
		case k != data:
			return garbage("a delimiter among capabilities")
		default:
			if err := o.add(text); err != nil {
				return err
			}
		}
	}
}

func (o *offer) add(capability string) error {
	name, value, _ := strings.Cut(capability, "=")
	if len(o.capabilities) >= maxCapabilities {
		return errTooLong
	}
	if _, found := o.capabilities[name]; !found { // symref comes several times
		o.capabilities[name] = value
	}
	return nil
}

// agent names this program to the server's log.
const agent = "agent=towpath"

// command begins a request of version 2.
func (o *offer) command(name string) *request {
	r := &request{}
	r.linef("command=%s\n", name)
	if o.has("agent") {
		r.linef("%s\n", agent)
	}
	if o.has("object-format") {
		r.linef("object-format=sha1\n")
	}
	r.delimiter()
	return r
}

func lsRefsRequest(o *offer, prefixes []string) []byte {
	r := o.command("ls-refs")
	for _, prefix := range prefixes {
		r.linef("ref-prefix %s\n", prefix)
	}
	r.flush()
	return r.Bytes()
}

// parseLsRefs reads the reply to ls-refs. The server may list more than was
// asked for (ref-prefix is a hint to it); only what is wanted counts.
func parseLsRefs(p *packets, wanted func(string) bool, refs map[string]gitops.Hash) error {
	for {
		k, text, err := p.line()
		if err != nil {
			return err
		}
		switch k {
		case flush:
			return nil
		case data:
		default:
			return garbage("a delimiter among refs")
		}
		fields := strings.Split(text, " ") // object name, ref, attributes
		if len(fields) < 2 {
			return garbage("a line that is no ref: %q", gitops.Line(text, 60))
		}
		h, err := parseHash(fields[0])
		if err != nil {
			return err
		}
		if wanted(fields[1]) {
			if err := addRef(refs, fields[1], h); err != nil {
				return err
			}
		}
	}
}

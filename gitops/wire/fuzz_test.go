package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"towpath.dev/towpath/gitops"
)

// Whatever a server sends, the parsers end, hold their bounds and give nothing
// that git would not accept.

const (
	fuzzHash  = "1111111111111111111111111111111111111111"
	fuzzLimit = 1 << 20
)

func lined(texts ...string) []byte {
	q := &request{}
	for _, text := range texts {
		switch text {
		case "flush":
			q.flush()
		case "delimiter":
			q.delimiter()
		default:
			q.linef("%s", text)
		}
	}
	return q.Bytes()
}

func checkRefs(t *testing.T, refs map[string]gitops.Hash) {
	t.Helper()
	for name := range refs {
		if name != "HEAD" && CheckRef(name) != nil {
			t.Errorf("%q was listed", name)
		}
	}
}

func FuzzOffer(f *testing.F) {
	f.Add(lined("version 2\n", "agent=git/2.39.5\n", "ls-refs=unborn\n", "fetch=shallow wait-for-done\n", "object-format=sha1\n", "flush"))
	f.Add(lined("# service=git-upload-pack\n", "flush", fuzzHash+" HEAD\x00multi_ack side-band-64k symref=HEAD:refs/heads/main\n", fuzzHash+" refs/heads/main\n", fuzzHash+" refs/tags/v1^{}\n", "shallow "+fuzzHash+"\n", "flush"))
	f.Add(lined("version 1\n", "0000000000000000000000000000000000000000 capabilities^{}\x00report-status atomic\n", "flush"))
	f.Add(lined("ERR no such repository\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		refs := make(map[string]gitops.Hash)
		o, err := parseOffer(newPackets(bytes.NewReader(in), fuzzLimit), func(name string, h gitops.Hash) error {
			return addRef(refs, name, h)
		})
		checkRefs(t, refs)
		if err == nil && (o.version < 0 || o.version > 2 || len(o.capabilities) > maxCapabilities) {
			t.Errorf("%+v", o)
		}
	})
}

func FuzzLsRefs(f *testing.F) {
	f.Add(lined(fuzzHash+" refs/heads/main\n", fuzzHash+" HEAD symref-target:refs/heads/main\n", "flush"))
	f.Add(lined(fuzzHash+" refs/heads/../x\n", "unborn HEAD symref-target:refs/heads/main\n", "flush"))
	f.Add(lined("ERR away\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		refs := make(map[string]gitops.Hash)
		_ = parseLsRefs(newPackets(bytes.NewReader(in), fuzzLimit), matcher([]string{"refs/", "HEAD"}), refs)
		checkRefs(t, refs)
	})
}

func FuzzFetch(f *testing.F) {
	f.Add(lined("shallow-info\n", "shallow "+fuzzHash+"\n", "unshallow "+fuzzHash+"\n", "delimiter", "packfile\n", "\x01PACK", "\x02Counting\rdone\n", "\x01more", "flush"))
	f.Add(lined("acknowledgments\n", "ACK "+fuzzHash+"\n", "ready\n", "delimiter", "packfile\n", "\x03fatal"))
	f.Add(lined("shallow "+fuzzHash+"\n", "flush", "NAK\n", "\x01PACK", "flush"))
	f.Add(lined("ACK "+fuzzHash+"\n", "\x02x", "\x01PACK", "flush"))
	f.Fuzz(func(t *testing.T, in []byte) {
		for _, parse := range []func(*Pack, *packets) error{
			func(pack *Pack, p *packets) error { return pack.parseSections(p) },
			func(pack *Pack, p *packets) error { return pack.parseOld(p, false) },
			func(pack *Pack, p *packets) error { return pack.parseOld(p, true) },
		} {
			p := newPackets(bytes.NewReader(in), fuzzLimit)
			if parse(&Pack{}, p) != nil {
				continue
			}
			const limit = 100
			told := &lines{each: checkLine(t), scrub: strings.Clone}
			n, err := io.Copy(io.Discard, newSideband(p, limit, ErrTooLarge, told))
			if n > limit {
				t.Errorf("%d bytes came through a limit of %d", n, limit)
			}
			if err == nil && !bytes.Contains(in, []byte("0000")) {
				t.Error("a pack without an end is whole")
			}
		}
	})
}

func FuzzReport(f *testing.F) {
	report := lined("unpack ok\n", "ok refs/heads/main\n", "ng refs/towpath/a/b hook declined\n", "flush")
	f.Add(report, false)
	f.Add(lined("\x02remote: hello\n", "\x01"+string(report), "flush"), true)
	f.Add(lined("\x01"+string(report[:30]), "\x01"+string(report[30:]), "\x02bye", "flush"), true)
	f.Add(lined("\x01"+string(lined("unpack no\n", "ng refs/heads/main x\n", "ng refs/towpath/a/b\n", "flush")), "flush"), true)
	f.Fuzz(func(t *testing.T, in []byte, banded bool) {
		var h gitops.Hash
		h[0] = 1
		p := PushRequest{Updates: []Update{{Ref: "refs/heads/main", New: h}, {Ref: "refs/towpath/a/b", New: h}}}
		told := &lines{each: checkLine(t), scrub: strings.Clone}
		rejected, err := p.report(bytes.NewReader(in), banded, told)
		for ref := range rejected {
			if ref != p.Updates[0].Ref && ref != p.Updates[1].Ref {
				t.Errorf("a verdict on %q", ref)
			}
		}
		if err != nil {
			return
		}
		// Success is said of every ref, in so many words.
		plain := string(bytes.ReplaceAll(in, []byte{1}, nil))
		for _, u := range p.Updates {
			if _, no := rejected[u.Ref]; !no && !banded && !strings.Contains(plain, "ok "+u.Ref) {
				t.Errorf("%q is taken for done", u.Ref)
			}
		}
		checkLine(t)(told.text())
	})
}

func checkLine(t *testing.T) func(string) {
	return func(line string) {
		if strings.ContainsAny(line, "\r\n\x1b\x00") || len(line) > 4*1000 {
			t.Errorf("line %q", line)
		}
	}
}

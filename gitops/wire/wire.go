// Package wire speaks git's smart protocol with one repository on a server: it
// lists refs, fetches objects by hash and pushes refs, over HTTP and SSH.
//
// It moves bytes and knows no object: what a pack holds, whether a commit
// descends from another and what a ref means are its callers' business. It
// keeps nothing on disk, runs no git command, and reads no configuration of
// git's, no credential helper, no netrc and no ssh-agent.
//
// What always holds: a credential goes to the host of the URL alone, over TLS
// or SSH or the loopback (unless Options.Insecure), and never into an error; an
// SSH host is one that known_hosts knows; everything that a server sends is
// bounded in size, and a server that falls silent ends the request; a push
// reports success only when the server said "ok" of every ref.
//
// The protocol is version 2 for listing and fetching where the server knows it,
// else version 0 or 1 (git's protocol-v2(5), protocol-pack(5) and
// protocol-http(5)). Pushing has one protocol only.
package wire

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fluxcd/pkg/git"

	"towpath.dev/towpath/gitops"
)

// Options say which repository a Remote speaks with, and as whom.
type Options struct {
	// URL of the repository: http, https or ssh, or git@host:path.
	URL string

	// Auth gives the credential, read anew for every HTTP request and every
	// SSH connection, so that a rotated one is used. nil, or a nil result:
	// none. Its fields are Flux's: Username and Password, or BearerToken;
	// CAFile (PEM; those authorities alone are trusted then), ClientCert and
	// ClientKey; for SSH Identity (a private key, Password its passphrase) and
	// KnownHosts, both mandatory.
	Auth func() (*git.AuthOptions, error)

	// Secret is the name of what Auth reads, for people. May be empty.
	Secret string

	// Connections are shared with others. nil: they are this Remote's own.
	Connections *Connections

	// MaxPack bounds the bytes that one fetch may bring; 0 stands for 4 GiB.
	MaxPack int64

	// Insecure allows credentials over plain HTTP to a host that is not this
	// machine.
	Insecure bool
}

// Bounds on what a server may send and on how long it may keep silent. They are
// far above what an honest server needs.
const (
	maxPackDefault   = 4 << 30
	maxAdvertisement = 64 << 20 // version 0 lists every ref: some 65 bytes each
	maxReply         = 64 << 20 // of ls-refs, and before the pack in a fetch
	maxReport        = 4 << 20  // of a push
	maxChatter       = 32 << 20 // progress, hook output and keep-alives
	patience         = 60 * time.Second
	rememberFor      = 10 * time.Minute
)

// Remote is a repository on a server. It is safe for concurrent use and keeps
// its connections between requests.
type Remote struct {
	address address
	secret  string
	maxPack int64
	link    transport

	mu       sync.Mutex
	fetching remembered // what upload-pack offered
	pushing  remembered // what receive-pack offered
}

// remembered is a stateless server's offer, so that every request but the
// first is one round trip.
type remembered struct {
	offer *offer
	at    time.Time
}

// New prepares to speak with a repository. It dials nothing; the error is about
// the options.
func New(o Options) (*Remote, error) {
	a, err := parseAddress(o.URL)
	if err != nil {
		return nil, err
	}
	auth := o.Auth
	if auth == nil {
		auth = func() (*git.AuthOptions, error) { return nil, nil }
	}
	r := &Remote{address: a, secret: o.Secret, maxPack: o.MaxPack}
	if r.maxPack <= 0 {
		r.maxPack = maxPackDefault
	}
	if a.scheme == "ssh" {
		r.link = newSSHTransport(a, auth)
	} else {
		r.link = newHTTPTransport(a, auth, o.Insecure, o.Connections)
	}
	return r, nil
}

// Close gives up the connections that are kept. Requests in flight may fail.
func (r *Remote) Close() error { return r.link.close() }

// URL is the repository's URL without credentials, fit to be shown.
func (r *Remote) URL() string { return r.address.String() }

// Refs lists the refs whose full names begin with one of the prefixes, or all
// of them. Over protocol version 2 nothing else is received. Names that git
// would not accept are left out: nobody can ask for them.
func (r *Remote) Refs(ctx context.Context, prefixes ...string) (map[string]gitops.Hash, error) {
	refs, err := r.refs(ctx, prefixes)
	if err != nil {
		r.forget()
		return nil, r.fault("list refs of", err)
	}
	return refs, nil
}

func (r *Remote) refs(ctx context.Context, prefixes []string) (map[string]gitops.Hash, error) {
	for _, prefix := range prefixes {
		if err := checkPrefix(prefix); err != nil {
			return nil, err
		}
	}
	talk, err := r.link.begin(ctx, uploadPack, true)
	if err != nil {
		return nil, err
	}
	defer talk.close()

	wanted := matcher(prefixes)
	refs := make(map[string]gitops.Hash)
	o, err := r.offered(talk, &r.fetching, func(name string, h gitops.Hash) error {
		if !wanted(name) {
			return nil
		}
		return addRef(refs, name, h)
	})
	if err != nil {
		return nil, err
	}
	if o.version < 2 {
		return refs, nil
	}
	reply, err := talk.exchange(lsRefsRequest(o, prefixes), nil)
	if err != nil {
		return nil, err
	}
	if err := parseLsRefs(newPackets(reply, maxReply), wanted, refs); err != nil {
		return nil, err
	}
	return refs, talk.finish()
}

// Capabilities are what a server offers to those who push.
type Capabilities struct {
	Atomic      bool // several refs change together or not at all
	PushOptions bool // the server takes push options
}

// PushCapabilities asks the server what a push may use. It asks with the right
// to push, so it fails where that is missing and the server says so early.
func (r *Remote) PushCapabilities(ctx context.Context) (Capabilities, error) {
	r.forget()
	talk, err := r.link.begin(ctx, receivePack, false)
	if err != nil {
		return Capabilities{}, r.fault("ask to push to", err)
	}
	defer talk.close()
	o, err := r.offered(talk, &r.pushing, nil)
	if err != nil {
		return Capabilities{}, r.fault("ask to push to", err)
	}
	return Capabilities{Atomic: o.has("atomic"), PushOptions: o.has("push-options")}, nil
}

// offered is what the server offers at the start of a conversation: read from
// it, or remembered where the server keeps no state and speaks version 2 or
// takes a push. The refs of version 0 go to each; with a remembered offer there
// are none.
func (r *Remote) offered(talk conversation, memory *remembered, each func(string, gitops.Hash) error) (*offer, error) {
	if talk.stateless() {
		r.mu.Lock()
		known := *memory
		r.mu.Unlock()
		if known.offer != nil && time.Since(known.at) < rememberFor {
			return known.offer, nil
		}
	}
	reader, err := talk.advertisement()
	if err != nil {
		return nil, err
	}
	o, err := parseOffer(newPackets(reader, maxAdvertisement), each)
	if err != nil {
		return nil, err
	}
	if format := o.value("object-format"); format != "" && format != "sha1" {
		return nil, hint(errors.New("the repository names its objects by "+gitops.Line(format, 20)+", not SHA-1"),
			"Towpath reads SHA-1 repositories only")
	}
	if err := talk.finish(); err != nil {
		return nil, err
	}
	// A version 0 listing is never remembered for fetching: its refs would age.
	if talk.stateless() && (o.version == 2 || memory == &r.pushing) {
		r.mu.Lock()
		*memory = remembered{offer: o, at: time.Now()}
		r.mu.Unlock()
	}
	return o, nil
}

// forget drops what the server offered: after any error it may be another
// server that answers.
func (r *Remote) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fetching, r.pushing = remembered{}, remembered{}
	r.link.forget()
}

// transport begins conversations with the server.
type transport interface {
	// begin starts a conversation with a service. v2 asks for version 2; the
	// server may not know it. The conversation ends with its close, with ctx,
	// or when the server keeps silent.
	begin(ctx context.Context, service string, v2 bool) (conversation, error)
	// forget drops what was learnt of the server.
	forget()
	// scrub removes from a text what this side sent in secret.
	scrub(string) string
	close() error
}

// conversation is one exchange with one of the server's services.
type conversation interface {
	// stateless: the server expects no advertisement to be read.
	stateless() bool
	// advertisement is what the server says first.
	advertisement() (reader, error)
	// exchange sends a request, head and then rest (nil: nothing more), and
	// gives the reply. Once per conversation. An error of type *unsent says
	// that nothing went out.
	exchange(head []byte, rest reader) (reader, error)
	// finish is called when a whole advertisement or reply was read, so that
	// the connection may serve again.
	finish() error
	close()
}

// The services' names, as SSH runs them and HTTP asks for them.
const (
	uploadPack  = "git-upload-pack"
	receivePack = "git-receive-pack"
)

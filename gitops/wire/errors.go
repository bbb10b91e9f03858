package wire

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sort"
	"strings"
	"time"

	"towpath.dev/towpath/gitops"
)

var (
	// ErrAuth: the server wants a credential, or refused the one it got.
	ErrAuth = errors.New("not authorised")
	// ErrNotFound: the server knows no such repository, or does not admit it.
	ErrNotFound = errors.New("repository not found")
	// ErrNotAdvertised: the server does not hand out one of the commits that
	// were asked for by hash: it has no such object, or speaks version 0, where
	// only tips of refs can be had.
	ErrNotAdvertised = errors.New("the server does not offer that commit")
	// ErrTooLarge: the pack exceeds Options.MaxPack.
	ErrTooLarge = errors.New("the pack is larger than allowed")
	// ErrAtomicUnsupported: several refs were to change together and the server
	// cannot do that. Nothing was sent.
	ErrAtomicUnsupported = errors.New("the server knows no atomic push")
	// ErrPushOptionsUnsupported: there were push options and the server takes
	// none. Nothing was sent.
	ErrPushOptionsUnsupported = errors.New("the server takes no push options")
	// ErrOutcomeUnknown: a push was sent, or a part of it, and no whole report
	// came back. It may have been applied: read the refs again.
	ErrOutcomeUnknown = errors.New("the push may or may not have been applied")

	errTooLong = garbage("more than an honest server would")
	errSilent  = fmt.Errorf("the server sent nothing for %s", patience)
)

// Error is a request that failed, told with the repository's redacted URL.
type Error struct {
	Op     string        // what was asked: "list refs of", "fetch from", "push to"
	URL    string        // without credentials
	Secret string        // name of the credential's secret, for the hint; empty: there is none, or it has no name
	Status int           // HTTP status; 0 where it was not HTTP that said no
	After  time.Duration // how long the server asks to be left alone; 0: it did not say
	Err    error
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.URL, e.Err) }

// Unwrap gives the cause; errors.Is finds ErrAuth, ErrNotFound and the others.
func (e *Error) Unwrap() error { return e.Err }

// RetryAfter is how long the server asks to be left alone; 0: it did not say.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Hint says what a person can do about it; empty where that is unknown. What a
// credential may be the reason of names its secret.
func (e *Error) Hint() string {
	advice := e.advice()
	if advice != "" && e.Secret != "" && (errors.Is(e.Err, ErrAuth) || errors.Is(e.Err, ErrNotFound)) {
		advice += " (secret " + e.Secret + ")"
	}
	return advice
}

func (e *Error) advice() string {
	var inner interface{ Hint() string }
	if errors.As(e.Err, &inner) {
		return inner.Hint()
	}
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	var dns *net.DNSError
	var dial *net.OpError
	switch {
	case errors.As(e.Err, &invalid) && invalid.Reason == x509.Expired:
		return "the server's owner must renew its certificate, unless this machine's clock is wrong"
	case errors.As(e.Err, &unknown):
		return "give the server's authority as ca.crt in the secret"
	case errors.As(e.Err, &name):
		return "the certificate is for another name: check the host in the URL"
	case errors.As(e.Err, &dns):
		return "check the host in the URL, and the name servers"
	case errors.As(e.Err, &dial) && dial.Op == "dial":
		return "is the server up, may this machine reach it, and are host and port of the URL right?"
	case errors.Is(e.Err, ErrAtomicUnsupported):
		return "push the refs one by one"
	}
	return ""
}

// RejectedError is a push that the server refused, in whole or in part, and
// said so. Refs that are not among Refs were updated.
type RejectedError struct {
	Refs     map[string]string // ref → the server's reason, one line
	Messages string            // what its hooks wrote, one line; may be empty
}

func (e *RejectedError) Error() string {
	refs := make([]string, 0, len(e.Refs))
	for ref, reason := range e.Refs {
		refs = append(refs, ref+" ("+reason+")")
	}
	sort.Strings(refs)
	text := "the server rejected " + strings.Join(refs, ", ")
	if e.Messages != "" {
		text += ": " + e.Messages
	}
	return text
}

// hinted is an error that a person can mend.
type hinted struct {
	error
	hint string
}

func hint(err error, text string) error { return &hinted{err, text} }

func (h *hinted) Unwrap() error { return h.error }
func (h *hinted) Hint() string  { return h.hint }

// garbage is an answer that is not git's protocol.
func garbage(format string, args ...any) error {
	return fmt.Errorf("the server sent what is not git's protocol: "+format, args...)
}

// fault makes the error that a caller sees.
func (r *Remote) fault(op string, err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		err = &cutError{err}
	}
	var remote *remoteError
	if errors.As(err, &remote) {
		err = classify(err, remote.text)
	}
	e := &Error{Op: op, URL: r.URL(), Secret: r.secret, Err: err}
	var status *statusError
	if errors.As(err, &status) {
		e.Status, e.After = status.status, status.after
	}
	// A hostile server may repeat the credential that it was sent, in any text
	// that ends up in an error.
	if text := err.Error(); r.link.scrub(text) != text {
		e.Err = &scrubbed{text: r.link.scrub(text), hint: e.advice(), cause: err}
	}
	return e
}

// cutError says what an EOF in the middle of an answer means.
type cutError struct{ cause error }

func (c *cutError) Error() string {
	return strings.NewReplacer("unexpected EOF", "the connection was cut", "EOF", "the connection was cut").Replace(c.cause.Error())
}
func (c *cutError) Unwrap() error { return c.cause }

// scrubbed is an error whose text held a credential. It stays what it was to
// errors.Is, and hides its cause from everybody who would print it.
type scrubbed struct {
	text, hint string
	cause      error
}

func (s *scrubbed) Error() string        { return s.text }
func (s *scrubbed) Hint() string         { return s.hint }
func (s *scrubbed) Is(target error) bool { return errors.Is(s.cause, target) }

// classify reads the words with which servers refuse over SSH, where there is
// no status code.
func classify(err error, text string) error {
	text = strings.ToLower(text)
	for _, words := range []string{"not our ref", "not valid: ", "no such object"} {
		if strings.Contains(text, words) {
			return fmt.Errorf("%w: %w", ErrNotAdvertised, err)
		}
	}
	for _, words := range []string{"not found", "does not appear to be a git repository", "does not exist", "no such repository"} {
		if strings.Contains(text, words) {
			return hint(fmt.Errorf("%w: %w", ErrNotFound, err), hintNotFound)
		}
	}
	for _, words := range []string{"denied", "not authorized", "unauthorized", "not allowed", "permission"} {
		if strings.Contains(text, words) {
			return hint(fmt.Errorf("%w: %w", ErrAuth, err), hintForbidden)
		}
	}
	return err
}

const (
	hintAnonymous = "the repository asks for a credential: name a secretRef that holds one"
	hintRefused   = "the server refused the credential: it may be expired, revoked or meant for another host"
	hintForbidden = "the credential is known but lacks the right: reading needs read access, a GitOps repository write access"
	hintNotFound  = "check the URL; many servers also say so to a credential that may not see the repository"
)

// statusError is an HTTP answer other than success.
type statusError struct {
	status int
	after  time.Duration
	text   string // what the body said, one clean line; may be empty
	bare   bool   // the request carried no credential
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("HTTP %d %s", e.status, http.StatusText(e.status))
	if e.text != "" {
		text += ": " + e.text
	}
	return text
}

func (e *statusError) Is(target error) bool {
	switch target {
	case ErrAuth:
		return e.status == http.StatusUnauthorized || e.status == http.StatusForbidden || e.status == http.StatusProxyAuthRequired
	case ErrNotFound:
		return e.status == http.StatusNotFound || e.status == http.StatusGone
	}
	return false
}

func (e *statusError) Hint() string {
	switch {
	case e.status == http.StatusProxyAuthRequired:
		return "the proxy asks for a credential: put it into HTTPS_PROXY"
	case e.Is(ErrAuth) && e.bare:
		return hintAnonymous
	case e.status == http.StatusUnauthorized:
		return hintRefused
	case e.status == http.StatusForbidden:
		return hintForbidden
	case e.Is(ErrNotFound):
		return hintNotFound
	case e.status == http.StatusTooManyRequests:
		return "the server limits how often it is asked: poll it less often"
	case e.status == http.StatusRequestEntityTooLarge:
		return "the server, or a proxy before it, limits the size of a push"
	}
	return ""
}

// refusedBeforeUse: such an answer to a push comes from before the repository
// was touched.
func (e *statusError) refusedBeforeUse() bool {
	switch e.status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusProxyAuthRequired, http.StatusGone, http.StatusLengthRequired, http.StatusRequestEntityTooLarge,
		http.StatusUnsupportedMediaType, http.StatusTooManyRequests:
		return true
	}
	return e.status >= 300 && e.status < 400
}

// unsent is an error that came before anything of a request went out.
type unsent struct{ error }

func (u *unsent) Unwrap() error { return u.error }

// because gives the reason why a conversation ended, where it was ended from
// this side: the caller's context, or a silent server.
func because(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	if errors.Is(cause, errSilent) {
		return cause
	}
	if errors.Is(err, cause) {
		return err
	}
	return cause
}

// oneLine cleans a text of the server's for an error.
func oneLine(s string) string { return gitops.Line(s, 300) }

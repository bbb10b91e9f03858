package registry

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// What an *Error is, for errors.Is.
var (
	ErrAuth     = errors.New("not authorised")         // 401 or 403
	ErrNotFound = errors.New("not found")              // 404
	ErrRefused  = errors.New("refused by ourselves")   // the registry asked for something that we do not do
	ErrCorrupt  = errors.New("not what was asked for") // content does not match its digest or its form
)

const insecureHint = "serve the registry over HTTPS, or set insecure: true at the destination"

// Error is a request that failed. Its text holds no credential and no part of
// an address but the host.
type Error struct {
	Op     string        // what was tried: "push layer sha256:…"
	Host   string        // the registry
	Status int           // HTTP status; 0: there was no answer
	Text   string        // the reason, one line
	After  time.Duration // how long the registry asks to wait; 0: it does not say
	Err    error         // one of the variables above, or a context's error; may be nil

	codes    []string
	hint     string
	passing  bool
	oversize bool // the answer is larger than we read
}

func (e *Error) Error() string {
	text := e.Op + ": " + e.Host
	if e.Status != 0 {
		text += fmt.Sprintf(": %d %s", e.Status, strings.ToLower(http.StatusText(e.Status)))
	}
	if e.Text != "" {
		text += ": " + e.Text
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// RetryAfter is how long the registry asks to wait; 0: it does not say.
func (e *Error) RetryAfter() time.Duration { return e.After }

// Hint says what a person can do; empty if nothing is known.
func (e *Error) Hint() string { return e.hint }

// has says whether the registry gave one of these codes of the distribution
// specification.
func (e *Error) has(codes ...string) bool {
	return slices.ContainsFunc(e.codes, func(code string) bool { return slices.Contains(codes, code) })
}

// explain makes an *Error of whatever a step returned.
func (c *Client) explain(op string, call *call, err error) *Error {
	var ours *Error
	if errors.As(err, &ours) {
		if ours.Op == "" {
			ours.Op = op
		}
		return ours
	}
	e := &Error{Op: op, Host: c.repo.RegistryStr(), After: call.after}
	// go-containerregistry tries plain HTTP on private addresses unasked. That
	// we refuse it says little: what went wrong with HTTPS is the reason, unless
	// the registry knows no HTTPS.
	if refused, ok := isRefusal(err); ok && refused.insecure && call.secure != nil && !speaksPlainly(call.secure) {
		err = call.secure
	}
	var answered *transport.Error
	var secret *secretError
	var local *localError
	var unknownAuthority x509.UnknownAuthorityError
	var badCertificate *tls.CertificateVerificationError
	refused, isRefused := isRefusal(err)
	switch {
	case errors.As(err, &secret):
		e.Text, e.hint, e.Err = secret.Error(), secret.Hint(), secret
		return e
	case errors.As(err, &local):
		e.Text, e.Err = local.err.Error(), local.err
		return e
	case isRefused:
		e.Text, e.Err = refused.reason, ErrRefused
		if refused.insecure {
			e.hint = insecureHint
		}
	case errors.As(err, &unknownAuthority):
		e.Text = "its certificate is signed by an unknown authority"
		e.hint = "put the authority's certificate into the registry's secret as ca.crt"
	case errors.As(err, &badCertificate):
		e.Text = badCertificate.Err.Error()
		var invalid x509.CertificateInvalidError
		if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
			e.hint = "the registry's owner must renew its certificate, unless this machine's clock is wrong"
		}
	case errors.As(err, &answered):
		c.answered(e, answered)
	default:
		c.unanswered(e, err)
	}
	e.Text = clean(call.redact(e.Text), 300)
	return e
}

// unanswered fills in what is known of a request that had no answer: the network's
// errors, and go-containerregistry's own.
func (c *Client) unanswered(e *Error, err error) {
	// What a URL holds beyond the host may be signed, so it is not told.
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	e.Text = err.Error()
	e.passing = true
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		e.hint = "is the registry up, may this machine reach it, and are host and port right?"
	}
	if strings.Contains(e.Text, "invalid realm in www-authenticate") {
		e.Err, e.passing = ErrRefused, false
	}
	if plain := c.options.Insecure || isLoopback(hostOf(c.repo.Registry)); !plain && speaksPlainly(err) {
		e.passing, e.hint = false, insecureHint
	}
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &record):
		if e.passing = false; e.hint == "" {
			e.hint = "what answers there speaks no TLS: are host and port right?"
		}
	case strings.Contains(e.Text, "tls: ") || strings.Contains(e.Text, "remote error: tls"):
		e.passing = false
		e.hint = "the registry may ask for a client certificate: tls.crt and tls.key in its secret"
	}
}

// speaksPlainly tells whether HTTPS failed because the other side answered in plain
// HTTP. An http.Client says so in words; a transport returns the first bytes, which are
// no TLS record.
func speaksPlainly(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) && string(record.RecordHeader[:]) == "HTTP/" ||
		strings.Contains(err.Error(), "server gave HTTP response to HTTPS client")
}

// answered fills in what an answer with an error status says.
func (c *Client) answered(e *Error, answer *transport.Error) {
	e.Status = answer.StatusCode
	var reasons []string
	for i, diagnostic := range answer.Errors {
		e.codes = append(e.codes, string(diagnostic.Code))
		if i < 3 {
			reasons = append(reasons, strings.TrimSuffix(fmt.Sprintf("%s: %s", diagnostic.Code, diagnostic.Message), ": "))
		}
	}
	e.Text = strings.Join(reasons, "; ")
	with, next := "Docker's own configuration, since no secret is named", "name one that holds username and password or .dockerconfigjson by secretRef beside the repository, or under credentials"
	if c.options.Secret != nil {
		with, next = fmt.Sprintf("the secret %q", c.options.SecretName), "renew its username and password, or its .dockerconfigjson, which must name this very host"
	}
	switch e.Status {
	case http.StatusUnauthorized:
		e.Err = ErrAuth
		e.hint = fmt.Sprintf("%s does not accept us with %s: %s", e.Host, with, next)
	case http.StatusForbidden:
		e.Err = ErrAuth
		e.hint = fmt.Sprintf("we are known with %s, but may not do this in %s: give that account the right to pull and push there", with, c.repo.RepositoryStr())
	case http.StatusNotFound:
		e.Err = ErrNotFound
		if e.has("NAME_UNKNOWN") {
			e.hint = fmt.Sprintf("the repository %s may have to be created first, at the registry", c.repo.RepositoryStr())
		}
	case http.StatusRequestEntityTooLarge:
		e.hint = "the registry, or a proxy before it, limits the size of an upload"
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		e.passing = true
	}
}

// clean makes one harmless line of text from outside.
func clean(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case r == utf8.RuneError || !unicode.IsPrint(r):
			return -1
		}
		return r
	}, text)
	text = strings.TrimSpace(text)
	if len(text) > limit {
		cut := limit
		for cut > 0 && !utf8.RuneStart(text[cut]) {
			cut--
		}
		text = text[:cut] + "…"
	}
	return text
}

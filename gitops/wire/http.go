package wire

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// httpTransport speaks with the repository over HTTP (protocol-http(5)).
type httpTransport struct {
	address  address
	clients  clients
	patience time.Duration

	mu   sync.Mutex
	base string // the URL that info/refs hangs under, where a redirect moved it
}

func newHTTPTransport(a address, auth authFunc, insecure bool, shared *Connections) *httpTransport {
	if shared == nil {
		shared = &Connections{}
	}
	return &httpTransport{
		address:  a,
		clients:  clients{address: a, auth: auth, insecure: insecure, connections: shared},
		patience: patience,
	}
}

func (t *httpTransport) scrub(text string) string { return t.clients.scrub(text) }

func (t *httpTransport) close() error {
	t.clients.close()
	return nil
}

// forget returns to the repository's own URL: what a redirect named may be gone.
func (t *httpTransport) forget() { t.moved("") }

func (t *httpTransport) moved(base string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.base = base
}

func (t *httpTransport) begin(ctx context.Context, service string, v2 bool) (conversation, error) {
	t.mu.Lock()
	base := t.base
	t.mu.Unlock()
	if base == "" {
		base = t.address.scheme + "://" + t.address.host + t.address.path
	}
	return &httpConversation{transport: t, watch: newWatch(ctx, t.patience), base: base, service: service, v2: v2}, nil
}

// httpConversation is a GET of info/refs, or a POST to the service, or both.
type httpConversation struct {
	transport *httpTransport
	watch     *watch
	base      string
	service   string
	v2        bool
	body      io.ReadCloser // of the answer being read
}

func (c *httpConversation) stateless() bool { return true }

func (c *httpConversation) close() {
	if c.body != nil {
		c.body.Close()
	}
	c.watch.close()
}

func (c *httpConversation) finish() error {
	if c.body == nil {
		return nil
	}
	err := readToEnd(c.watch.reading(c.body))
	c.body.Close()
	c.body = nil
	return err
}

// maxRedirects within the same host.
const maxRedirects = 5

func (c *httpConversation) advertisement() (reader, error) {
	const path = "/info/refs"
	query := "?service=" + c.service
	target := c.base + path + query
	for range maxRedirects {
		answer, err := c.do(http.MethodGet, target, nil, 0, nil) //nolint:bodyclose // finish and close do it
		if err != nil {
			return nil, err
		}
		c.body = answer.Body
		if answer.StatusCode >= 300 && answer.StatusCode < 400 && answer.Header.Get("Location") != "" {
			if target, err = sameHost(target, answer.Header.Get("Location")); err != nil {
				return nil, err
			}
			moved, ok := strings.CutSuffix(target, path+query)
			if !ok {
				return nil, errors.New("redirected to a page that is no git repository")
			}
			c.base = moved // the POST goes there too
			c.transport.moved(moved)
			if err := c.finish(); err != nil {
				return nil, err
			}
			continue
		}
		if err := c.check(answer, "application/x-"+c.service+"-advertisement"); err != nil {
			return nil, err
		}
		return c.watch.reading(answer.Body), nil
	}
	return nil, errors.New("the server redirects without end")
}

// sameHost follows a redirect that stays with the host, and at most turns from
// http to https there. Credentials never follow one elsewhere, and nor do we: a
// repository that moved is for a person to name.
func sameHost(from, location string) (string, error) {
	base, err := url.Parse(from)
	if err != nil {
		return "", errors.New("redirect from a URL that does not parse")
	}
	next, err := base.Parse(location)
	if err != nil {
		return "", errors.New("redirected to what is no URL")
	}
	next.User, next.Fragment = nil, ""
	same := next.Scheme == base.Scheme && strings.EqualFold(next.Host, base.Host)
	upgrade := base.Scheme == "http" && next.Scheme == "https" && base.Port() == "" && next.Port() == "" &&
		strings.EqualFold(next.Hostname(), base.Hostname())
	if !same && !upgrade {
		return "", hint(fmt.Errorf("refused to follow a redirect to %s", oneLine(next.Scheme+"://"+next.Host+next.EscapedPath())),
			"if the repository moved there, change its URL")
	}
	return next.String(), nil
}

// postBuffer is how much of a pack is held to send it with its length; beyond,
// it goes out in chunks, as git does it (http.postBuffer).
const postBuffer = 1 << 20

func (c *httpConversation) exchange(head []byte, rest reader) (reader, error) {
	var body reader = bytes.NewReader(head)
	length := int64(len(head))
	var again func() (io.ReadCloser, error)
	if rest != nil {
		start, err := io.ReadAll(io.LimitReader(rest, postBuffer))
		if err != nil {
			return nil, &unsent{err}
		}
		head = append(head[:len(head):len(head)], start...)
		body, length = bytes.NewReader(head), int64(len(head))
		if len(start) == postBuffer {
			body, length = io.MultiReader(body, rest), -1
		}
	}
	var started atomic.Bool
	sent := func(r reader) io.ReadCloser { return io.NopCloser(&startReader{r, &started}) }
	if length >= 0 {
		// Lets net/http try another connection where the kept one turns out to
		// be closed and nothing was written to it.
		again = func() (io.ReadCloser, error) { return sent(bytes.NewReader(head)), nil }
	}
	answer, err := c.do(http.MethodPost, c.base+"/"+c.service, sent(body), length, again) //nolint:bodyclose // finish and close do it
	if err != nil {
		if !started.Load() {
			err = &unsent{err}
		}
		return nil, err
	}
	c.body = answer.Body
	if err := c.check(answer, "application/x-"+c.service+"-result"); err != nil {
		return nil, err
	}
	return c.watch.reading(answer.Body), nil
}

// do sends one request with the credential of this moment.
func (c *httpConversation) do(method, target string, body io.ReadCloser, length int64, again func() (io.ReadCloser, error)) (*http.Response, error) {
	req, err := http.NewRequestWithContext(c.watch.ctx, method, target, nil)
	if err != nil {
		return nil, &unsent{errors.New("the URL makes no request")}
	}
	req.Body, req.ContentLength, req.GetBody = body, length, again
	// Some servers serve git to clients only that say they are git.
	req.Header.Set("User-Agent", "git/2.0 (towpath)")
	if c.v2 {
		req.Header.Set("Git-Protocol", "version=2")
	}
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-"+c.service+"-request")
		req.Header.Set("Accept", "application/x-"+c.service+"-result")
		if c.service == uploadPack {
			// Reading may be repeated, so net/http may try again where a kept
			// connection turns out to be dead. The key itself is not sent.
			req.Header["Idempotency-Key"] = nil
		}
	}
	transport, err := c.transport.clients.prepare(req)
	if err != nil {
		return nil, &unsent{err}
	}
	up := &upload{ReadCloser: body, timer: c.watch.wait(), patience: c.watch.patience}
	if body != nil {
		req.Body = up
	}
	answer, err := transport.RoundTrip(req)
	up.end()
	return answer, because(c.watch.ctx, c.transport.clients.explain(err))
}

// check turns any answer but the expected one into an error.
func (c *httpConversation) check(answer *http.Response, wantType string) error {
	if answer.StatusCode == http.StatusOK {
		got, _, err := mime.ParseMediaType(answer.Header.Get("Content-Type"))
		if err != nil || got != wantType {
			return hint(fmt.Errorf("the answer is no git repository's (its type is %q)", oneLine(answer.Header.Get("Content-Type"))),
				"check the URL: it must be the one for git clone; a login page or a proxy may also answer instead")
		}
		return nil
	}
	if answer.StatusCode >= 300 && answer.StatusCode < 400 {
		return hint(&statusError{status: answer.StatusCode, text: "redirects are not followed here"}, "if the repository moved, change its URL")
	}
	e := &statusError{status: answer.StatusCode, bare: answer.Request.Header.Get("Authorization") == ""}
	if answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode >= 500 {
		e.after = retryAfter(answer.Header.Get("Retry-After"), time.Now())
	}
	if kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); kind == "text/plain" {
		text, _ := io.ReadAll(io.LimitReader(c.watch.reading(answer.Body), 1<<10))
		e.text = oneLine(string(text))
	}
	return e
}

// retryAfter reads the header of RFC 9110, section 10.2.3: seconds or a date.
// A day is the longest that is believed.
func retryAfter(value string, now time.Time) time.Duration {
	const most = 24 * time.Hour
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseUint(value, 10, 64); err == nil {
		return time.Duration(min(seconds, uint64(most/time.Second))) * time.Second
	}
	when, err := http.ParseTime(value)
	if err != nil || !when.After(now) {
		return 0
	}
	return min(when.Sub(now), most)
}

// startReader notes that a request's body began to be sent.
type startReader struct {
	r       io.Reader
	started *atomic.Bool
}

func (s *startReader) Read(p []byte) (int, error) {
	s.started.Store(true)
	return s.r.Read(p)
}

// upload is a request's body: as long as it moves, the server is not silent.
type upload struct {
	io.ReadCloser
	patience time.Duration

	mu    sync.Mutex
	timer *time.Timer // nil: the answer has begun, which may be before the body's end
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	if u.timer != nil {
		u.timer.Reset(u.patience)
	}
	u.mu.Unlock()
	return u.ReadCloser.Read(p)
}

func (u *upload) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.timer.Stop()
	u.timer = nil
}

package lab

import (
	"cmp"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"
)

// The kinds of request that a registry answers, as Request.Kind and Fault.Kind
// name them.
const (
	Ping         = "ping"          // GET /v2/
	Token        = "token"         // the token endpoint
	BlobHead     = "blob-head"     // is the blob there?
	BlobGet      = "blob-get"      //
	UploadStart  = "upload-start"  // POST blobs/uploads/
	UploadData   = "upload-data"   // PATCH of an upload
	UploadCommit = "upload-commit" // PUT of an upload
	ManifestHead = "manifest-head" //
	ManifestGet  = "manifest-get"  //
	ManifestPut  = "manifest-put"  //
	Referrers    = "referrers"     //
	Tags         = "tags"          // tags/list
)

// Request is one that reached the registry's proxy.
type Request struct {
	Kind   string
	Method string
	Path   string
	Query  string
	Status int   // of the answer; 0: the connection was cut, or there is none yet
	Body   int64 // bytes received
}

// Fault makes requests fail.
type Fault struct {
	Kind       string             // of the requests it hits; empty: every kind
	Match      func(Request) bool // further condition; nil: none. Status and Body are not known yet
	After      int                // let so many matching requests pass first
	Times      int                // hit so many, then vanish; 0: one, negative: for ever
	Status     int                // answer with this status
	RetryAfter string             // with this Retry-After header
	Text       string             // with this body; empty: the registry's form of an error
	Cut        bool               // cut the connection in place of an answer
	CutBody    int64              // with Cut: after so many bytes of the request's body
	Applied    bool               // the registry carries the request out first; only its answer is lost
}

// Fail adds faults; the first that matches hits.
func (r *Registry) Fail(faults ...Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, fault := range faults {
		r.faults = append(r.faults, &fault)
	}
}

// Heal drops every fault and hook.
func (r *Registry) Heal() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults, r.hook = nil, nil
}

// Hook lets a test answer in the registry's place: serve is called for every
// request that no fault hit, with the registry itself as next.
func (r *Registry) Hook(serve func(w http.ResponseWriter, req *http.Request, next http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.hook = serve
}

// Requests is what was asked so far, the named kinds only if some are named. What
// was answered is there before the client has the answer.
func (r *Registry) Requests(kinds ...string) []Request {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []Request
	for _, request := range r.requests {
		if len(kinds) == 0 || slices.Contains(kinds, request.Kind) {
			found = append(found, *request)
		}
	}
	return found
}

// Forget empties the record of requests.
func (r *Registry) Forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = nil
}

// ServeHTTP is the proxy.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	request := &Request{Kind: kind(req), Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery}
	asked := *request
	r.mu.Lock()
	r.requests = append(r.requests, request)
	r.mu.Unlock()
	body := &counted{ReadCloser: req.Body, registry: r, request: request}
	req.Body = body
	answer := &recorded{ResponseWriter: w, registry: r, request: request}

	fault, hook := r.next(asked)
	registry := http.Handler(http.HandlerFunc(r.authorized))
	switch {
	case fault != nil:
		if fault.Applied {
			registry.ServeHTTP(&discarded{header: http.Header{}}, req)
		}
		if fault.Cut {
			_, _ = io.CopyN(io.Discard, body, fault.CutBody)
			panic(http.ErrAbortHandler)
		}
		if fault.RetryAfter != "" {
			answer.Header().Set("Retry-After", fault.RetryAfter)
		}
		text := fault.Text
		if text == "" {
			text = fmt.Sprintf(`{"errors":[{"code":"LAB","message":"injected %d"}]}`, fault.Status)
		}
		answer.WriteHeader(fault.Status)
		_, _ = io.WriteString(answer, text)
	case hook != nil:
		hook(answer, req, registry)
	default:
		registry.ServeHTTP(answer, req)
	}
}

func (r *Registry) next(request Request) (*Fault, func(http.ResponseWriter, *http.Request, http.Handler)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, fault := range r.faults {
		if fault.Kind != "" && fault.Kind != request.Kind || fault.Match != nil && !fault.Match(request) {
			continue
		}
		if fault.After > 0 {
			fault.After--
			continue
		}
		hit := *fault
		if fault.Times >= 0 {
			if fault.Times--; fault.Times <= 0 {
				r.faults = slices.Delete(r.faults, i, i+1)
			}
		}
		return &hit, nil
	}
	return nil, r.hook
}

// authorized asks for a bearer token where the options say so; docker-registry
// itself asks for basic authentication.
func (r *Registry) authorized(w http.ResponseWriter, req *http.Request) {
	if !r.options.Token {
		r.backend.ServeHTTP(w, req)
		return
	}
	if req.URL.Path == "/token" {
		r.mu.Lock()
		username, secret := r.options.Username, r.options.Password
		r.mu.Unlock()
		if user, password, _ := req.BasicAuth(); user != username || password != secret {
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"wrong account"}]}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"token":%q,"expires_in":60}`, r.tokens.issue())
		return
	}
	if token, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); !ok || !r.tokens.valid(token) {
		realm := cmp.Or(r.options.Realm, r.URL+"/token")
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm=%q,service="lab"`, realm))
		http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"a token is needed"}]}`, http.StatusUnauthorized)
		return
	}
	req.Header.Del("Authorization")
	r.backend.ServeHTTP(w, req)
}

// ExpireTokens makes every bearer token issued so far worthless.
func (r *Registry) ExpireTokens() { r.tokens.expire() }

// SetAccount changes the account that is asked for, as a rotation does. It
// works with Token only: docker-registry reads its accounts at its start.
func (r *Registry) SetAccount(username, password string) {
	r.mu.Lock()
	r.options.Username, r.options.Password = username, password
	r.mu.Unlock()
	r.tokens.expire()
}

func kind(req *http.Request) string {
	path, method := req.URL.Path, req.Method
	pick := func(head, get string) string {
		if method == http.MethodHead {
			return head
		}
		return get
	}
	switch {
	case path == "/v2/" || path == "/v2":
		return Ping
	case path == "/token":
		return Token
	case strings.Contains(path, "/blobs/uploads/"):
		switch method {
		case http.MethodPost:
			return UploadStart
		case http.MethodPatch:
			return UploadData
		case http.MethodPut:
			return UploadCommit
		}
	case strings.Contains(path, "/blobs/"):
		return pick(BlobHead, BlobGet)
	case strings.Contains(path, "/manifests/"):
		if method == http.MethodPut {
			return ManifestPut
		}
		return pick(ManifestHead, ManifestGet)
	case strings.Contains(path, "/referrers/"):
		return Referrers
	case strings.HasSuffix(path, "/tags/list"):
		return Tags
	}
	return method
}

// forward is a proxy to a registry on this machine. The Host header stays, so
// the upload addresses that the registry gives lead back through the proxy.
func forward(address string) http.Handler {
	target := &url.URL{Scheme: "http", Host: address}
	return &httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Host = p.In.Host
			p.SetXForwarded()
		},
		Transport: &http.Transport{
			DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
			MaxIdleConnsPerHost: 16,
		},
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
	}
}

func basic(next http.Handler, username, password string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if user, pass, _ := req.BasicAuth(); user != username || pass != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, `{"errors":[{"code":"UNAUTHORIZED","message":"authentication required"}]}`, http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, req)
	})
}

type tokens struct {
	mu     sync.Mutex
	issued map[string]bool
}

func (t *tokens) issue() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw)
	token := hex.EncodeToString(raw)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.issued == nil {
		t.issued = map[string]bool{}
	}
	t.issued[token] = true
	return token
}

func (t *tokens) valid(token string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.issued[token]
}

func (t *tokens) expire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.issued = nil
}

type counted struct {
	io.ReadCloser
	registry *Registry
	request  *Request
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.registry.mu.Lock()
	c.request.Body += int64(n)
	c.registry.mu.Unlock()
	return n, err
}

type recorded struct {
	http.ResponseWriter
	registry *Registry
	request  *Request
}

// note notes the first status, before the client has it.
func (r *recorded) note(status int) {
	r.registry.mu.Lock()
	defer r.registry.mu.Unlock()
	if r.request.Status == 0 {
		r.request.Status = status
	}
}

func (r *recorded) WriteHeader(status int) {
	if status >= http.StatusOK { // others are on the way to an answer
		r.note(status)
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorded) Write(p []byte) (int, error) {
	r.note(http.StatusOK)
	return r.ResponseWriter.Write(p)
}

func (r *recorded) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// discarded takes an answer that nobody will see.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header         { return d.header }
func (d *discarded) WriteHeader(int)             {}
func (d *discarded) Write(p []byte) (int, error) { return len(p), nil }

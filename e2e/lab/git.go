package lab

import (
	"cmp"
	"crypto/subtle"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
)

// GitOptions say how a git server behaves. The zero value: plain HTTP, open to
// everybody, newest protocol.
type GitOptions struct {
	Bind       string // address to listen on; default 127.0.0.1. Set it where a pod must reach the server
	TLS        bool   // HTTPS by a certificate of an authority of its own: Git.CA
	ClientCert bool   // with TLS: demands a client certificate of that authority
	Username   string // basic authentication, where one of the two is set
	Password   string
	Bearer     string                          // a bearer token, asked for
	V0         bool                            // the server never hears of protocol v2
	Config     map[string]string               // set in every repository, "receive.advertiseAtomic": "false"
	Middleware func(http.Handler) http.Handler // injects faults: outermost, before authentication
}

// Git is a real git server: `git http-backend` behind net/http.
type Git struct {
	URL  string // of the server: http://127.0.0.1:port
	Root string // the directory that holds the bare repositories
	CA   *CA    // nil without TLS

	t        testing.TB
	config   map[string]string
	accepted atomic.Int64
	sent     atomic.Int64
	received atomic.Int64
	requests atomic.Int64
}

// NewGit starts a git server on the loopback address, which ends with the
// test. At most one GitOptions may be given.
func NewGit(t testing.TB, options ...GitOptions) *Git {
	t.Helper()
	var o GitOptions
	if len(options) > 0 {
		o = options[0]
	}
	g := &Git{Root: t.TempDir(), t: t, config: o.Config}

	handler := g.backend(o.V0)
	handler = authenticate(handler, o)
	if o.Middleware != nil {
		handler = o.Middleware(handler)
	}
	counted := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		g.requests.Add(1)
		handler.ServeHTTP(w, r)
	})

	server := httptest.NewUnstartedServer(counted)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if o.Bind != "" {
		listener, err := net.Listen("tcp", net.JoinHostPort(o.Bind, "0"))
		if err != nil {
			t.Fatal(err)
		}
		_ = server.Listener.Close()
		server.Listener = listener
	}
	server.Listener = &countingListener{server.Listener, g}
	if o.TLS {
		g.CA = NewCA(t)
		server.TLS = g.CA.Server(t, o.ClientCert, cmp.Or(o.Bind, "localhost"))
		server.EnableHTTP2 = true
		server.StartTLS()
	} else {
		server.Start()
	}
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	g.URL = server.URL
	return g
}

// Create makes an empty bare repository that accepts pushes, its HEAD on main,
// and returns its URL. The name may hold slashes.
func (g *Git) Create(name string) string {
	g.t.Helper()
	createBare(g.t, g.Dir(name), g.config)
	return g.RepoURL(name)
}

func createBare(t testing.TB, dir string, config map[string]string) {
	t.Helper()
	RunGit(t, "", "init", "--quiet", "--bare", "--initial-branch=main", dir)
	settings := map[string]string{
		"http.receivepack":             "true",
		"receive.advertisePushOptions": "true",
		"gc.auto":                      "0",
		"receive.autogc":               "false",
	}
	for key, value := range config {
		settings[key] = value
	}
	for key, value := range settings {
		RunGit(t, dir, "config", key, value)
	}
}

// RepoURL is where a client finds a repository.
func (g *Git) RepoURL(name string) string { return g.URL + "/" + name }

// Dir is where a repository lies on disk, for real git to look at.
func (g *Git) Dir(name string) string { return filepath.Join(g.Root, filepath.FromSlash(name)) }

// Configure sets one of a repository's settings.
func (g *Git) Configure(name, key, value string) {
	g.t.Helper()
	RunGit(g.t, g.Dir(name), "config", key, value)
}

// Hook installs a shell script as a repository's hook (update, pre-receive, …).
func (g *Git) Hook(name, hook, script string) {
	g.t.Helper()
	writeHook(g.t, g.Dir(name), hook, script)
}

func writeHook(t testing.TB, dir, hook, script string) {
	t.Helper()
	path := filepath.Join(dir, "hooks", hook)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	WriteProgram(t, path, []byte("#!/bin/sh\n"+script+"\n"))
}

// RefuseRefs makes a repository refuse pushes to refs below a prefix, as a
// forge does that knows branches and tags only.
func (g *Git) RefuseRefs(name, prefix string) {
	g.t.Helper()
	g.Hook(name, "update", `case "$1" in `+prefix+`*) echo "refs below `+prefix+` are not allowed here" >&2; exit 1;; esac`)
}

// Conns, Requests, Sent and Received count what the server saw so far:
// connections accepted, HTTP requests begun, bytes sent and received at the
// socket (headers, and with TLS its records, included).
func (g *Git) Conns() int64    { return g.accepted.Load() }
func (g *Git) Requests() int64 { return g.requests.Load() }
func (g *Git) Sent() int64     { return g.sent.Load() }
func (g *Git) Received() int64 { return g.received.Load() }

func (g *Git) backend(v0 bool) http.Handler {
	program := filepath.Join(strings.TrimSpace(RunGit(g.t, "", "--exec-path")), "git-http-backend")
	env := append(gitEnv(), "GIT_PROJECT_ROOT="+g.Root, "GIT_HTTP_EXPORT_ALL=1")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own := env
		if v0 {
			r.Header.Del("Git-Protocol") // newer backends read HTTP_GIT_PROTOCOL themselves
		} else if version := r.Header.Get("Git-Protocol"); version != "" {
			own = append(own[:len(own):len(own)], "GIT_PROTOCOL="+version)
		}
		if r.ContentLength < 0 && r.Body != nil {
			// CGI knows no chunked bodies; servers in the field spool them.
			spool, err := os.CreateTemp("", "lab-body")
			if err != nil {
				http.Error(w, err.Error(), http.StatusInternalServerError)
				return
			}
			defer os.Remove(spool.Name())
			defer spool.Close()
			n, err := io.Copy(spool, r.Body)
			if err == nil {
				_, err = spool.Seek(0, io.SeekStart)
			}
			if err != nil {
				http.Error(w, "body cut", http.StatusBadRequest)
				return
			}
			r.Body, r.ContentLength, r.TransferEncoding = io.NopCloser(spool), n, nil
			r.Header.Set("Content-Length", strconv.FormatInt(n, 10))
		}
		(&cgi.Handler{Path: program, Env: own, Stderr: io.Discard}).ServeHTTP(w, r)
	})
}

func authenticate(next http.Handler, o GitOptions) http.Handler {
	if o.Username == "" && o.Password == "" && o.Bearer == "" {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		username, password, _ := r.BasicAuth()
		good := same(username, o.Username) && same(password, o.Password)
		if o.Bearer != "" {
			good = same(r.Header.Get("Authorization"), "Bearer "+o.Bearer)
		}
		if !good {
			w.Header().Set("WWW-Authenticate", `Basic realm="lab"`)
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

type countingListener struct {
	net.Listener
	git *Git
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.git.accepted.Add(1)
	return &countingConn{conn, l.git}, nil
}

type countingConn struct {
	net.Conn
	git *Git
}

func (c *countingConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.git.received.Add(int64(n))
	return n, err
}

func (c *countingConn) Write(p []byte) (int, error) {
	// Before the client has it, who may ask at once what was sent.
	c.git.sent.Add(int64(len(p)))
	n, err := c.Conn.Write(p)
	c.git.sent.Add(int64(n - len(p)))
	return n, err
}

package lab

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/crypto/bcrypt"
)

// RegistryOptions says what kind of registry a test needs. The zero value is
// one on loopback over plain HTTP that asks for no credential.
type RegistryOptions struct {
	Bind     string // address to listen on; default 127.0.0.1. Set it where a build or a pod must reach the registry
	TLS      bool   // HTTPS with a certificate of the registry's own authority, see Registry.CA
	ClientCA bool   // with TLS: ask for a client certificate, see Registry.Secret
	Username string // ask for this account: basic authentication, or a token with Token
	Password string
	Token    bool   // bearer tokens from a token endpoint in place of basic authentication
	Volatile bool   // docker-registry keeps everything in memory: fast, for small images
	Realm    string // with Token: the token endpoint to name; default the registry's own
}

// Registry is a real registry behind a proxy in the test's process that
// records every request and injects faults.
type Registry struct {
	Host string // host:port that clients use
	URL  string // scheme://host:port
	CA   []byte // with TLS: the authority's certificate, PEM

	options    RegistryOptions
	clientCert []byte
	clientKey  []byte
	backend    http.Handler
	tokens     tokens

	mu       sync.Mutex // guards the account, too
	faults   []*Fault
	requests []*Request
	hook     func(http.ResponseWriter, *http.Request, http.Handler)
}

// NewRegistry starts Debian's docker-registry as a process with a file system
// below a temporary directory, or in memory, until the test ends. It knows tags, digests and
// deletion, and has no referrers API.
func NewRegistry(t testing.TB, options RegistryOptions) *Registry {
	t.Helper()
	dir := t.TempDir()
	storage := map[string]any{"delete": map[string]any{"enabled": true}}
	if options.Volatile {
		storage["inmemory"] = map[string]any{}
	} else {
		storage["filesystem"] = map[string]any{"rootdirectory": filepath.Join(dir, "data")}
	}
	config := map[string]any{
		"version": "0.1",
		"log":     map[string]any{"level": "info", "accesslog": map[string]any{"disabled": true}},
		"storage": storage,
		// docker-registry chooses the port and says so in its log.
		"http": map[string]any{"addr": "127.0.0.1:0", "secret": "lab"},
	}
	if options.Username != "" && !options.Token {
		hash, err := bcrypt.GenerateFromPassword([]byte(options.Password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "htpasswd")
		if err := os.WriteFile(file, []byte(options.Username+":"+string(hash)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		config["auth"] = map[string]any{"htpasswd": map[string]any{"realm": "lab", "path": file}}
	}
	// JSON is YAML.
	encoded, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "config.yml")
	if err := os.WriteFile(file, encoded, 0o600); err != nil {
		t.Fatal(err)
	}
	address := startRegistry(t, file)
	return serve(t, options, forward(address))
}

// NewMemoryRegistry is go-containerregistry's registry in the test's process:
// it has the referrers API, and nothing is left when the test ends.
func NewMemoryRegistry(t testing.TB, options RegistryOptions) *Registry {
	t.Helper()
	handler := registry.New(registry.WithReferrersSupport(true), registry.Logger(log.New(io.Discard, "", 0)))
	if options.Username != "" && !options.Token {
		handler = basic(handler, options.Username, options.Password)
	}
	return serve(t, options, handler)
}

// Repository is a repository's full name in this registry.
func (r *Registry) Repository(path string) string { return r.Host + "/" + path }

// Secret is what a secret for this registry holds: username and password,
// ca.crt, tls.crt and tls.key, where the registry asks for them.
func (r *Registry) Secret() map[string][]byte {
	secret := map[string][]byte{}
	if r.options.Username != "" {
		secret["username"] = []byte(r.options.Username)
		secret["password"] = []byte(r.options.Password)
	}
	if r.CA != nil {
		secret["ca.crt"] = r.CA
	}
	if r.clientCert != nil {
		secret["tls.crt"], secret["tls.key"] = r.clientCert, r.clientKey
	}
	return secret
}

// ReadSecret is Secret in the form that kaniko/registry's Options take: nil
// where the registry asks for nothing.
func (r *Registry) ReadSecret() func() (map[string][]byte, error) {
	if len(r.Secret()) == 0 {
		return nil
	}
	return func() (map[string][]byte, error) { return r.Secret(), nil }
}

// DockerConfig is Docker's config.json with the registry's account.
func (r *Registry) DockerConfig() []byte {
	auth := base64.StdEncoding.EncodeToString([]byte(r.options.Username + ":" + r.options.Password))
	return fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, r.Host, auth)
}

func startRegistry(t testing.TB, config string) (address string) {
	t.Helper()
	command := exec.Command(Tool(t, "docker-registry"), "serve", config)
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "OTEL_TRACES_EXPORTER=none"}
	server, err := StartProcess(command, filepath.Join(filepath.Dir(config), "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(0) })
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err = server.Ready(ctx, func(context.Context) error {
		log, err := os.ReadFile(server.Log)
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(log), "listening on ")
		var whole bool
		if address, _, whole = strings.Cut(rest, `"`); !whole {
			return errors.New("it does not listen")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// serve puts the proxy in front of a registry.
func serve(t testing.TB, options RegistryOptions, backend http.Handler) *Registry {
	t.Helper()
	r := &Registry{options: options, backend: backend}
	bind := cmp.Or(options.Bind, "127.0.0.1")
	listener, err := net.Listen("tcp", net.JoinHostPort(bind, "0"))
	if err != nil {
		t.Fatal(err)
	}
	r.Host = listener.Addr().String()
	server := httptest.NewUnstartedServer(r)
	// httptest opens a listener of its own before ours takes its place.
	_ = server.Listener.Close()
	server.Listener = listener
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	if options.TLS {
		authority := NewCA(t)
		r.CA = authority.PEM
		if options.ClientCA {
			r.clientCert, r.clientKey = authority.Issue(t, "client")
		}
		server.TLS = authority.Server(t, options.ClientCA, bind)
		server.StartTLS()
	} else {
		server.Start()
	}
	r.URL = server.URL
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return r
}

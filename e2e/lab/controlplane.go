package lab

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

// ControlPlane is a real Kubernetes API server with its etcd, on loopback: one
// for all tests of a process, started by the first that asks, gone when the
// process ends. The configuration is a cluster administrator's, without a limit
// of its own on requests; As makes others of it.
//
// RBAC, Pod Security and admission policies are in force. Nothing acts on what
// is written: there is no controller, no scheduler and no kubelet. A Job stays
// as it was created, a pod's service account must be created first, and a
// namespace that is deleted never goes away: every test takes one of its own.
func ControlPlane(t testing.TB) *rest.Config {
	t.Helper()
	controlPlane.Lock()
	defer controlPlane.Unlock()
	if controlPlane.config == nil {
		controlPlane.config = startControlPlane(t)
	}
	return rest.CopyConfig(controlPlane.config)
}

var controlPlane struct {
	sync.Mutex
	config *rest.Config
}

// As is a configuration for the same cluster as another user, who has the
// rights that RBAC gives to the name and the groups, and system:authenticated's.
// A service account is system:serviceaccount:NAMESPACE:NAME.
func As(config *rest.Config, user string, groups ...string) *rest.Config {
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{UserName: user, Groups: append([]string{"system:authenticated"}, groups...)}
	return config
}

// Namespace makes a namespace that nobody else has, with labels (among them those
// of Pod Security) and the service account default.
func Namespace(t testing.TB, config *rest.Config, labels map[string]string) string {
	t.Helper()
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels}}
	namespace, err = client.CoreV1().Namespaces().Create(t.Context(), namespace, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	_, err = client.CoreV1().ServiceAccounts(namespace.Name).Create(t.Context(), account, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	return namespace.Name
}

func startControlPlane(t testing.TB) *rest.Config {
	t.Helper()
	dir, err := os.MkdirTemp("", "towpath-control-plane-")
	if err != nil {
		t.Fatal(err)
	}
	if err := RemoveAtEnd(dir); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()

	socket := filepath.Join(dir, "etcd.sock")
	if _, err := StartProcess(exec.Command(Tool(t, "etcd"), EtcdArgs(dir, "unix://"+socket)...), filepath.Join(dir, "etcd.log")); err != nil {
		t.Fatal(err)
	}

	authority := NewCA(t)
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		WriteFile(t, path, content)
		return path
	}
	cert, key := authority.Issue(t, "127.0.0.1", "localhost")
	tokenCert, tokenKey := authority.Issue(t, "service-accounts")
	port, release := reservePort(t)
	defer release()
	server, err := StartProcess(exec.Command(Tool(t, "kube-apiserver"),
		"--etcd-servers=unix://"+socket,
		"--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(port), "--permit-port-sharing",
		"--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none",
		"--tls-cert-file="+file("server.crt", cert), "--tls-private-key-file="+file("server.key", key),
		"--client-ca-file="+file("ca.crt", authority.PEM),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file="+file("tokens.key", tokenKey), "--service-account-key-file="+file("tokens.crt", tokenCert),
		"--service-cluster-ip-range=10.96.0.0/24",
		"--authorization-mode=Node,RBAC", "--allow-privileged",
	), filepath.Join(dir, "kube-apiserver.log"))
	if err != nil {
		t.Fatal(err)
	}

	config := &rest.Config{Host: "https://127.0.0.1:" + strconv.Itoa(port), QPS: -1}
	config.CAData = authority.PEM
	config.CertData, config.KeyData = authority.User(t, "admin", "system:masters")
	if err := server.Ready(ctx, func(ctx context.Context) error { return ServesAPI(ctx, config) }); err != nil {
		t.Fatal(err)
	}
	return config
}

// EtcdArgs are for an etcd that keeps its data below a directory for as long as
// a test runs: a crash of the machine may lose it. Clients find it at a URL,
// unix:///PATH or http://HOST:PORT; nobody joins it.
func EtcdArgs(dir, url string) []string {
	return []string{
		"--data-dir=" + filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + url, "--listen-peer-urls=http://127.0.0.1:0",
		"--advertise-client-urls=http://127.0.0.1:0", // no client asks, and a socket's path is refused here
	}
}

// answerTime is for an API server that is ready to say so. One that is only coming
// up may take a question and never answer it.
const answerTime = 5 * time.Second

// ServesAPI tells whether an API server is ready, with the namespaces that
// every cluster has.
func ServesAPI(ctx context.Context, config *rest.Config) error {
	client, err := UnsharedClient(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	for _, path := range []string{"/readyz", "/api/v1/namespaces/default"} {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, config.Host+path, nil)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		answer, _ := io.ReadAll(io.LimitReader(response.Body, 1<<12))
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s\n%s", path, response.Status, answer)
		}
	}
	return nil
}

// UnsharedClient makes a connection of its own for each request. Those that clients
// share by default may have been made while an API server was coming up and be dead,
// which HTTP/2 notices after 45 seconds.
func UnsharedClient(config *rest.Config) (*http.Client, error) {
	secured, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	transport, err := rest.HTTPWrappersForConfig(config, &http.Transport{TLSClientConfig: secured, DisableKeepAlives: true})
	if err != nil {
		return nil, err
	}
	return &http.Client{Transport: transport}, nil
}

// reservePort keeps a port of the loopback address from everybody but servers
// that share ports (SO_REUSEPORT): the socket is bound and does not listen.
func reservePort(t testing.TB) (port int, release func()) {
	t.Helper()
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(socket, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(socket)
	if err != nil {
		t.Fatal(err)
	}
	return bound.(*unix.SockaddrInet4).Port, func() { unix.Close(socket) }
}

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"towpath.dev/towpath/e2e/lab"
)

// nodeName is how the one node is called.
const nodeName = "node"

// Node is a Kubernetes node with its control plane, as processes on a machine
// of their own within this one.
type Node struct {
	*machine
	Config *rest.Config // an administrator's

	authority *lab.CA
	programs  map[string]*program
}

// program is one that can be started again as it was.
type program struct {
	command func() *exec.Cmd
	running *lab.Process
}

// startNode starts everything and waits until pods can run.
func startNode(t testing.TB) *Node {
	t.Helper()
	// Sockets are below it, whose paths must be short.
	dir, err := os.MkdirTemp("", "towpath-node-")
	if err != nil {
		t.Fatal(err)
	}
	if err := lab.RemoveAtEnd(dir); err != nil {
		t.Fatal(err)
	}
	for _, sub := range []string{"logs", "tmp"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	n := &Node{machine: newMachine(t, dir), authority: lab.NewCA(t), programs: map[string]*program{}}
	t.Cleanup(func() {
		if err := n.keepLogs(logsKept()); err != nil {
			t.Log(err)
		}
	})
	n.startContainerd(t)
	n.startAPIServer(t)
	if err := n.programs["kube-apiserver"].running.Ready(ctx, func(ctx context.Context) error { return lab.ServesAPI(ctx, n.Config) }); err != nil {
		t.Fatal(err)
	}
	n.startControllers(t)
	if err := n.programs["containerd"].running.Ready(ctx, func(ctx context.Context) error { return n.loadPause(ctx, t) }); err != nil {
		t.Fatal(err)
	}
	n.startKubelet(t)
	client, err := kubernetes.NewForConfig(n.Config)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.programs["kubelet"].running.Ready(ctx, func(ctx context.Context) error { return nodeReady(ctx, client) }); err != nil {
		t.Fatal(err)
	}
	return n
}

// start starts a program on the machine; its log has its name.
func (n *Node) start(t testing.TB, name string, args ...string) {
	t.Helper()
	path := lab.Tool(t, name)
	p := &program{command: func() *exec.Cmd {
		cmd := exec.Command(path, args...)
		cmd.Dir = n.dir
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + n.dir, "TMPDIR=" + n.path("tmp"),
			"KUBECONFIG=" + n.path("admin.kubeconfig"), "RUNTIME_NAMESPACE=" + fluxNamespace,
		}
		return cmd
	}}
	n.programs[name] = p
	n.startAgain(t, name)
}

func (n *Node) startAgain(t testing.TB, name string) {
	t.Helper()
	var err error
	p := n.programs[name]
	if p.running, err = n.inside.Start(p.command(), n.log(name)); err != nil {
		t.Fatal(err)
	}
}

// file writes one of the node's files.
func (n *Node) file(t testing.TB, name string, content []byte) string {
	t.Helper()
	path := n.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	lab.WriteFile(t, path, content)
	return path
}

// kubeconfig makes an identity and writes how to use it.
func (n *Node) kubeconfig(t testing.TB, name, user string, groups ...string) string {
	t.Helper()
	config := clientcmdapi.NewConfig()
	cert, key := n.authority.User(t, user, groups...)
	config.Clusters["node"] = &clientcmdapi.Cluster{Server: n.Config.Host, CertificateAuthorityData: n.authority.PEM}
	config.AuthInfos["user"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key}
	config.Contexts["node"] = &clientcmdapi.Context{Cluster: "node", AuthInfo: "user"}
	config.CurrentContext = "node"
	path := n.path(name + ".kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		t.Fatal(err)
	}
	return path
}

// nodeReady tells whether pods can be placed.
func nodeReady(ctx context.Context, client kubernetes.Interface) error {
	node, err := client.CoreV1().Nodes().Get(ctx, nodeName, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if len(node.Spec.Taints) > 0 {
		return fmt.Errorf("the node has taints: %v", node.Spec.Taints)
	}
	for _, condition := range node.Status.Conditions {
		if condition.Type == corev1.NodeReady {
			if condition.Status == corev1.ConditionTrue {
				return nil
			}
			return fmt.Errorf("the node is not ready: %s", condition.Message)
		}
	}
	return errors.New("the node has said nothing yet")
}

// trustRegistry lets the node pull from a registry over plain HTTP, or with its
// own authority.
func (n *Node) trustRegistry(t testing.TB, registry *lab.Registry) {
	t.Helper()
	hosts := fmt.Sprintf("server = %[1]q\n[host.%[1]q]\n  capabilities = [\"pull\", \"resolve\"]\n", registry.URL)
	if registry.CA != nil {
		hosts += fmt.Sprintf("  ca = %q\n", n.file(t, filepath.Join("registries", registry.Host, "ca.crt"), registry.CA))
	}
	n.file(t, filepath.Join("registries", registry.Host, "hosts.toml"), []byte(hosts))
}

// keepLogs copies what everything printed to a directory, replacing what is there.
func (n *Node) keepLogs(to string) error {
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	return os.CopyFS(to, os.DirFS(n.path("logs")))
}

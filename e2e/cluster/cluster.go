// Package cluster is a real Kubernetes cluster for tests, with Flux's
// controllers in it and servers that its pods reach: an API server, a kubelet,
// containerd, runc and kube-proxy as processes on a machine of their own within
// this one, or the cluster that TOWPATH_E2E_KUBECONFIG names.
//
// It needs root and the programs that `e2e/tools/install node flux` installs.
// What it changes on this machine ends with the process that started it,
// however that ends. The network plug-in enforces no NetworkPolicy, and
// Debian's runc knows no user namespaces for pods.
package cluster

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"towpath.dev/towpath/e2e/lab"
)

const (
	// kubeconfigVariable names a cluster to use in place of one of our own.
	// Flux's controllers must be in it, with nothing to apply, and its container
	// runtime must pull over plain HTTP from addressVariable.
	kubeconfigVariable = "TOWPATH_E2E_KUBECONFIG"
	// addressVariable is with it this machine's address as pods reach it.
	addressVariable = "TOWPATH_E2E_ADDRESS"
)

// Cluster is where tests run.
type Cluster struct {
	Config     *rest.Config // an administrator's
	Client     kubernetes.Interface
	Kubeconfig string // the administrator's, as a file
	Address    string // of this machine, where pods and Flux reach its servers
	Node       *Node  // nil where the cluster was given
}

// Up starts a cluster, or takes the one that was given. It ends with the test.
func Up(t testing.TB) *Cluster {
	t.Helper()
	c := &Cluster{Kubeconfig: os.Getenv(kubeconfigVariable), Address: os.Getenv(addressVariable)}
	if c.Kubeconfig != "" {
		if net.ParseIP(c.Address) == nil {
			t.Fatalf("%s must be this machine's address as pods of the cluster of %s reach it", addressVariable, kubeconfigVariable)
		}
		var err error
		if c.Config, err = clientcmd.BuildConfigFromFlags("", c.Kubeconfig); err != nil {
			t.Fatal(err)
		}
	} else {
		c.Node = startNode(t)
		c.Config, c.Kubeconfig, c.Address = c.Node.Config, c.Node.path("admin.kubeconfig"), c.Node.tests.String()
		c.Node.startNames(t, c)
		c.Node.startFlux(t, c)
	}
	var err error
	if c.Client, err = kubernetes.NewForConfig(c.Config); err != nil {
		t.Fatal(err)
	}
	return c
}

// Kubectl runs kubectl to its end and returns what it printed.
func (c *Cluster) Kubectl(t testing.TB, stdin string, args ...string) string {
	t.Helper()
	// Cleanups run when the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Minute)
	defer cancel()
	out, err := c.TryKubectl(ctx, t, stdin, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TryKubectl is Kubectl for what may fail; the error has what kubectl said.
func (c *Cluster) TryKubectl(ctx context.Context, t testing.TB, stdin string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(ctx, lab.Tool(t, "kubectl"), args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig)
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String(), nil
}

// Apply applies manifests.
func (c *Cluster) Apply(t testing.TB, manifests string) {
	t.Helper()
	c.Kubectl(t, manifests, "apply", "--server-side", "--force-conflicts", "-f", "-")
}

// Registry starts a registry that the cluster pulls from and pods reach.
func (c *Cluster) Registry(t testing.TB, options lab.RegistryOptions) *lab.Registry {
	t.Helper()
	options.Bind = c.Address
	registry := lab.NewRegistry(t, options)
	if c.Node != nil {
		c.Node.trustRegistry(t, registry)
	}
	return registry
}

// Git starts a git server that pods and Flux reach.
func (c *Cluster) Git(t testing.TB, options lab.GitOptions) *lab.Git {
	t.Helper()
	options.Bind = c.Address
	return lab.NewGit(t, options)
}

// SSH starts a git server over SSH that pods and Flux reach.
func (c *Cluster) SSH(t testing.TB, options lab.SSHOptions) *lab.SSH {
	t.Helper()
	options.Bind = c.Address
	return lab.NewSSH(t, options)
}

// logsKept is where the logs of the last node are found.
func logsKept() string { return filepath.Join(filepath.Dir(lab.ToolDir()), "node-logs") }

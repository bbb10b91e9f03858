package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"k8s.io/client-go/rest"

	"towpath.dev/towpath/e2e/lab"
)

const (
	services    = "10.96.0.0/16"
	firstOf     = "10.96.0.1"  // the API server's own service
	namesAt     = "10.96.0.10" // the service that answers for names
	apiPort     = "6443"
	pausedImage = "towpath.dev/pause:1" // nobody asks a registry for it
)

func (n *Node) startAPIServer(t testing.TB) {
	t.Helper()
	socket := "unix://" + n.path("etcd.sock")
	n.start(t, "etcd", lab.EtcdArgs(n.dir, socket)...)

	cert, key := n.authority.Issue(t, n.node.String(), firstOf, "127.0.0.1", "kubernetes", "kubernetes.default", "kubernetes.default.svc")
	tokenCert, tokenKey := n.authority.Issue(t, "service-accounts")
	kubeletCert, kubeletKey := n.authority.User(t, "kube-apiserver-kubelet-client", "system:masters")
	n.start(t, "kube-apiserver",
		"--etcd-servers="+socket,
		"--bind-address=0.0.0.0", "--secure-port="+apiPort, "--advertise-address="+n.node.String(),
		"--tls-cert-file="+n.file(t, "server.crt", cert), "--tls-private-key-file="+n.file(t, "server.key", key),
		"--client-ca-file="+n.file(t, "ca.crt", n.authority.PEM),
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-signing-key-file="+n.file(t, "tokens.key", tokenKey), "--service-account-key-file="+n.file(t, "tokens.crt", tokenCert),
		"--kubelet-client-certificate="+n.file(t, "kubelet-client.crt", kubeletCert), "--kubelet-client-key="+n.file(t, "kubelet-client.key", kubeletKey),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-cluster-ip-range="+services,
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--audit-policy-file="+n.file(t, "audit.yaml", []byte(auditPolicy)), "--audit-log-path="+n.path("audit.log"),
	)
	n.Config = &rest.Config{Host: "https://" + net.JoinHostPort(n.node.String(), apiPort), QPS: -1}
	n.Config.CAData = n.authority.PEM
	n.Config.CertData, n.Config.KeyData = n.authority.User(t, "admin", "system:masters")
	n.kubeconfig(t, "admin", "admin", "system:masters")
}

// auditPolicy records what service accounts ask for, so that tests can count.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    userGroups: ["system:serviceaccounts:kube-system"]
  - level: Metadata
    userGroups: ["system:serviceaccounts"]
  - level: None
`

func (n *Node) startControllers(t testing.TB) {
	t.Helper()
	n.start(t, "kube-controller-manager",
		"--kubeconfig="+n.kubeconfig(t, "controllers", "system:kube-controller-manager"),
		"--service-account-private-key-file="+n.path("tokens.key"), "--root-ca-file="+n.path("ca.crt"),
		"--use-service-account-credentials", "--leader-elect=false", "--bind-address=127.0.0.1",
	)
	n.start(t, "kube-scheduler",
		"--kubeconfig="+n.kubeconfig(t, "scheduler", "system:kube-scheduler"), "--leader-elect=false", "--bind-address=127.0.0.1",
	)
	n.start(t, "kube-proxy",
		"--kubeconfig="+n.kubeconfig(t, "proxy", "system:kube-proxy"), "--proxy-mode=iptables", "--hostname-override="+nodeName,
		"--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0",
	)
}

// startNames starts CoreDNS beside the API server, as the service that pods ask.
func (n *Node) startNames(t testing.TB, c *Cluster) {
	t.Helper()
	n.start(t, "coredns", "-conf", n.file(t, "Corefile", fmt.Appendf(nil, `.:53 {
    errors
    health %[1]s:9804
    kubernetes cluster.local in-addr.arpa {
        kubeconfig %[2]s
    }
    forward . %[3]s
    cache 5
}
`, n.node, n.path("admin.kubeconfig"), n.path("resolv.conf"))))
	c.Apply(t, fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: %[1]s
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-node, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [%[2]q], conditions: {ready: true}}]
`, namesAt, n.node))
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err := n.programs["coredns"].running.Ready(ctx, func(ctx context.Context) error { return answers(ctx, fmt.Sprintf("http://%s:9804/health", n.node)) })
	if err != nil {
		t.Fatal(err)
	}
}

func (n *Node) startContainerd(t testing.TB) {
	t.Helper()
	n.file(t, "cni/10-bridge.conflist", fmt.Appendf(nil, `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "pods0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}], "dataDir": %q}
  }, {"type": "portmap", "capabilities": {"portMappings": true}}]
}`, n.pods.String(), n.path("addresses")))
	config := n.file(t, "containerd.toml", fmt.Appendf(nil, `version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[4]q
  # A machine that is itself a guest may not lower scores.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %[5]q
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = %[6]q
`, n.path("containerd"), n.path("run"), n.path("containerd.sock"), pausedImage, n.path("cni"), n.path("registries")))
	n.start(t, "containerd", "--config", config)
}

// loadPause gives containerd the image that holds a pod's namespaces.
func (n *Node) loadPause(ctx context.Context, t testing.TB) error {
	archive := n.path("pause.tar")
	if _, err := os.Stat(archive); errors.Is(err, os.ErrNotExist) {
		tag, err := name.NewTag(pausedImage)
		if err != nil {
			return err
		}
		if err := tarball.WriteToFile(archive, tag, lab.Pause(t)); err != nil {
			return err
		}
	}
	_, err := n.run(ctx, "ctr", "--address", n.path("containerd.sock"), "--namespace", "k8s.io", "images", "import", "--no-unpack=false", archive)
	return err
}

func (n *Node) startKubelet(t testing.TB) {
	t.Helper()
	config := n.file(t, "kubelet.yaml", fmt.Appendf(nil, `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[1]q}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: %[2]q
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: %[3]q
resolvConf: %[4]q
clusterDNS: [%[6]q]
clusterDomain: cluster.local
podLogsDir: %[5]q
syncFrequency: 10s
# A pod has no bound of its own: without this one, a fork bomb takes the node.
podPidsLimit: 1024
# Tests kill what runs in pods and wait for it to come back.
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
# This disk is shared with whatever else is on it.
evictionHard: {memory.available: 50Mi, nodefs.available: 1%%, nodefs.inodesFree: 1%%, imagefs.available: 1%%, imagefs.inodesFree: 1%%}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`, n.path("ca.crt"), n.cgroup, "unix://"+n.path("containerd.sock"), n.path("resolv.conf"), n.path("logs", "pods"), namesAt))
	n.start(t, "kubelet",
		"--config="+config, "--kubeconfig="+n.kubeconfig(t, "kubelet", "system:node:"+nodeName, "system:nodes"),
		"--hostname-override="+nodeName, "--node-ip="+n.node.String(), "--root-dir="+n.path("kubelet"),
	)
}

package deploy

import (
	"net/netip"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"

	"towpath.dev/towpath/config"
)

// TestNothingListens: no Service, no port, no right over the whole cluster.
func TestNothingListens(t *testing.T) {
	for _, object := range render(t, overlay) {
		switch kind := object.GetKind(); kind {
		case "Service", "Ingress", "ClusterRole", "ClusterRoleBinding", "Secret":
			t.Errorf("%s %s", kind, object.GetName())
		case "Deployment":
			deployment := as[appsv1.Deployment](t, object)
			for _, c := range deployment.Spec.Template.Spec.Containers {
				if len(c.Ports) > 0 || c.LivenessProbe.Exec == nil || c.StartupProbe.Exec == nil || c.ReadinessProbe != nil {
					t.Errorf("container %s: ports %v, probes %v %v", c.Name, c.Ports, c.LivenessProbe, c.StartupProbe)
				}
				if c.Image != towpathImage {
					t.Errorf("container %s runs %s", c.Name, c.Image)
				}
			}
		}
	}
}

// TestDaemonIsRestricted: the daemon's pod is one that Pod Security's strictest
// profile admits, with a root that cannot be written to.
func TestDaemonIsRestricted(t *testing.T) {
	c := install(t)
	for _, object := range c.objects {
		if object.GetKind() != "Deployment" {
			continue
		}
		template := as[appsv1.Deployment](t, object).Spec.Template
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "daemon", Labels: template.Labels}, Spec: template.Spec}
		pods := c.as("system:serviceaccount:kube-system:replicaset-controller", "system:masters").CoreV1().Pods("towpath")
		made, err := pods.Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err != nil {
			t.Fatal(err)
		}
		for _, container := range made.Spec.Containers {
			if !*container.SecurityContext.ReadOnlyRootFilesystem || container.Resources.Limits.Memory().IsZero() || container.Resources.Limits.StorageEphemeral().IsZero() {
				t.Errorf("%+v", container)
			}
		}
		privileged := made.DeepCopy()
		privileged.ObjectMeta = metav1.ObjectMeta{Name: "rogue"}
		privileged.Spec.Containers[0].SecurityContext.AllowPrivilegeEscalation = new(true)
		if _, err := pods.Create(t.Context(), privileged, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil {
			t.Error("the namespace admits a pod that is not restricted")
		}
		return
	}
	t.Error("there is no Deployment")
}

// TestNetwork: nothing is let in, and builds reach no address that hands out
// credentials or belongs to the cluster. What enforces it is not here: the
// policies are read as Kubernetes says they mean.
func TestNetwork(t *testing.T) {
	var policies []networkingv1.NetworkPolicy
	for _, object := range render(t, overlay) {
		if object.GetKind() == "NetworkPolicy" {
			policies = append(policies, *as[networkingv1.NetworkPolicy](t, object))
		}
	}
	for _, namespace := range []string{"towpath", "towpath-builds"} {
		denied := false
		for _, p := range policies {
			if p.Namespace != namespace {
				continue
			}
			if len(p.Spec.Ingress) > 0 {
				t.Errorf("%s/%s lets somebody in", namespace, p.Name)
			}
			all := len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) == 0
			denied = denied || all && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && len(p.Spec.Egress) == 0
		}
		if !denied {
			t.Errorf("%s: nothing denies what no policy allows", namespace)
		}
	}

	reach := func(namespace, address string, port int) bool {
		return slices.ContainsFunc(policies, func(p networkingv1.NetworkPolicy) bool {
			return p.Namespace == namespace && slices.ContainsFunc(p.Spec.Egress, func(rule networkingv1.NetworkPolicyEgressRule) bool {
				return allows(t, rule, netip.MustParseAddr(address), port)
			})
		})
	}
	for _, address := range []string{"1.1.1.1", "140.82.121.4", "2606:4700:4700::1111", "9.255.255.255", "172.15.0.1", "172.32.0.1", "192.169.0.1"} {
		if !reach("towpath-builds", address, 443) || !reach("towpath", address, 443) {
			t.Errorf("%s is not reached", address)
		}
	}
	for _, address := range []string{
		"10.96.0.1", "10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "127.0.0.1", "0.0.0.0", "198.18.0.1", "224.0.0.1", "255.255.255.255",
		"fc00::1", "fd12::1", "::1", "ff02::1", "64:ff9b::a00:1", "::ffff:10.0.0.1", "2002:a00:1::1",
	} {
		if reach("towpath-builds", address, 443) {
			t.Errorf("a build reaches %s", address)
		}
	}
	for _, never := range config.NeverReached() {
		for _, namespace := range []string{"towpath", "towpath-builds"} {
			if reach(namespace, never.Addr().String(), 443) || reach(namespace, never.Addr().String(), 80) || never.Bits() < 32 && reach(namespace, "169.254.169.254", 80) {
				t.Errorf("%s reaches %s", namespace, never)
			}
		}
	}
	if !reach("towpath", "10.96.0.1", 443) || !reach("towpath", "192.168.7.7", 6443) || reach("towpath", "10.0.0.1", 8080) {
		t.Error("Towpath reaches not the API server, or more than its ports")
	}
}

// allows is an egress rule's word on an address; what it says of pods is not of
// addresses.
func allows(t *testing.T, rule networkingv1.NetworkPolicyEgressRule, address netip.Addr, port int) bool {
	t.Helper()
	if len(rule.Ports) > 0 && !slices.ContainsFunc(rule.Ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port == nil || *p.Port == intstr.FromInt(port) }) {
		return false
	}
	inside := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(address) }
	return len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(to networkingv1.NetworkPolicyPeer) bool {
		return to.IPBlock != nil && inside(to.IPBlock.CIDR) && !slices.ContainsFunc(to.IPBlock.Except, inside)
	})
}

func as[T any](t *testing.T, object *unstructured.Unstructured) *T {
	t.Helper()
	var typed T
	if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(object.Object, &typed, true); err != nil {
		t.Fatalf("%s %s: %v", object.GetKind(), object.GetName(), err)
	}
	return &typed
}

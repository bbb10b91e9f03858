//go:build cluster

package cluster

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const (
	// metadataAddress is where clouds tell programs who they are, and hand out
	// credentials.
	metadataAddress = "169.254.169.254"
	// metadataWord is what the stand-in for such a server tells everybody.
	metadataWord = "credentials-for-whoever-asks"
)

// startMetadata has the stand-in answer at that address on the node: no build asks
// the server of the machine that runs the test.
func (s *siege) startMetadata(t *testing.T) {
	t.Helper()
	for _, verb := range []string{"add", "del"} {
		change := func(ctx context.Context) {
			if _, err := s.Node.run(ctx, "ip", "address", verb, metadataAddress+"/32", "dev", "lo"); err != nil {
				t.Error(err)
			}
		}
		if verb == "del" {
			t.Cleanup(func() { change(context.WithoutCancel(t.Context())) })
			continue
		}
		change(t.Context())
	}
	server, err := s.Node.inside.Start(exec.Command(thiefProgram(t), "tell", metadataAddress+":80", metadataWord), s.Node.log("metadata"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop(0) })
}

// nodeAddress is where pods reach the node that they are on.
func (s *siege) nodeAddress(t *testing.T) string {
	t.Helper()
	nodes, err := s.Client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, address := range nodes.Items[0].Status.Addresses {
		if address.Type == "InternalIP" {
			return address.Address
		}
	}
	t.Fatal("the node has no address")
	return ""
}

// reachesNobody judges a build that dialled addresses which it has no business
// with. Where the node's network plug-in enforces no policy the test says so, and
// reads the policies that are in the cluster as Kubernetes says they mean.
func reachesNobody(t *testing.T, s *siege, o *outcome) {
	var reached, dialled []string
	for line := range strings.Lines(o.log()) {
		if verdict, address, found := strings.Cut(strings.TrimSpace(line), " "); found && (verdict == "reached" || verdict == "held") {
			address, _, _ = strings.Cut(address, " ")
			if _, err := netip.ParseAddrPort(address); err != nil {
				continue
			}
			dialled = append(dialled, address)
			if verdict == "reached" {
				reached = append(reached, address)
			}
		}
	}
	if len(dialled) < 5 {
		t.Errorf("dialled was %v alone:\n%s", dialled, o.log())
	}
	if len(reached) > 0 {
		t.Logf("NOT ENFORCED HERE: this node's network plug-in knows no NetworkPolicy, and a build reached %v. The policies are read instead.", reached)
	}
	policies, err := s.Client.NetworkingV1().NetworkPolicies(buildsNamespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	denied := slices.ContainsFunc(policies.Items, func(p networkingv1.NetworkPolicy) bool {
		return len(p.Spec.PodSelector.MatchLabels)+len(p.Spec.PodSelector.MatchExpressions) == 0 && len(p.Spec.Egress)+len(p.Spec.Ingress) == 0 && len(p.Spec.PolicyTypes) == 2
	})
	if !denied {
		t.Errorf("no policy denies what none allows: %d policies", len(policies.Items))
	}
	// Some more, which nobody dials from here: they would lead out of this machine.
	for _, address := range append(dialled, "100.100.100.200:80", "168.63.129.16:80", "192.0.0.192:80", "[fd00:ec2::254]:80", "10.0.0.1:443", "172.16.0.1:443", "192.168.0.1:443", "[fd12::1]:443") {
		for _, policy := range policies.Items {
			if len(policy.Spec.Ingress) > 0 {
				t.Errorf("policy %s lets somebody into a build", policy.Name)
			}
			for _, rule := range policy.Spec.Egress {
				if letsOut(t, rule, netip.MustParseAddrPort(address)) {
					t.Errorf("policy %s lets a build reach %s", policy.Name, address)
				}
			}
		}
	}
}

// letsOut is a rule's word on an address outside the cluster's selectors.
func letsOut(t *testing.T, rule networkingv1.NetworkPolicyEgressRule, to netip.AddrPort) bool {
	t.Helper()
	port := func(p networkingv1.NetworkPolicyPort) bool {
		return p.Port == nil || *p.Port == intstr.FromInt32(int32(to.Port())) && (p.Protocol == nil || *p.Protocol == "TCP")
	}
	inside := func(network string) bool { return netip.MustParsePrefix(network).Contains(to.Addr()) }
	return (len(rule.Ports) == 0 || slices.ContainsFunc(rule.Ports, port)) &&
		(len(rule.To) == 0 || slices.ContainsFunc(rule.To, func(peer networkingv1.NetworkPolicyPeer) bool {
			return peer.IPBlock != nil && inside(peer.IPBlock.CIDR) && !slices.ContainsFunc(peer.IPBlock.Except, inside)
		}))
}

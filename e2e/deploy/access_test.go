package deploy

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestRights is all that the two accounts may do, as the API server tells it,
// beyond what every account may.
func TestRights(t *testing.T) {
	c := install(t)
	want := map[string][]string{
		"towpath-builds": {
			"batch jobs: create delete get list patch watch",
			"events: list",
			"pods/log: get",
			"pods: get list watch",
		},
		"towpath": {"coordination.k8s.io leases [towpath]: get update watch"},
		"flux-system": {
			"kustomize.toolkit.fluxcd.io kustomizations: get list watch",
			"source.toolkit.fluxcd.io gitrepositories [flux-system]: get list patch watch",
		},
		"default": nil, "kube-system": nil, "no-such-namespace": nil,
	}
	for _, namespace := range []string{"towpath-builds", "towpath", "flux-system", "default", "kube-system", "no-such-namespace"} {
		nobody := c.rules(t, "system:serviceaccount:default:default", namespace)
		got := slices.DeleteFunc(c.rules(t, towpathAccount, namespace), func(rule string) bool { return slices.Contains(nobody, rule) })
		if diff := cmp.Diff(want[namespace], got); diff != "" && len(want[namespace])+len(got) > 0 {
			t.Errorf("Towpath in %s (-want +got):\n%s", namespace, diff)
		}
		if diff := cmp.Diff(nobody, c.rules(t, "system:serviceaccount:towpath-builds:build", namespace)); diff != "" {
			t.Errorf("a build in %s (-want +got):\n%s", namespace, diff)
		}
	}
}

func (c *cluster) rules(t *testing.T, user, namespace string) []string {
	t.Helper()
	review := &authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: namespace}}
	got, err := c.as(user).AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(), review, metav1.CreateOptions{})
	if err != nil || got.Status.Incomplete {
		t.Fatalf("%v %+v", err, got)
	}
	var rules []string
	for _, rule := range got.Status.ResourceRules {
		slices.Sort(rule.Verbs)
		text := strings.Join(rule.APIGroups, ",") + " " + strings.Join(rule.Resources, ",")
		if len(rule.ResourceNames) > 0 {
			text += fmt.Sprint(" ", rule.ResourceNames)
		}
		rules = append(rules, strings.TrimSpace(text)+": "+strings.Join(rule.Verbs, " "))
	}
	slices.Sort(rules)
	return rules
}

// TestTried tries what a thief of the token would.
func TestTried(t *testing.T) {
	c := install(t)
	daemon, ctx := c.as(towpathAccount), t.Context()
	tries := map[string]func() error{
		"a token of its own": func() error {
			_, err := daemon.CoreV1().ServiceAccounts("towpath").CreateToken(ctx, "towpath", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"a token of the builds'": func() error {
			_, err := daemon.CoreV1().ServiceAccounts("towpath-builds").CreateToken(ctx, "build", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
			return err
		},
		"a pod": func() error {
			_, err := daemon.CoreV1().Pods("towpath-builds").Create(ctx, podOf(validJob("mine")), metav1.CreateOptions{})
			return err
		},
		"exec": func() error {
			return daemon.CoreV1().RESTClient().Post().Namespace("towpath-builds").Resource("pods").Name("x").SubResource("exec").Do(ctx).Error()
		},
		"the end of every Job": func() error {
			return daemon.BatchV1().Jobs("towpath-builds").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		},
		"the Jobs of everybody": func() error {
			_, err := daemon.BatchV1().Jobs("").List(ctx, metav1.ListOptions{})
			return err
		},
		"the policy's pins": func() error {
			_, err := daemon.CoreV1().ConfigMaps("towpath").Patch(ctx, "towpath-admission", types.MergePatchType, []byte(`{"data": {"kaniko": "evil"}}`), metav1.PatchOptions{})
			return err
		},
		"the policy": func() error {
			return daemon.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, "towpath-builds", metav1.DeleteOptions{})
		},
		"a Lease more": func() error {
			_, err := daemon.CoordinationV1().Leases("towpath").Create(ctx, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "more"}}, metav1.CreateOptions{})
			return err
		},
		"another Lease": func() error {
			_, err := daemon.CoordinationV1().Leases("towpath").Get(ctx, "other", metav1.GetOptions{})
			return err
		},
		"another namespace's Lease": func() error {
			_, err := daemon.CoordinationV1().Leases("kube-system").Get(ctx, "towpath", metav1.GetOptions{})
			return err
		},
		"the nodes": func() error { _, err := daemon.CoreV1().Nodes().List(ctx, metav1.ListOptions{}); return err },
		"the namespaces": func() error {
			_, err := daemon.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
			return err
		},
	}
	for _, namespace := range []string{"", "towpath", "towpath-builds", "flux-system", "default", "kube-system"} {
		tries["the secrets of "+namespace] = func() error {
			_, err := daemon.CoreV1().Secrets(namespace).List(ctx, metav1.ListOptions{})
			return err
		}
		if namespace != "" {
			tries["one secret of "+namespace] = func() error {
				_, err := daemon.CoreV1().Secrets(namespace).Get(ctx, "registry", metav1.GetOptions{})
				return err
			}
		}
		if namespace != "" && namespace != "towpath-builds" {
			tries["a Job in "+namespace] = func() error {
				job := validJob("mine")
				job.Namespace = namespace
				_, err := daemon.BatchV1().Jobs(namespace).Create(ctx, job, metav1.CreateOptions{})
				return err
			}
			tries["the pods of "+namespace] = func() error {
				_, err := daemon.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
				return err
			}
		}
	}
	for name, try := range tries {
		if err := try(); !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", name, err)
		}
	}
}

// TestWhatItDoes is what Towpath does all day.
func TestWhatItDoes(t *testing.T) {
	c := install(t)
	daemon, ctx := c.as(towpathAccount), t.Context()
	jobs, pods := daemon.BatchV1().Jobs("towpath-builds"), daemon.CoreV1().Pods("towpath-builds")
	made, err := jobs.Create(ctx, validJob("does"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"reads a Job":     second(jobs.Get(ctx, made.Name, metav1.GetOptions{})),
		"lists Jobs":      second(jobs.List(ctx, metav1.ListOptions{})),
		"lists pods":      second(pods.List(ctx, metav1.ListOptions{})),
		"removes a Job":   jobs.Delete(ctx, made.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}),
		"reads its Lease": second(daemon.CoordinationV1().Leases("towpath").Get(ctx, "towpath", metav1.GetOptions{})),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := pods.GetLogs("no-such-pod", &corev1.PodLogOptions{}).Do(ctx).Error(); !apierrors.IsNotFound(err) {
		t.Errorf("reads logs: %v", err)
	}
	watch, err := jobs.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	watch.Stop()
	lease, err := daemon.CoordinationV1().Leases("towpath").Get(ctx, "towpath", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	lease.Spec.HolderIdentity = new("towpath-0")
	if _, err := daemon.CoordinationV1().Leases("towpath").Update(ctx, lease, metav1.UpdateOptions{}); err != nil {
		t.Errorf("holds its Lease: %v", err)
	}
	// Flux applies its manifests again and again: the holder stays.
	c.apply(t, c.objects...)
	lease, err = daemon.CoordinationV1().Leases("towpath").Get(ctx, "towpath", metav1.GetOptions{})
	if err != nil || lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity != "towpath-0" {
		t.Errorf("after another apply the Lease is %+v, %v", lease.Spec, err)
	}
}

func second[T any](_ T, err error) error { return err }

// TestAsksFlux: of the one GitRepository Towpath may change the annotation that
// asks for a pull, and of Flux nothing else.
func TestAsksFlux(t *testing.T) {
	c := install(t)
	repositories, err := c.resource(c.config(towpathAccount), gitRepository("flux-system"))
	if err != nil {
		t.Fatal(err)
	}
	patch := func(name, change string, subresources ...string) error {
		_, err := repositories.Patch(t.Context(), name, types.MergePatchType, []byte(change), metav1.PatchOptions{}, subresources...)
		return err
	}
	for range 2 { // the first adds it
		if err := patch("flux-system", `{"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "2026-11-22T00:00:00Z"}}}`); err != nil {
			t.Errorf("asks for a pull: %v", err)
		}
	}
	if _, err := repositories.Get(t.Context(), "flux-system", metav1.GetOptions{}); err != nil {
		t.Errorf("reads what Flux fetched: %v", err)
	}
	if _, err := repositories.List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=flux-system"}); err != nil {
		t.Errorf("watches what Flux fetched: %v", err)
	}
	for _, test := range []struct{ name, change, says string }{
		{"another source", `{"spec": {"url": "https://evil.example.com/fleet.git"}}`, "may not change the spec"},
		{"a source at rest", `{"spec": {"suspend": true}}`, "may not change the spec"},
		{"no verification", `{"spec": {"verify": null, "interval": "24h"}}`, "may not change the spec"},
		{"another annotation", `{"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/reconcile": "disabled"}}}`, "no annotation of a GitRepository but"},
		{"an annotation less", `{"metadata": {"annotations": {"note": null}}}`, "no annotation of a GitRepository but"},
		{"an annotation's value", `{"metadata": {"annotations": {"note": "changed"}}}`, "no annotation of a GitRepository but"},
		{"a label", `{"metadata": {"labels": {"team": "other"}}}`, "labels, finalizers or owners"},
		{"a finalizer", `{"metadata": {"finalizers": ["example.com/stays"]}}`, "labels, finalizers or owners"},
		{"an owner", `{"metadata": {"ownerReferences": [{"apiVersion": "v1", "kind": "Secret", "name": "x", "uid": "1"}]}}`, "labels, finalizers or owners"},
	} {
		if err := patch("flux-system", test.change); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want a refusal that says %q", test.name, err, test.says)
		}
	}
	for name, err := range map[string]error{
		"another repository's annotation": patch("other", `{"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}}`),
		"what Flux reports":               patch("flux-system", `{"status": {"observedGeneration": 7}}`, "status"),
		"all repositories":                second(repositories.List(t.Context(), metav1.ListOptions{})),
		"a new one":                       second(repositories.Create(t.Context(), gitRepository("mine"), metav1.CreateOptions{})),
		"one less":                        repositories.Delete(t.Context(), "flux-system", metav1.DeleteOptions{}),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", name, err)
		}
	}
	// The policy holds even where somebody's role is too wide.
	wide := c.config(towpathAccount, "system:masters")
	repositories, err = c.resource(wide, gitRepository("flux-system"))
	if err != nil {
		t.Fatal(err)
	}
	for name, err := range map[string]error{
		"a new one":         second(repositories.Create(t.Context(), gitRepository("mine"), metav1.CreateOptions{})),
		"one less":          repositories.Delete(t.Context(), "flux-system", metav1.DeleteOptions{}),
		"what Flux reports": patch("flux-system", `{"status": {"observedGeneration": 7}}`, "status"),
	} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "towpath-flux") {
			t.Errorf("with every right, %s: %v", name, err)
		}
	}
	owner, err := c.resource(c.config("root", "system:masters"), gitRepository("flux-system"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := owner.Patch(t.Context(), "other", types.MergePatchType, []byte(`{"spec": {"interval": "2m"}}`), metav1.PatchOptions{}); err != nil {
		t.Errorf("somebody else's change: %v", err)
	}
}

//go:build cluster

package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestRefusedFromInside: what the accounts' own tokens are refused by the API
// server, asked for over the network from a pod beside the daemon's, which has the
// token mounted that the daemon has. e2e/deploy tries more, as an administrator
// who plays them.
func TestRefusedFromInside(t *testing.T) {
	i := theInstallation(t)
	i.until(t, 3*time.Minute, "the last commit's pod runs", func(ctx context.Context) error { return i.runs(ctx, i.app.Head()) })
	built, err := i.jobOf(t.Context(), i.app.Head())
	if err != nil {
		t.Fatal(err)
	}
	inside := i.enter(t)
	const builds = "/apis/batch/v1/namespaces/" + buildsNamespace + "/jobs"
	const repositories = "/apis/source.toolkit.fluxcd.io/v1/namespaces/" + fluxNamespace + "/gitrepositories/flux-system"
	const dry = "?dryRun=All"

	// A build as Towpath makes it, and others that are not quite one.
	build := func(edit func(*batchv1.Job)) string {
		made := &batchv1.Job{
			TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
			ObjectMeta: metav1.ObjectMeta{Name: "another", Namespace: buildsNamespace, Labels: built.Labels, Annotations: built.Annotations},
			Spec:       *built.Spec.DeepCopy(),
		}
		made.Spec.Selector, made.Spec.TTLSecondsAfterFinished = nil, nil
		for _, label := range []string{"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"} {
			delete(made.Spec.Template.Labels, label)
		}
		if edit != nil {
			edit(made)
		}
		encoded, err := json.Marshal(made)
		if err != nil {
			t.Fatal(err)
		}
		return string(encoded)
	}
	pod := func(edit func(*corev1.PodSpec)) string {
		return build(func(j *batchv1.Job) { edit(&j.Spec.Template.Spec) })
	}
	secret := built.Spec.Template.Spec.Volumes[slices.IndexFunc(built.Spec.Template.Spec.Volumes, func(v corev1.Volume) bool { return v.Secret != nil })].Name

	daemon := []try{
		{name: "it lists its Jobs", path: builds, status: 200},
		{name: "it lists its pods", path: "/api/v1/namespaces/" + buildsNamespace + "/pods", status: 200},
		{name: "it reads its Lease", path: "/apis/coordination.k8s.io/v1/namespaces/towpath/leases/towpath", status: 200},
		{name: "it asks Flux for a pull", method: "PATCH", path: repositories + dry, body: `{"metadata": {"annotations": {"reconcile.fluxcd.io/requestedAt": "now"}}}`, status: 200},
		{name: "it makes a build", method: "POST", path: builds + dry, body: build(nil), status: 201},

		{name: "secrets of the builds", path: "/api/v1/namespaces/towpath-builds/secrets", status: 403},
		{name: "one secret of the builds", path: "/api/v1/namespaces/towpath-builds/secrets/registry", status: 403},
		{name: "its own secrets", path: "/api/v1/namespaces/towpath/secrets/towpath-signing", status: 403},
		{name: "everybody's secrets", path: "/api/v1/secrets", status: 403},
		{name: "a watch on secrets", path: "/api/v1/namespaces/towpath-builds/secrets?watch=true", status: 403},
		{name: "a token of the builds'", method: "POST", path: "/api/v1/namespaces/towpath-builds/serviceaccounts/build/token", body: `{}`, status: 403},
		{name: "a token of Flux's", method: "POST", path: "/api/v1/namespaces/flux-system/serviceaccounts/default/token", body: `{}`, status: 403},
		{name: "a pod", method: "POST", path: "/api/v1/namespaces/towpath-builds/pods" + dry, body: `{"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}`, status: 403},
		{name: "a pod beside it", method: "POST", path: "/api/v1/namespaces/towpath/pods" + dry, body: `{"metadata": {"name": "x"}, "spec": {"containers": [{"name": "x", "image": "x"}]}}`, status: 403},
		{name: "a program in a build", method: "POST", path: "/api/v1/namespaces/towpath-builds/pods/POD/exec?command=sh&container=publish", status: 403},
		{name: "the log of another namespace", path: "/api/v1/namespaces/towpath/pods/x/log", status: 403},
		{name: "a Job elsewhere", method: "POST", path: "/apis/batch/v1/namespaces/towpath/jobs" + dry, body: strings.ReplaceAll(build(nil), `"namespace":"towpath-builds"`, `"namespace":"towpath"`), status: 403},
		{name: "the policy's pins", method: "PATCH", path: "/api/v1/namespaces/towpath/configmaps/towpath-admission" + dry, body: `{"data": {"kaniko": "evil"}}`, status: 403},
		{name: "the policy's end", method: "DELETE", path: "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings/towpath-builds" + dry, status: 403},
		{name: "more rights", method: "POST", path: "/apis/rbac.authorization.k8s.io/v1/namespaces/towpath/rolebindings" + dry, body: `{"metadata": {"name": "x"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"}, "subjects": []}`, status: 403},
		{name: "another Lease", path: "/apis/coordination.k8s.io/v1/namespaces/towpath/leases/other", status: 403},
		{name: "a Lease more", method: "POST", path: "/apis/coordination.k8s.io/v1/namespaces/towpath/leases" + dry, body: `{"metadata": {"name": "more"}}`, status: 403},
		{name: "the node", path: "/api/v1/nodes/node/proxy/pods", status: 403},
		{name: "another source for Flux", method: "PATCH", path: repositories + dry, body: `{"spec": {"url": "https://evil.example.com/fleet.git"}}`, status: 403, says: "may not change the spec"},
		{name: "a source at rest", method: "PATCH", path: repositories + dry, body: `{"spec": {"suspend": true}}`, status: 403, says: "may not change the spec"},
		{name: "another annotation", method: "PATCH", path: repositories + dry, body: `{"metadata": {"annotations": {"kustomize.toolkit.fluxcd.io/prune": "disabled"}}}`, status: 403, says: "no annotation of a GitRepository but"},
		{name: "what Flux applies", method: "PATCH", path: "/apis/kustomize.toolkit.fluxcd.io/v1/namespaces/flux-system/kustomizations/flux-system" + dry, body: `{"spec": {"suspend": true}}`, status: 403},

		{name: "a build with another kaniko", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.InitContainers[1].Image = i.image }), says: "kaniko is not the image"},
		{name: "a build with another publish", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.Containers[0].Image = i.kaniko }), says: "fetch and publish are not the image"},
		{name: "a build whose kaniko has a secret", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) {
			s.InitContainers[1].VolumeMounts = append(s.InitContainers[1].VolumeMounts, corev1.VolumeMount{Name: secret, MountPath: "/loot"})
		}), says: "kaniko sees no secret"},
		{name: "a build whose kaniko has a shell", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.InitContainers[1].Command = []string{"sh"} }), says: "kaniko runs its executor"},
		{name: "a build with a token", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.AutomountServiceAccountToken = new(true) }), says: "without its token"},
		{name: "a build as somebody else", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.ServiceAccountName, s.DeprecatedServiceAccount = "default", "" }), says: "service account build"},
		{name: "a build with the machine's files", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) {
			s.Volumes = append(s.Volumes, corev1.Volume{Name: "machine", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/"}}})
		}), says: "a build's volumes are"},
		{name: "a build in the machine's network", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) { s.HostNetwork = true }), says: "shares nothing with its node"},
		{name: "a build with a fourth step", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) {
			fourth := *s.Containers[0].DeepCopy()
			fourth.Name = "fourth"
			s.Containers = append(s.Containers, fourth)
		}), says: "a build is the init containers fetch and kaniko"},
		{name: "a build with every right", method: "POST", path: builds + dry, body: pod(func(s *corev1.PodSpec) {
			s.InitContainers[1].SecurityContext.Privileged, s.InitContainers[1].SecurityContext.AllowPrivilegeEscalation = new(true), new(true)
		}), says: "is not privileged"},
		{name: "a change of a build", method: "PATCH", path: builds + "/" + built.Name + dry, body: `{"spec": {"suspend": true}}`, says: "a build is not changed"},
	}
	t.Run("as the daemon", func(t *testing.T) {
		inside.all(t, "/var/run/secrets/kubernetes.io/serviceaccount/token", daemon, built)
	})
	t.Run("as a build", func(t *testing.T) {
		var refused []try
		for _, one := range daemon {
			one.status, one.says = 403, "towpath-builds:build"
			refused = append(refused, one)
		}
		refused = append(refused, try{name: "what it is", method: "POST", path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", body: `{}`, status: 201, says: "system:serviceaccount:towpath-builds:build"})
		inside.all(t, "/tokens/build", refused, built)
	})
	t.Run("with a token for somebody else", func(t *testing.T) {
		inside.all(t, "/tokens/other", []try{
			{name: "its own Jobs", path: builds, status: 401}, {name: "what it is", method: "POST", path: "/apis/authentication.k8s.io/v1/selfsubjectreviews", body: `{}`, status: 401},
		}, built)
	})

	// The namespace of builds admits nothing else, whoever asks, and lets nobody in.
	target := i.podOf(t, built).Name
	pods := func(method, subresource string) error {
		return i.Client.CoreV1().RESTClient().Verb(method).Namespace(buildsNamespace).Resource("pods").Name(target).SubResource(subresource).
			Param("container", "publish").Param("command", "sh").Param("ports", "80").Do(t.Context()).Error()
	}
	kubectl := func(args ...string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		_, err := i.TryKubectl(ctx, t, "", append([]string{"-n", buildsNamespace}, args...)...)
		return err
	}
	for name, err := range map[string]error{
		"an administrator's pod":           kubectl("run", "rogue", "--image=x", "--restart=Never"),
		"an administrator's Job":           kubectl("create", "job", "rogue", "--image=x"),
		"an administrator's debugger":      kubectl("debug", target, "--image=x", "--target=publish"),
		"an administrator's shell":         pods("POST", "exec"),
		"an administrator's console":       pods("POST", "attach"),
		"an administrator's way in":        pods("POST", "portforward"),
		"an administrator's request to it": pods("GET", "proxy"),
	} {
		if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'towpath-builds") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// try is a request, and the answer that it must get. Without a status it is one of
// the two by which a policy refuses.
type try struct {
	name   string
	method string // default: GET
	path   string
	body   string
	status int
	says   string
}

// insider is a pod that can be told what to ask.
type insider struct {
	*installation
	api string
}

// enter starts a pod beside the daemon's, with its account and two tokens more.
func (i *installation) enter(t *testing.T) *insider {
	t.Helper()
	const name = "insider"
	image := i.platform.Push(t, "hostile/base", "1", thief(t))
	accounts := i.Client.CoreV1().ServiceAccounts(buildsNamespace)
	tokens := map[string][]byte{}
	for kind, audiences := range map[string][]string{"build": nil, "other": {"sts.example.com"}} {
		token, err := accounts.CreateToken(t.Context(), "build", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		tokens[kind] = []byte(token.Status.Token)
	}
	core := i.Client.CoreV1()
	t.Cleanup(func() {
		ctx, now := context.WithoutCancel(t.Context()), metav1.DeleteOptions{GracePeriodSeconds: new(int64(0))}
		_ = core.Pods(towpathNamespace).Delete(ctx, name, now)
		_ = core.Secrets(towpathNamespace).Delete(ctx, name, now)
	})
	i.Secret(t, towpathNamespace, name, tokens)
	no := false
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		ServiceAccountName: "towpath", AutomountServiceAccountToken: new(true), TerminationGracePeriodSeconds: new(int64(0)),
		SecurityContext: &corev1.PodSecurityContext{
			RunAsNonRoot: new(true), RunAsUser: new(int64(65532)), RunAsGroup: new(int64(65532)), FSGroup: new(int64(65532)),
			SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
		},
		Containers: []corev1.Container{{
			Name: name, Image: image, Command: []string{"sleep", "infinity"},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: &no, Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			VolumeMounts:    []corev1.VolumeMount{{Name: "tokens", MountPath: "/tokens", ReadOnly: true}},
		}},
		Volumes: []corev1.Volume{{Name: "tokens", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name}}}},
	}}
	if _, err := core.Pods(towpathNamespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	i.wait(t, towpathNamespace, time.Minute, "the insider runs", func(ctx context.Context) error {
		pod, err := core.Pods(towpathNamespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	service, err := core.Services("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return &insider{i, "https://" + service.Spec.ClusterIP}
}

// all tries everything with the token in one of the pod's files.
func (i *insider) all(t *testing.T, token string, tries []try, built *batchv1.Job) {
	t.Helper()
	var input bytes.Buffer
	for n, one := range tries {
		content := map[string]string{"PATCH": "application/merge-patch+json"}[one.method]
		if content == "" {
			content = "application/json"
		}
		method := one.method
		if method == "" {
			method = http.MethodGet
		}
		err := json.NewEncoder(&input).Encode(map[string]string{
			"Name": fmt.Sprint(n), "Method": method, "URL": i.api + strings.ReplaceAll(one.path, "POD", i.podOf(t, built).Name), "Type": content, "Body": one.body,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	out := i.Kubectl(t, input.String(), "-n", towpathNamespace, "exec", "-i", "insider", "--", "thief", "api", token)
	answers := json.NewDecoder(strings.NewReader(out))
	for n, one := range tries {
		var answer struct {
			Name, Body string
			Status     int
		}
		if err := answers.Decode(&answer); err != nil || answer.Name != fmt.Sprint(n) {
			t.Fatalf("%s: no answer: %v", one.name, err)
		}
		right := answer.Status == one.status
		if one.status == 0 {
			right = answer.Status == http.StatusForbidden || answer.Status == http.StatusUnprocessableEntity
		}
		if !right || !strings.Contains(answer.Body, one.says) {
			t.Errorf("%s: %d, want %d and %q\n%s", one.name, answer.Status, one.status, one.says, answer.Body)
		}
	}
	t.Logf("%d requests", len(tries))
}

// podOf is the pod of a build.
func (i *installation) podOf(t *testing.T, job *batchv1.Job) *corev1.Pod {
	t.Helper()
	pods, err := i.Client.CoreV1().Pods(buildsNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	if err != nil || len(pods.Items) == 0 {
		t.Fatalf("the pod of %s: %v", job.Name, err)
	}
	return &pods.Items[0]
}

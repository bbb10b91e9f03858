package deploy

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Steps of a pod.
func fetch(s *corev1.PodSpec) *corev1.Container   { return &s.InitContainers[0] }
func kaniko(s *corev1.PodSpec) *corev1.Container  { return &s.InitContainers[1] }
func publish(s *corev1.PodSpec) *corev1.Container { return &s.Containers[0] }

func mount(c *corev1.Container, volume, path string) {
	c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: volume, MountPath: path})
}

func mounted(c *corev1.Container, volume string) *corev1.VolumeMount {
	return &c.VolumeMounts[slices.IndexFunc(c.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == volume })]
}

func volume(s *corev1.PodSpec, v corev1.VolumeSource) {
	s.Volumes = append(s.Volumes, corev1.Volume{Name: "more", VolumeSource: v})
}

// shapes is what a build's pod must not be: each differs from a good one in one
// thing, and is refused with the words given. Where Pod Security refuses it
// before, the words are its.
var shapes = []struct {
	name string
	make func(*corev1.PodSpec)
	says string
}{
	{"another step", func(s *corev1.PodSpec) { s.InitContainers[0].Name = "prepare" }, "init containers fetch and kaniko"},
	{"one step more", func(s *corev1.PodSpec) {
		more := *publish(s).DeepCopy()
		more.Name = "sidecar"
		s.Containers = append(s.Containers, more)
	}, "init containers fetch and kaniko"},
	{"kaniko beside publish", func(s *corev1.PodSpec) {
		s.Containers = append(s.Containers, s.InitContainers[1])
		s.InitContainers = s.InitContainers[:1]
	}, "init containers fetch and kaniko"},
	{"steps in another order", func(s *corev1.PodSpec) {
		s.InitContainers[0], s.InitContainers[1] = s.InitContainers[1], s.InitContainers[0]
	}, "init containers fetch and kaniko"},
	{"another account", func(s *corev1.PodSpec) { s.ServiceAccountName = "default" }, "service account build"},
	{"the account's token", func(s *corev1.PodSpec) { s.AutomountServiceAccountToken = nil }, "automountServiceAccountToken"},
	{"service links", func(s *corev1.PodSpec) { s.EnableServiceLinks = nil }, "no service links"},
	{"restarts", func(s *corev1.PodSpec) { s.RestartPolicy = corev1.RestartPolicyOnFailure }, "not restarted"},
	{"the host's network", func(s *corev1.PodSpec) { s.HostNetwork, s.HostUsers = true, nil }, "shares nothing with its node"},
	{"the host's processes", func(s *corev1.PodSpec) { s.HostPID, s.HostUsers = true, nil }, "shares nothing with its node"},
	{"the host's IPC", func(s *corev1.PodSpec) { s.HostIPC, s.HostUsers = true, nil }, "shares nothing with its node"},
	{"shared processes", func(s *corev1.PodSpec) { s.ShareProcessNamespace = new(true) }, "shares nothing with its node"},
	{"host aliases", func(s *corev1.PodSpec) {
		s.HostAliases = []corev1.HostAlias{{IP: "1.2.3.4", Hostnames: []string{"registry.example.com"}}}
	}, "shares nothing with its node"},
	{"a node of its choice", func(s *corev1.PodSpec) { s.NodeName = "control-plane" }, "shares nothing with its node"},

	{"a path of the host", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/var/lib/kubelet"}})
	}, "volumes are"},
	{"a claim", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}})
	}, "volumes are"},
	{"a volume of a driver", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "secrets-store.csi.k8s.io"}})
	}, "volumes are"},
	{"an image for a volume", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "evil"}})
	}, "volumes are"},
	{"a directory without a limit", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
	}, "volumes are"},
	{"another ConfigMap", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "other"}}})
	}, "volumes are"},
	{"a token for the API server", func(s *corev1.PodSpec) {
		s.Volumes[len(s.Volumes)-1].Projected.Sources[0].ServiceAccountToken.Audience = ""
	}, "volumes are"},
	{"a token of another audience", func(s *corev1.PodSpec) {
		s.Volumes[len(s.Volumes)-1].Projected.Sources[0].ServiceAccountToken.Audience = "vault"
	}, "volumes are"},
	{"a secret by projection", func(s *corev1.PodSpec) {
		volume(s, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "registry"}}}}}})
	}, "volumes are"},

	{"a secret for kaniko", func(s *corev1.PodSpec) { mount(kaniko(s), "registry-secret", "/kaniko/.docker") }, "kaniko sees no secret"},
	{"a token for kaniko", func(s *corev1.PodSpec) { mount(kaniko(s), "publish-token", "/token") }, "kaniko sees no secret"},
	{"an order for kaniko", func(s *corev1.PodSpec) { mount(kaniko(s), "fetch-order", "/order") }, "kaniko sees no secret"},
	{"publish's secret for fetch", func(s *corev1.PodSpec) { mount(fetch(s), "registry-secret", "/secrets/registry") }, "each its own"},
	{"fetch's secret for publish", func(s *corev1.PodSpec) { mount(publish(s), "git-secret", "/secrets/git") }, "each its own"},
	{"one secret for two", func(s *corev1.PodSpec) { mount(publish(s), "git-secret", "/secrets/registry2") }, "each its own"},
	{"a secret elsewhere", func(s *corev1.PodSpec) { mounted(publish(s), "registry-secret").MountPath = "/etc/secrets" }, "each its own"},
	{"one token for two", func(s *corev1.PodSpec) { mount(fetch(s), "publish-token", "/token") }, "a token is for one step"},

	{"another kaniko", func(s *corev1.PodSpec) { kaniko(s).Image = towpathImage }, "kaniko is not the image that the ConfigMap towpath-admission pins"},
	{"kaniko by a tag", func(s *corev1.PodSpec) { kaniko(s).Image = "registry.example.com/kaniko:latest" }, "kaniko is not the image"},
	{"another fetch", func(s *corev1.PodSpec) { fetch(s).Image = "evil@sha256:" + strings.Repeat("0", 64) }, "fetch and publish are not the image"},
	{"another publish", func(s *corev1.PodSpec) { publish(s).Image = kanikoImage }, "fetch and publish are not the image"},
	{"another program in kaniko", func(s *corev1.PodSpec) { kaniko(s).Command = []string{"/busybox/sh"} }, "kaniko runs its executor"},
	{"kaniko's entry point", func(s *corev1.PodSpec) { kaniko(s).Command = nil }, "kaniko runs its executor"},
	{"a kaniko that pushes", func(s *corev1.PodSpec) { kaniko(s).Args = []string{"--destination=x"} }, "kaniko runs its executor"},
	{"a kaniko that pushes after all", func(s *corev1.PodSpec) { kaniko(s).Args = append(kaniko(s).Args, "--no-push=false") }, "kaniko runs its executor"},
	{"a kaniko with a cache", func(s *corev1.PodSpec) { kaniko(s).Args = append(kaniko(s).Args, "--cache") }, "kaniko runs its executor"},
	{"a kaniko with a cache elsewhere", func(s *corev1.PodSpec) {
		kaniko(s).Args = append(kaniko(s).Args, "--cache-repo=registry.example.com/cache")
	}, "kaniko runs its executor"},
	{"a kaniko that keeps layers", func(s *corev1.PodSpec) {
		kaniko(s).Args = slices.DeleteFunc(slices.Clone(kaniko(s).Args), func(a string) bool { return a == "--no-push-cache" })
	}, "kaniko runs its executor"},
	{"a kaniko of another destination", func(s *corev1.PodSpec) {
		kaniko(s).Args = append(kaniko(s).Args, "--destination=registry.example.com/apps/podinfo")
	}, "kaniko runs its executor"},
	{"a kaniko whose argument comes from its environment", func(s *corev1.PodSpec) {
		kaniko(s).Env = append(kaniko(s).Env, corev1.EnvVar{Name: "X", Value: "destination=evil"})
		kaniko(s).Args = append(kaniko(s).Args, "--$(X)")
	}, "kaniko runs its executor"},
	{"another step of Towpath", func(s *corev1.PodSpec) { fetch(s).Args = []string{"run"} }, "run Towpath's steps"},
	{"another order", func(s *corev1.PodSpec) { fetch(s).Args[2] = "/build/order.json" }, "run Towpath's steps"},
	{"fetch that publishes", func(s *corev1.PodSpec) { fetch(s).Args[0] = "publish" }, "run Towpath's steps"},
	{"another program in publish", func(s *corev1.PodSpec) { publish(s).Command = []string{"/out/towpath"} }, "run Towpath's steps"},

	{"a publish that finds its program in what kaniko left", func(s *corev1.PodSpec) {
		publish(s).Env = append(publish(s).Env, corev1.EnvVar{Name: "PATH", Value: "/out"})
	}, "no environment but"},
	{"a fetch that trusts other authorities", func(s *corev1.PodSpec) {
		fetch(s).Env = append(fetch(s).Env, corev1.EnvVar{Name: "SSL_CERT_FILE", Value: "/order/ca.crt"})
	}, "no environment but"},
	{"a publish of another home", func(s *corev1.PodSpec) {
		publish(s).Env[slices.IndexFunc(publish(s).Env, func(e corev1.EnvVar) bool { return e.Name == "HOME" })].Value = "/out"
	}, "no environment but"},
	{"authorities that kaniko left", func(s *corev1.PodSpec) {
		publish(s).Env[slices.IndexFunc(publish(s).Env, func(e corev1.EnvVar) bool { return e.Name == "SSL_CERT_DIR" })].Value = "/out"
	}, "no environment but"},
	{"kaniko's output in place of publish's program", func(s *corev1.PodSpec) {
		publish(s).VolumeMounts = append(publish(s).VolumeMounts, corev1.VolumeMount{Name: "out", MountPath: "/usr/local/bin", ReadOnly: true})
	}, "at its place"},
	{"a part of kaniko's output", func(s *corev1.PodSpec) { mounted(publish(s), "out").SubPath = "image" }, "at its place"},
	{"an order that kaniko left", func(s *corev1.PodSpec) { mounted(publish(s), "publish-order").Name = "out" }, "at its place"},
	{"authorities that fetch left", func(s *corev1.PodSpec) { mounted(publish(s), "authorities").Name = "work" }, "at its place"},
	{"one temporary directory for kaniko and publish", func(s *corev1.PodSpec) { mount(kaniko(s), "publish-tmp", "/tmp") }, "nothing that kaniko could write"},
	{"shared memory for kaniko and publish", func(s *corev1.PodSpec) { mounted(publish(s), "publish-shm").Name = "kaniko-shm" }, "nothing that kaniko could write"},
	{"an output that publish writes", func(s *corev1.PodSpec) { mounted(publish(s), "out").ReadOnly = false }, "nothing that kaniko could write"},
	{"name servers of its choice", func(s *corev1.PodSpec) {
		s.DNSPolicy, s.DNSConfig = corev1.DNSNone, &corev1.PodDNSConfig{Nameservers: []string{"1.2.3.4"}}
	}, "as the cluster has it"},
	{"the node's names", func(s *corev1.PodSpec) { s.DNSPolicy = corev1.DNSDefault }, "as the cluster has it"},
	{"a scheduler of its choice", func(s *corev1.PodSpec) { s.SchedulerName = "other" }, "as the cluster has it"},
	{"a gate", func(s *corev1.PodSpec) {
		s.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/waits"}}
	}, "as the cluster has it"},
	{"a limit over those of its steps", func(s *corev1.PodSpec) {
		s.Resources = &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("500Gi")}}
	}, "as the cluster has it"},
	{"a secret's key by another name", func(s *corev1.PodSpec) {
		s.Volumes[slices.IndexFunc(s.Volumes, func(v corev1.Volume) bool { return v.Secret != nil })].Secret.Items = []corev1.KeyToPath{{Key: "password", Path: "known_hosts"}}
	}, "volumes are"},
	{"an input", func(s *corev1.PodSpec) { publish(s).Stdin = true }, "or input"},
	{"a report elsewhere", func(s *corev1.PodSpec) { publish(s).TerminationMessagePath = "/out/report" }, "reports where all do"},
	{"the place of the cluster's own", func(s *corev1.PodSpec) { s.PriorityClassName = "system-node-critical" }, "lives by"},

	{"a secret in the environment", func(s *corev1.PodSpec) {
		publish(s).Env = []corev1.EnvVar{{Name: "PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "registry"}, Key: "password"}}}}
	}, "no environment from elsewhere"},
	{"a secret in kaniko's environment", func(s *corev1.PodSpec) {
		kaniko(s).EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "registry"}}}}
	}, "no environment from elsewhere"},
	{"a hook", func(s *corev1.PodSpec) {
		publish(s).Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sh"}}}}
	}, "no hooks"},
	{"a probe", func(s *corev1.PodSpec) {
		publish(s).LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"sh"}}}}
	}, "probes"},
	{"a port", func(s *corev1.PodSpec) { publish(s).Ports = []corev1.ContainerPort{{ContainerPort: 80}} }, "ports"},
	{"a kaniko that stays", func(s *corev1.PodSpec) { kaniko(s).RestartPolicy = new(corev1.ContainerRestartPolicyAlways) }, "is not restarted"},

	{"a privileged step", func(s *corev1.PodSpec) {
		kaniko(s).SecurityContext.Privileged, kaniko(s).SecurityContext.AllowPrivilegeEscalation = new(true), new(true)
	}, "a step is not privileged"},
	{"a step that may become privileged", func(s *corev1.PodSpec) { fetch(s).SecurityContext.AllowPrivilegeEscalation = nil }, "a step is not privileged"},
	{"a step with the default capabilities", func(s *corev1.PodSpec) { kaniko(s).SecurityContext.Capabilities.Drop = nil }, "a step is not privileged"},
	{"a step without seccomp", func(s *corev1.PodSpec) {
		kaniko(s).SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined}
	}, "a step is not privileged"},
	{"a pod without seccomp", func(s *corev1.PodSpec) { s.SecurityContext, kaniko(s).SecurityContext.SeccompProfile = nil, nil }, "a step is not privileged"},
	{"a kaniko of more capabilities", func(s *corev1.PodSpec) {
		kaniko(s).SecurityContext.Capabilities.Add = []corev1.Capability{"MKNOD"}
	}, "no other capabilities"},
	{"a fetch of capabilities", func(s *corev1.PodSpec) {
		fetch(s).SecurityContext.Capabilities.Add = []corev1.Capability{"CHOWN"}
	}, "have no capabilities"},
	{"a publish that writes its root", func(s *corev1.PodSpec) { publish(s).SecurityContext.ReadOnlyRootFilesystem = nil }, "have no capabilities"},
	{"memory without a limit", func(s *corev1.PodSpec) { delete(kaniko(s).Resources.Limits, corev1.ResourceMemory) }, "are limited"},
	{"storage without a limit", func(s *corev1.PodSpec) { fetch(s).Resources = corev1.ResourceRequirements{} }, "are limited"},
}

// TestBuildsOfAnotherShape: whoever holds Towpath's token can run Towpath's
// builds and nothing else. The pod is judged as well as the Job, for whatever
// changes pods on their way.
func TestBuildsOfAnotherShape(t *testing.T) {
	c := install(t)
	jobs := c.as(towpathAccount).BatchV1().Jobs("towpath-builds")
	pods := c.as(jobController, "system:masters").CoreV1().Pods("towpath-builds")
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	if _, err := jobs.Create(t.Context(), validJob("good"), dry); err != nil {
		t.Fatalf("a build as it should be: %v", err)
	}
	if _, err := pods.Create(t.Context(), podOf(validJob("good")), dry); err != nil {
		t.Fatalf("the pod of a build as it should be: %v", err)
	}
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			job := validJob("bad")
			shape.make(&job.Spec.Template.Spec)
			if _, err := jobs.Create(t.Context(), job, dry); err == nil || !strings.Contains(err.Error(), shape.says) {
				t.Errorf("the Job: %v, want a refusal that says %q", err, shape.says)
			}
			// Pod Security has a say in what the pod may be, before or after.
			if _, err := pods.Create(t.Context(), podOf(job), dry); err == nil || !strings.Contains(err.Error(), shape.says) && !strings.Contains(err.Error(), "violates PodSecurity") {
				t.Errorf("the pod: %v, want a refusal that says %q", err, shape.says)
			}
		})
	}
}

func podOf(job *batchv1.Job) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: *job.Spec.Template.ObjectMeta.DeepCopy(), Spec: *job.Spec.Template.Spec.DeepCopy()}
	pod.Name = job.Name + "-x7k2p"
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: "0c9e5a6e-0000-0000-0000-000000000000", Controller: new(true)}}
	return pod
}

func TestJobsOfAnotherShape(t *testing.T) {
	c := install(t)
	jobs := c.as(towpathAccount).BatchV1().Jobs("towpath-builds")
	for name, test := range map[string]struct {
		make func(*batchv1.Job)
		says string
	}{
		"tries again":     {func(j *batchv1.Job) { j.Spec.BackoffLimit = nil }, "no second try"},
		"many at once":    {func(j *batchv1.Job) { j.Spec.Parallelism = new(int32(50)) }, "runs once"},
		"many in a row":   {func(j *batchv1.Job) { j.Spec.Completions = new(int32(50)) }, "runs once"},
		"no deadline":     {func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = nil }, "a deadline"},
		"a long time":     {func(j *batchv1.Job) { j.Spec.ActiveDeadlineSeconds = new(int64(1 << 40)) }, "25 hours at most"},
		"later":           {func(j *batchv1.Job) { j.Spec.Suspend = new(true) }, "at once"},
		"gone at its end": {func(j *batchv1.Job) { j.Spec.TTLSecondsAfterFinished = new(int32(0)) }, "at once"},
		"another's":       {func(j *batchv1.Job) { j.Spec.ManagedBy = new("example.com/other") }, "own controller"},
		"others' pods": {func(j *batchv1.Job) {
			j.Spec.ManualSelector, j.Spec.Selector = new(true), &metav1.LabelSelector{MatchLabels: j.Spec.Template.Labels}
		}, "own controller"},
		"by index":          {func(j *batchv1.Job) { j.Spec.CompletionMode = new(batchv1.IndexedCompletion) }, "own controller"},
		"for ever":          {func(j *batchv1.Job) { j.Finalizers = []string{"example.com/stays"} }, "nothing holds it"},
		"its pods for ever": {func(j *batchv1.Job) { j.Spec.Template.Finalizers = []string{"example.com/stays"} }, "nothing holds it"},
		"not Towpath's":     {func(j *batchv1.Job) { j.Labels = map[string]string{"app.kubernetes.io/managed-by": "me"} }, "managed-by"},
		"a pod unlike it":   {func(j *batchv1.Job) { j.Spec.Template.Labels = nil }, "managed-by"},
	} {
		job := validJob("bad")
		test.make(job)
		if _, err := jobs.Create(t.Context(), job, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err == nil || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v, want a refusal that says %q", name, err, test.says)
		}
	}
}

// TestWhoBuilds: an administrator makes no Job there, and nobody but the Job
// controller a pod, whatever their rights are.
func TestWhoBuilds(t *testing.T) {
	c := install(t)
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	admin := c.as("root", "system:masters")
	if _, err := admin.BatchV1().Jobs("towpath-builds").Create(t.Context(), validJob("mine"), dry); err == nil || !strings.Contains(err.Error(), "only Towpath may create Jobs here") {
		t.Errorf("an administrator's Job: %v", err)
	}
	for _, who := range []string{"root", towpathAccount, "system:serviceaccount:kube-system:replicaset-controller"} {
		if _, err := c.as(who, "system:masters").CoreV1().Pods("towpath-builds").Create(t.Context(), podOf(validJob("mine")), dry); err == nil || !strings.Contains(err.Error(), "only the Job controller may create pods here") {
			t.Errorf("a pod of %s: %v", who, err)
		}
	}
	orphan := podOf(validJob("mine"))
	orphan.OwnerReferences = nil
	if _, err := c.as(jobController, "system:masters").CoreV1().Pods("towpath-builds").Create(t.Context(), orphan, dry); err == nil || !strings.Contains(err.Error(), "belongs to a Job") {
		t.Errorf("a pod that no Job owns: %v", err)
	}
}

// TestBuildsStayAsAdmitted: what was admitted is not changed afterwards, but for
// what Towpath and the controllers must change.
func TestBuildsStayAsAdmitted(t *testing.T) {
	c := install(t)
	admin, daemon := c.as("root", "system:masters"), c.as(towpathAccount)
	controller := c.as(jobController, "system:masters")
	if _, err := daemon.BatchV1().Jobs("towpath-builds").Create(t.Context(), validJob("stays"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := podOf(validJob("stays"))
	pod.Finalizers = []string{"batch.kubernetes.io/job-tracking"}
	if _, err := controller.CoreV1().Pods("towpath-builds").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}

	patch := func(to any) []byte {
		encoded, err := json.Marshal(to)
		if err != nil {
			t.Fatal(err)
		}
		return encoded
	}
	type object map[string]any
	jobs, pods := admin.BatchV1().Jobs("towpath-builds"), admin.CoreV1().Pods("towpath-builds")
	for name, change := range map[string]object{
		"another deadline": {"spec": object{"activeDeadlineSeconds": 1}},
		"suspended":        {"spec": object{"suspend": true}},
		"more tries":       {"spec": object{"backoffLimit": 3}},
		"kept for ever":    {"spec": object{"ttlSecondsAfterFinished": 1}},
		"another failure":  {"metadata": object{"annotations": object{"towpath.dev/failure": "{}"}}},
		"another order":    {"metadata": object{"annotations": object{"towpath.dev/fetch": "{}", "towpath.dev/publish": "x"}}},
		"no order":         {"metadata": object{"annotations": object{"towpath.dev/publish": nil}}},
		"another image":    {"metadata": object{"labels": object{"towpath.dev/image": "other"}}},
		"nobody's":         {"metadata": object{"labels": object{"app.kubernetes.io/managed-by": nil}}},
	} {
		if _, err := jobs.Patch(t.Context(), "stays", types.MergePatchType, patch(change), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "denied request") {
			t.Errorf("an administrator's change of the Job, %s: %v", name, err)
		}
		if _, err := pods.Patch(t.Context(), pod.Name, types.MergePatchType, patch(change), metav1.PatchOptions{}); err == nil && change["metadata"] != nil {
			t.Errorf("an administrator's change of the pod, %s: went through", name)
		}
	}
	if _, err := pods.Patch(t.Context(), pod.Name, types.JSONPatchType, []byte(`[{"op": "replace", "path": "/spec/containers/0/image", "value": "evil"}]`), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "the pod of a build is not changed") {
		t.Errorf("another image in a pod: %v", err)
	}

	for name, change := range map[string]object{
		"time to keep": {"spec": object{"ttlSecondsAfterFinished": 600}},
		"a failure":    {"metadata": object{"annotations": object{"towpath.dev/failure": `{"reason":"evicted"}`}}},
	} {
		if _, err := daemon.BatchV1().Jobs("towpath-builds").Patch(t.Context(), "stays", types.MergePatchType, patch(change), metav1.PatchOptions{}); err != nil {
			t.Errorf("Towpath's own change of the Job, %s: %v", name, err)
		}
	}
	// A status that is written takes the words about its object along.
	for name, change := range map[string]object{
		"another order": {"metadata": object{"annotations": object{"towpath.dev/publish": "x"}}},
		"a failure":     {"metadata": object{"annotations": object{"towpath.dev/failure": "x"}}},
	} {
		if _, err := jobs.Patch(t.Context(), "stays", types.MergePatchType, patch(change), metav1.PatchOptions{}, "status"); err == nil || !strings.Contains(err.Error(), "what Towpath wrote") {
			t.Errorf("with the Job's status, %s: %v", name, err)
		}
		if _, err := pods.Patch(t.Context(), pod.Name, types.MergePatchType, patch(change), metav1.PatchOptions{}, "status"); err == nil || !strings.Contains(err.Error(), "what Towpath wrote") {
			t.Errorf("with the pod's status, %s: %v", name, err)
		}
	}
	if _, err := controller.BatchV1().Jobs("towpath-builds").Patch(t.Context(), "stays", types.MergePatchType, patch(object{"status": object{"active": 1, "startTime": "2026-11-22T00:00:00Z"}}), metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("the Job controller's word of how the Job stands: %v", err)
	}
	if _, err := controller.CoreV1().Pods("towpath-builds").Patch(t.Context(), pod.Name, types.MergePatchType, patch(object{"status": object{"phase": "Running"}}), metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("a kubelet's word of how the pod stands: %v", err)
	}
	// What publish said at its end is believed: so nobody says it but the node.
	said := patch(object{"status": object{"containerStatuses": []object{{
		"name": "publish", "image": towpathImage, "imageID": towpathImage, "ready": false, "restartCount": 0,
		"state": object{"terminated": object{"exitCode": 0, "message": `{"digest":"sha256:forged"}`}},
	}}}})
	for _, who := range []string{"root", towpathAccount, jobController} {
		if _, err := c.as(who, "system:masters").CoreV1().Pods("towpath-builds").Patch(t.Context(), pod.Name, types.MergePatchType, said, metav1.PatchOptions{}, "status"); err == nil || !strings.Contains(err.Error(), "its node's to tell") {
			t.Errorf("the word of a step, by %s: %v", who, err)
		}
	}
	if _, err := c.as("system:node:one", "system:nodes", "system:masters").CoreV1().Pods("towpath-builds").Patch(t.Context(), pod.Name, types.MergePatchType, said, metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("the word of a step, by its node: %v", err)
	}
	if _, err := controller.CoreV1().Pods("towpath-builds").Patch(t.Context(), pod.Name, types.MergePatchType, patch(object{"status": object{"phase": "Failed", "reason": "NodeLost"}}), metav1.PatchOptions{}, "status"); err != nil {
		t.Errorf("a controller's word of a pod that is lost: %v", err)
	}
	for name, change := range map[string]object{
		"a finalizer": {"metadata": object{"finalizers": []string{"example.com/stays"}}},
		"an owner":    {"metadata": object{"ownerReferences": []object{{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "1"}}}},
	} {
		if _, err := daemon.BatchV1().Jobs("towpath-builds").Patch(t.Context(), "stays", types.MergePatchType, patch(change), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "neither whose it is") {
			t.Errorf("Towpath's change of the Job, %s: %v", name, err)
		}
	}
	if _, err := daemon.BatchV1().Jobs("towpath-builds").Patch(t.Context(), "stays", types.MergePatchType, patch(object{"spec": object{"parallelism": 0}}), metav1.PatchOptions{}); err == nil || !strings.Contains(err.Error(), "a build is not changed") {
		t.Errorf("Towpath's change of the Job itself: %v", err)
	}
	// A newer pin must not keep older Jobs and pods from going.
	c.pin(t, "registry.example.com/towpath@sha256:"+strings.Repeat("1", 64))
	defer c.pin(t, towpathImage)
	if _, err := controller.CoreV1().Pods("towpath-builds").Patch(t.Context(), pod.Name, types.MergePatchType, patch(object{"metadata": object{"finalizers": nil}}), metav1.PatchOptions{}); err != nil {
		t.Errorf("the Job controller lets go of a pod: %v", err)
	}
	if err := daemon.BatchV1().Jobs("towpath-builds").Delete(t.Context(), "stays", metav1.DeleteOptions{}); err != nil {
		t.Errorf("Towpath removes its Job: %v", err)
	}
}

// pin sets the image of Towpath that the policy allows, and waits until it does.
func (c *cluster) pin(t *testing.T, image string) {
	t.Helper()
	change, err := json.Marshal(map[string]any{"data": map[string]string{"towpath": image}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.as("root", "system:masters").CoreV1().ConfigMaps("towpath").Patch(t.Context(), "towpath-admission", types.MergePatchType, change, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	job := validJob("pinned")
	fetch(&job.Spec.Template.Spec).Image, publish(&job.Spec.Template.Spec).Image = image, image
	c.accepts(t, job)
}

// TestUnpinned: until the overlay names both images, nothing is built.
func TestUnpinned(t *testing.T) {
	c := install(t)
	for _, object := range render(t, "resources: [base]\n") {
		if object.GetKind() != "ConfigMap" || object.GetName() != "towpath-admission" {
			continue
		}
		data, _ := object.Object["data"].(map[string]any)
		if data["kaniko"] != "" || data["towpath"] != "" {
			t.Errorf("the base pins %v", data)
		}
		return
	}
	t.Errorf("the base has no ConfigMap towpath-admission among %d objects", len(c.objects))
}

// TestNobodyEnters: exec and its like, by somebody who may do everything.
func TestNobodyEnters(t *testing.T) {
	c := install(t)
	admin := c.as("root", "system:masters")
	job := validJob("entered")
	if _, err := c.as(towpathAccount).BatchV1().Jobs("towpath-builds").Create(t.Context(), job, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	pod := podOf(job)
	if _, err := c.as(jobController, "system:masters").CoreV1().Pods("towpath-builds").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, way := range []string{"exec", "attach", "portforward", "proxy"} {
		err := admin.CoreV1().RESTClient().Post().Namespace("towpath-builds").Resource("pods").Name(pod.Name).SubResource(way).
			Param("container", "publish").Param("command", "sh").Param("stdout", "true").Do(t.Context()).Error()
		if err == nil || !strings.Contains(err.Error(), "nobody enters") {
			t.Errorf("%s: %v", way, err)
		}
	}
	debug := pod.DeepCopy()
	debug.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}}}
	if _, err := admin.CoreV1().Pods("towpath-builds").UpdateEphemeralContainers(t.Context(), pod.Name, debug, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), "nobody enters") {
		t.Errorf("an ephemeral container: %v", err)
	}
	larger := pod.DeepCopy()
	larger.Spec.Containers[0].Resources.Limits[corev1.ResourceMemory] = resource.MustParse("2Gi")
	if _, err := admin.CoreV1().Pods("towpath-builds").UpdateResize(t.Context(), pod.Name, larger, metav1.UpdateOptions{}); err == nil || !strings.Contains(err.Error(), "nobody enters") {
		t.Errorf("another size: %v", err)
	}
}

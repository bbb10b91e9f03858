package job_test

import (
	"strings"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko/job"
)

// TestRenderedAsTheServerKeepsIt: what the API server makes of a Job is the Job
// as rendered, and the pod that comes of it passes Pod Security's baseline and
// is as the template says.
func TestRenderedAsTheServerKeepsIt(t *testing.T) {
	t.Parallel()
	client := client(t)
	makeClasses(t)
	for name, settings := range map[string]func() (job.Settings, job.Job){"minimal": minimal, "everything": everything} {
		s, what := settings()
		s.Namespace = namespace(t)
		want, err := job.Render(s, what)
		if err != nil {
			t.Fatal(err)
		}
		live, err := client.BatchV1().Jobs(s.Namespace).Create(t.Context(), want, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if place := job.JobDiffers(live, want); place != "" {
			t.Errorf("%s: the live Job differs at %s", name, place)
		}
		pod, err := client.CoreV1().Pods(s.Namespace).Create(t.Context(), podOf(live), metav1.CreateOptions{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if place := job.PodDiffers(pod, live); place != "" {
			t.Errorf("%s: the pod differs at %s", name, place)
		}
		read, err := client.BatchV1().Jobs(s.Namespace).Get(t.Context(), want.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if place := job.JobDiffers(read, want); place != "" {
			t.Errorf("%s: the Job differs at %s when read again", name, place)
		}
	}
}

// makeClasses makes what `everything` names: RuntimeClasses and PriorityClasses
// belong to the cluster.
func makeClasses(t *testing.T) {
	t.Helper()
	_, err := client(t).NodeV1().RuntimeClasses().Create(t.Context(), &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "gvisor"}, Handler: "runsc",
		Scheduling: &nodev1.Scheduling{NodeSelector: map[string]string{"runsc": "true"}},
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	_, err = client(t).SchedulingV1().PriorityClasses().Create(t.Context(), &schedulingv1.PriorityClass{
		ObjectMeta: metav1.ObjectMeta{Name: "builds"}, Value: 10,
	}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

// TestPodSecurityIsEnforcedHere: the namespace of the test above refuses what
// baseline does, so that it proves something.
func TestPodSecurityIsEnforcedHere(t *testing.T) {
	t.Parallel()
	s, what := minimal()
	s.Namespace = namespace(t)
	want, err := job.Render(s, what)
	if err != nil {
		t.Fatal(err)
	}
	want.Spec.Template.Spec.InitContainers[1].SecurityContext.Capabilities.Add = []corev1.Capability{"SYS_ADMIN"}
	pod := podOf(want)
	pod.OwnerReferences = nil
	_, err = client(t).CoreV1().Pods(s.Namespace).Create(t.Context(), pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err == nil || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("got %v, want a refusal by Pod Security", err)
	}
}

// TestAnyDifferenceIsSeen: a Job or pod that is not as rendered is told apart,
// wherever it differs.
func TestAnyDifferenceIsSeen(t *testing.T) {
	t.Parallel()
	s, what := everything()
	want, err := job.Render(s, what)
	if err != nil {
		t.Fatal(err)
	}
	live := func() *batchv1.Job {
		copied := want.DeepCopy()
		copied.UID = "1"
		copied.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{batchv1.ControllerUidLabel: "1"}}
		copied.Spec.Template.Labels[batchv1.ControllerUidLabel] = "1"
		copied.Spec.Template.Labels["job-name"] = copied.Name
		return copied
	}
	if place := job.JobDiffers(live(), want); place != "" {
		t.Fatalf("the Job itself differs at %s", place)
	}
	same := live()
	same.Spec.TTLSecondsAfterFinished = new(int32(60))
	same.Annotations["example.com/seen"] = "by somebody"
	if place := job.JobDiffers(same, want); place != "" {
		t.Errorf("what changes no build differs at %s", place)
	}
	for at, edit := range map[string]func(*batchv1.Job){
		"metadata.annotations.towpath.dev/commit": func(j *batchv1.Job) { j.Annotations["towpath.dev/commit"] = strings.Repeat("0", 40) },
		"metadata.labels.towpath.dev/image":       func(j *batchv1.Job) { delete(j.Labels, "towpath.dev/image") },
		"spec.selector":                           func(j *batchv1.Job) { j.Spec.Selector.MatchLabels = map[string]string{"app": "x"} },
		"spec.manualSelector":                     func(j *batchv1.Job) { j.Spec.ManualSelector = new(true) },
		"spec.backoffLimit":                       func(j *batchv1.Job) { j.Spec.BackoffLimit = new(int32(6)) },
		"spec.suspend":                            func(j *batchv1.Job) { j.Spec.Suspend = new(true) },
		"spec.managedBy":                          func(j *batchv1.Job) { j.Spec.ManagedBy = new("example.com/controller") },
		"spec.template.metadata.annotations.towpath.dev/publish": func(j *batchv1.Job) {
			j.Spec.Template.Annotations["towpath.dev/publish"] = strings.Replace(j.Spec.Template.Annotations["towpath.dev/publish"], "apps/podinfo", "apps/other", 1)
		},
		"spec.template.spec.containers[0].image": func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers[0].Image = "registry.example.com/towpath@" + digest("c")
		},
		"spec.template.spec.containers[0].args[0]": func(j *batchv1.Job) { j.Spec.Template.Spec.Containers[0].Args[0] = "version" },
		"spec.template.spec.hostNetwork":           func(j *batchv1.Job) { j.Spec.Template.Spec.HostNetwork = true },
		"spec.template.spec.initContainers[1].volumeMounts": func(j *batchv1.Job) {
			c := &j.Spec.Template.Spec.InitContainers[1]
			c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "registry-secret", MountPath: "/steal"})
		},
		"spec.template.spec.initContainers[1].securityContext.privileged": func(j *batchv1.Job) {
			j.Spec.Template.Spec.InitContainers[1].SecurityContext.Privileged = new(true)
		},
		"spec.template.spec.volumes[9].secret.secretName": func(j *batchv1.Job) { j.Spec.Template.Spec.Volumes[9].Secret.SecretName = "other" },
		"spec.template.spec.containers": func(j *batchv1.Job) {
			j.Spec.Template.Spec.Containers = append(j.Spec.Template.Spec.Containers, corev1.Container{Name: "sidecar"})
		},
	} {
		forged := live()
		edit(forged)
		if place := job.JobDiffers(forged, want); !strings.HasPrefix(place, at+": ") {
			t.Errorf("forged at %s: found at %q", at, place)
		}
	}

	owner := live()
	if place := job.PodDiffers(podOf(owner), owner); place != "" {
		t.Fatalf("the pod itself differs at %s", place)
	}
	decided := podOf(owner)
	decided.Spec.NodeName, decided.Spec.Priority = "node", new(int32(3))
	decided.Spec.Tolerations = append(decided.Spec.Tolerations, corev1.Toleration{Key: "node.kubernetes.io/not-ready", Operator: corev1.TolerationOpExists})
	decided.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	decided.Annotations["cni.example.com/ip"] = "10.0.0.1"
	decided.Spec.SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c26,c5"}
	decided.Spec.Containers[0].SecurityContext.SELinuxOptions = &corev1.SELinuxOptions{Level: "s0:c26,c5"}
	if place := job.PodDiffers(decided, owner); place != "" {
		t.Errorf("what the cluster decides differs at %s", place)
	}
	for at, edit := range map[string]func(*corev1.Pod){
		"metadata.ownerReferences":               func(p *corev1.Pod) { p.OwnerReferences[0].UID = "2" },
		"metadata.annotations.towpath.dev/fetch": func(p *corev1.Pod) { p.Annotations["towpath.dev/fetch"] = "{}" },
		"spec.containers[0].image":               func(p *corev1.Pod) { p.Spec.Containers[0].Image = "registry.example.com/towpath@" + digest("c") },
		"spec.containers[0].command":             func(p *corev1.Pod) { p.Spec.Containers[0].Command = []string{"sh"} },
		"spec.initContainers[0].env": func(p *corev1.Pod) {
			p.Spec.InitContainers[0].Env = append(p.Spec.InitContainers[0].Env, corev1.EnvVar{Name: "LD_PRELOAD", Value: "x"})
		},
		"spec.ephemeralContainers": func(p *corev1.Pod) { p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{}} },
		"spec.volumes[3].emptyDir": func(p *corev1.Pod) {
			p.Spec.Volumes[3].EmptyDir = nil
			p.Spec.Volumes[3].ConfigMap = &corev1.ConfigMapVolumeSource{}
		},
		"spec.shareProcessNamespace": func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = new(true) },
		"spec.serviceAccountName":    func(p *corev1.Pod) { p.Spec.ServiceAccountName = "other" },
		"spec.hostAliases": func(p *corev1.Pod) {
			p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.1", Hostnames: []string{"registry.example.com"}}}
		},
		"spec.initContainers[1].securityContext.runAsUser": func(p *corev1.Pod) { p.Spec.InitContainers[1].SecurityContext.RunAsUser = new(int64(1)) },
	} {
		forged := podOf(owner)
		edit(forged)
		if place := job.PodDiffers(forged, owner); !strings.HasPrefix(place, at) {
			t.Errorf("forged at %s: found at %q", at, place)
		}
	}
}

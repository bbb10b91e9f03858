package job_test

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko/job"
)

// client is an administrator's.
func client(t *testing.T) kubernetes.Interface {
	t.Helper()
	client, err := job.Client(lab.ControlPlane(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// namespace is one that enforces Pod Security baseline, with the service account
// of builds.
func namespace(t *testing.T) string {
	t.Helper()
	name := lab.Namespace(t, lab.ControlPlane(t), map[string]string{"pod-security.kubernetes.io/enforce": "baseline"})
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "build"}}
	if _, err := client(t).CoreV1().ServiceAccounts(name).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

// podOf is the pod that the Job controller makes of a Job.
func podOf(live *batchv1.Job) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: *live.Spec.Template.ObjectMeta.DeepCopy(),
		Spec:       *live.Spec.Template.Spec.DeepCopy(),
	}
	pod.Namespace, pod.GenerateName = live.Namespace, live.Name+"-"
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(live, batchv1.SchemeGroupVersion.WithKind("Job"))}
	pod.Finalizers = []string{batchv1.JobTrackingFinalizer}
	return pod
}

package job

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// FuzzReport: whatever a pod's status says, a report is of the order that was
// given or is not believed.
func FuzzReport(f *testing.F) {
	const order = `{"order":{}}`
	f.Add(`{"order":"` + orderDigest(order) + `","digest":"sha256:0","size":1}`)
	f.Add(`{"order":"sha256:0","fault":true,"error":"x"}`)
	f.Add(`{"order":"` + orderDigest(order) + `"}{}`)
	f.Add("")
	f.Fuzz(func(t *testing.T, message string) {
		pod := &corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
			Name: stepPublish, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Message: message}},
		}}}}
		report, err := reportOf(pod, stepPublish, order)
		if err == nil && report.Order != orderDigest(order) {
			t.Errorf("%q is believed of order %q", message, report.Order)
		}
		if err != nil && (strings.ContainsFunc(err.Error(), unicode.IsControl) || report.Digest != "") {
			t.Errorf("%q: %q with %+v", message, err, report)
		}
	})
}

// FuzzRecord: whatever somebody wrote at a failed Job, what is shown of it is
// lines of printable text.
func FuzzRecord(f *testing.F) {
	f.Add(`{"step":"build","error":"exit status 1","hint":"mend it","tail":"a\nb"}`)
	f.Add(`{"step":"\u001b[31m","error":"\u001b]0;x\u0007","tail":"\u202e\r\n\u0000"}`)
	f.Fuzz(func(t *testing.T, text string) {
		job := &batchv1.Job{
			ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{annotationFailure: text}},
			Status:     batchv1.JobStatus{Conditions: []batchv1.JobCondition{{Type: batchv1.JobFailed, Status: corev1.ConditionTrue}}},
		}
		err := recorded(job)
		if err == nil {
			return
		}
		shown := err.Error()
		if !utf8.ValidString(shown) || strings.ContainsFunc(shown, func(r rune) bool { return r != '\n' && unicode.Is(unicode.C, r) }) {
			t.Errorf("%q is shown as %q", text, shown)
		}
	})
}

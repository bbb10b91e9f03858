package job

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
)

// A pod whose Secret is not there, and a Job whose pod is refused, say so in
// events alone. They are asked for when a build does not begin as soon as others
// do: one request, then again after ever longer pauses.
const (
	firstLook = 5 * time.Second
	mostLook  = time.Minute
)

// looks is when the events of a build that does not begin are asked for.
type looks struct {
	next  time.Time
	pause time.Duration
}

// begin plans the first look, so long after the build came to be at what it is at.
func (l *looks) begin(since time.Time, first time.Duration) {
	l.next, l.pause = since.Add(first), first
}

// due tells whether it is time to look, and plans the next look.
func (l *looks) due(now time.Time) bool {
	if now.Before(l.next) {
		return false
	}
	l.pause = min(2*l.pause, mostLook)
	l.next = now.Add(l.pause)
	return true
}

// missing is what a kubelet says of a volume that it cannot make.
var missing = regexp.MustCompile(`(?i)\b(secret|configmap) "([a-z0-9.-]+)" not found|references non-existent (?:secret|config) key`)

// hindered says what keeps a build from beginning, if waiting does not mend it; nil:
// nothing of that kind is known.
func (b *Builder) hindered(ctx context.Context, job *batchv1.Job, pod *corev1.Pod) error {
	var of types.UID
	if pod == nil {
		of = job.UID
	} else {
		of = pod.UID
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	events, err := b.client.CoreV1().Events(job.Namespace).List(limited, metav1.ListOptions{
		FieldSelector: fields.Set{"involvedObject.uid": string(of), "type": corev1.EventTypeWarning}.String(), Limit: 50,
	})
	if err != nil {
		// Without the right to read them, startup's end tells as much as can be.
		if !apierrors.IsForbidden(err) {
			b.log.Debug("the events of a build were not read", "job", job.Name, "error", err)
		}
		return nil
	}
	for i := range events.Items {
		event := &events.Items[i]
		switch {
		case pod != nil && event.Reason == "FailedMount":
			if missing.MatchString(event.Message) {
				return hinted{fmt.Errorf("its pod cannot be prepared: %s", reasonOf(event.Reason, event.Message)), missingHint(event.Message, job.Namespace)}
			}
		case pod == nil && event.Reason == "FailedCreate" && !strings.Contains(event.Message, "exceeded quota"):
			// A quota has room again when others have ended.
			return hinted{errors.New("no pod is made for it: " + reasonOf(event.Reason, event.Message)), podlessHint}
		}
	}
	return nil
}

func missingHint(message, namespace string) string {
	found := missing.FindStringSubmatch(message)
	if len(found) < 3 || found[2] == "" {
		return "give it that key, in namespace " + namespace
	}
	kind := "Secret"
	if strings.EqualFold(found[1], "configmap") {
		kind = "ConfigMap"
	}
	return fmt.Sprintf("make %s %s in namespace %s: what a build mounts has to be there, beside what Towpath itself reads", kind, found[2], namespace)
}

// podlessHint is for a Job that nobody makes a pod for.
const podlessHint = "see the events of such a Job (kubectl describe job): a quota on pods, an admission policy, or no ServiceAccount " + serviceAccount + " in the namespace"

package job

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/console"
)

// state is how a build stands.
type state int

const (
	going     state = iota // it waits or works
	succeeded              // its last step ended well
	failed                 // a step ended badly by itself; its report or log says whose fault that is
	broken                 // the machinery failed, not the build
)

// verdict is what a Job and its pod say of a build.
type verdict struct {
	state state
	step  string // the container that failed
	err   error  // what happened, where it failed or broke
	doing string // what it is at, in words, while it is going
	late  error  // what to say when it is at that for longer than startup; nil: it may be
}

// startup is how long a node may take from being given a pod to starting its
// first container's sandbox. Only a volume that cannot be mounted takes longer:
// a Secret or ConfigMap that is not there, which hindered finds out before.
const startup = 5 * time.Minute

// judge tells how a build stands, from its Job and the Job's pod; pod is nil where
// there is none. Where both say something the pod counts, since the Job's status is a
// second or two behind. No clock is looked at: this machine's may differ from the
// cluster's.
func judge(job *batchv1.Job, pod *corev1.Pod) verdict {
	breaks := func(format string, args ...any) verdict {
		return verdict{state: broken, err: fmt.Errorf(format, args...)}
	}
	if pod == nil {
		switch end := ending(job); {
		case job.DeletionTimestamp != nil:
			return verdict{state: broken, err: errDeleted}
		case end == nil:
			return judgePodless()
		case end.Type == batchv1.JobComplete:
			return breaks("its pod is gone, and with it the result")
		default:
			return breaks("it failed and its pod is gone: %s", reasonOf(end.Reason, end.Message))
		}
	}
	if pod.Status.Phase == corev1.PodSucceeded {
		return verdict{state: succeeded}
	}
	if why := disrupted(pod); why != "" {
		return verdict{state: broken, err: hinted{fmt.Errorf("its pod was ended from outside: %s", why), evictionHint(pod)}}
	}
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason == "DeadlineExceeded" {
		step := reached(pod)
		late := fmt.Errorf("it was not done within its time, %s", deadlineOf(pod))
		if step == stepBuild {
			return verdict{state: failed, step: step, err: &overdue{late}}
		}
		return verdict{state: broken, err: hinted{fmt.Errorf("%w: it got as far as %s", late, or(step, "its node")), "raise builder.timeout, or find out what keeps the network or the node"}}
	}
	if pod.Status.Phase == corev1.PodFailed && pod.Status.Reason != "" {
		why := reasonOf(pod.Status.Reason, pod.Status.Message)
		return verdict{state: broken, err: hinted{fmt.Errorf("its pod was ended from outside: %s", why), evictionHint(pod)}}
	}
	if job.DeletionTimestamp != nil || pod.DeletionTimestamp != nil {
		return judgeDeleted(job, pod)
	}
	if pod.Status.Phase == corev1.PodFailed {
		return judgeFailed(pod)
	}
	if published(pod) {
		return verdict{state: succeeded}
	}
	return judgeGoing(pod)
}

// published tells whether the last step has ended well. The pod's own phase says
// so a second or two later, when the node has cleared away what the pod ran in;
// nothing about the build changes meanwhile.
func published(pod *corev1.Pod) bool {
	steps := statuses(pod)
	if len(steps) == 0 {
		return false
	}
	last := steps[len(steps)-1]
	return last.Name == stepPublish && last.State.Terminated != nil && last.State.Terminated.ExitCode == 0
}

// judgePodless judges a Job that nobody has made a pod for yet.
func judgePodless() verdict {
	return verdict{doing: "waits for its pod", late: hinted{
		fmt.Errorf("no pod was made for it within %s", startup),
		podlessHint,
	}}
}

// judgeDeleted judges a pod that is being deleted.
func judgeDeleted(job *batchv1.Job, pod *corev1.Pod) verdict {
	when := or(pod.DeletionTimestamp, job.DeletionTimestamp)
	scheduled := condition(pod, corev1.PodScheduled)
	if limit := job.Spec.ActiveDeadlineSeconds; limit != nil && (scheduled == nil || scheduled.Status != corev1.ConditionTrue) {
		allowed := time.Duration(*limit) * time.Second
		if since := job.Status.StartTime; since != nil && when.Sub(since.Time) >= allowed {
			said := "nothing is said of why"
			if scheduled != nil && scheduled.Message != "" {
				said = line(scheduled.Message)
			}
			return verdict{state: broken, err: hinted{
				fmt.Errorf("no node took its pod within %s: %s", allowed, said), "see builder.kubernetes: resources, nodeSelector, tolerations and affinity",
			}}
		}
	}
	if end := ending(job); end != nil && end.Type != batchv1.JobComplete {
		return verdict{state: broken, err: errors.New(reasonOf(end.Reason, end.Message))}
	}
	return verdict{state: broken, err: errDeleted}
}

// errDeleted is what a person, or a controller, can do to a build at any time.
var errDeleted = errors.New("it was deleted while it ran")

// overdue is a build that used up its time.
type overdue struct{ error }

func (e *overdue) Unwrap() error { return e.error }

// Hint says what to do about it.
func (*overdue) Hint() string {
	return "make the build faster, or raise builder.timeout: the same commit is not built again until then"
}

// judgeFailed judges a pod that ended by a container's failure.
func judgeFailed(pod *corev1.Pod) verdict {
	for _, status := range statuses(pod) {
		end := status.State.Terminated
		switch {
		case end == nil, end.ExitCode == 0:
			// It never ran, or did its part: another step is to blame, or the node.
			continue
		case end.Reason == "OOMKilled":
			return verdict{state: broken, step: status.Name, err: hinted{
				fmt.Errorf("%s needed more memory than its limit, or than the node had", status.Name), outOfMemory(status.Name),
			}}
		case slices.Contains([]string{"ContainerStatusUnknown", "ContainerCannotRun", "StartError", "RunContainerError", "CreateContainerError"}, end.Reason):
			return verdict{state: broken, step: status.Name, err: fmt.Errorf("%s: %s", status.Name, reasonOf(end.Reason, end.Message))}
		case end.ExitCode == 128+9 || end.ExitCode == 128+15:
			// No step ends so by itself, and a RUN step cannot kill the first process
			// of its own process namespace.
			return verdict{state: broken, step: status.Name, err: fmt.Errorf("%s was killed from outside (status %d)", status.Name, end.ExitCode)}
		default:
			return verdict{state: failed, step: status.Name, err: fmt.Errorf("ended with status %d", end.ExitCode)}
		}
	}
	return verdict{state: broken, err: fmt.Errorf("its pod failed and no step of it did: %s", reasonOf(pod.Status.Reason, pod.Status.Message))}
}

// outOfMemory is the hint where a step was killed for want of memory; only kaniko's
// limit is the user's to raise.
func outOfMemory(step string) string {
	if step == stepBuild {
		return "raise builder.kubernetes.resources.limits.memory, or have the Dockerfile need less"
	}
	return ""
}

// hopeless are the reasons for a container to wait that no waiting mends, although the
// kubelet would go on trying for ever.
var hopeless = []string{
	"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed",
	"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "CrashLoopBackOff",
}

// judgeGoing judges a pod that has not ended.
func judgeGoing(pod *corev1.Pod) verdict {
	at := ""
	for _, status := range statuses(pod) {
		switch wait := status.State.Waiting; {
		case wait != nil && slices.Contains(hopeless, wait.Reason):
			return verdict{state: broken, step: status.Name, err: hinted{
				fmt.Errorf("%s does not start: %s", status.Name, reasonOf(wait.Reason, wait.Message)), startHint(wait.Reason),
			}}
		case status.State.Running != nil:
			at = "is at " + status.Name
		}
	}
	if at != "" {
		return verdict{doing: at}
	}
	if scheduled := condition(pod, corev1.PodScheduled); scheduled == nil || scheduled.Status != corev1.ConditionTrue {
		doing := "waits for a node"
		if scheduled != nil && scheduled.Message != "" {
			doing += ": " + line(scheduled.Message)
		}
		return verdict{doing: doing}
	} else if ready := condition(pod, corev1.PodReadyToStartContainers); ready != nil && ready.Status == corev1.ConditionFalse && len(running(pod)) == 0 {
		return verdict{doing: "is prepared on node " + line(pod.Spec.NodeName), late: hinted{
			fmt.Errorf("node %s did not prepare its pod within %s", line(pod.Spec.NodeName), startup),
			"see that what it mounts is in the builds' namespace: " + strings.Join(mounted(pod), ", "),
		}}
	}
	return verdict{doing: "goes from one step to the next"}
}

// running are the containers that have begun.
func running(pod *corev1.Pod) []corev1.ContainerStatus {
	return slices.DeleteFunc(statuses(pod), func(s corev1.ContainerStatus) bool { return s.State.Running == nil && s.State.Terminated == nil })
}

// mounted names the Secrets and ConfigMaps that a pod cannot start without.
func mounted(pod *corev1.Pod) []string {
	var names []string
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.Secret != nil:
			names = append(names, "Secret "+volume.Secret.SecretName)
		case volume.ConfigMap != nil:
			names = append(names, "ConfigMap "+volume.ConfigMap.Name)
		}
	}
	if len(names) == 0 {
		names = append(names, "it mounts no Secret, so the node itself is in trouble")
	}
	return names
}

func startHint(reason string) string {
	if strings.Contains(reason, "Image") || reason == "RegistryUnavailable" || reason == "SignatureValidationFailed" {
		return "see that nodes can pull builder.kubernetes.image and builder.kaniko.image: a private registry needs imagePullSecrets at the ServiceAccount " + serviceAccount
	}
	return ""
}

// statuses are those of the steps, in their order, as far as there are any.
func statuses(pod *corev1.Pod) []corev1.ContainerStatus {
	var all []corev1.ContainerStatus
	for _, step := range []string{stepFetch, stepBuild, stepPublish} {
		for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			if status.Name == step {
				all = append(all, status)
			}
		}
	}
	return all
}

// reached is the last step that began; empty: none did.
func reached(pod *corev1.Pod) string {
	step := ""
	for _, status := range running(pod) {
		// A container that never started is ended by the deadline, too.
		if end := status.State.Terminated; end == nil || !end.StartedAt.IsZero() {
			step = status.Name
		}
	}
	return step
}

func deadlineOf(pod *corev1.Pod) time.Duration {
	if pod.Spec.ActiveDeadlineSeconds == nil {
		return 0
	}
	return time.Duration(*pod.Spec.ActiveDeadlineSeconds) * time.Second
}

// disrupted says why the cluster ended a pod; empty: it did not.
func disrupted(pod *corev1.Pod) string {
	if c := condition(pod, corev1.DisruptionTarget); c != nil && c.Status == corev1.ConditionTrue {
		return reasonOf(c.Reason, or(c.Message, pod.Status.Message))
	}
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Reason == "NodeLost" {
		return reasonOf(pod.Status.Reason, pod.Status.Message)
	}
	return ""
}

// evictionHint is for a build that was ended for what it took itself.
func evictionHint(pod *corev1.Pod) string {
	if said := strings.ToLower(pod.Status.Message); strings.Contains(said, "exceed") && (strings.Contains(said, "emptydir") || strings.Contains(said, "storage")) {
		return "raise builder.kubernetes.resources.limits.ephemeral-storage, or have the Dockerfile leave less"
	}
	return ""
}

func condition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// ending is the condition that a Job has ended with, or is about to; nil if it
// goes on.
func ending(job *batchv1.Job) *batchv1.JobCondition {
	var about *batchv1.JobCondition
	for i := range job.Status.Conditions {
		c := &job.Status.Conditions[i]
		if c.Status != corev1.ConditionTrue {
			continue
		}
		switch c.Type {
		case batchv1.JobComplete, batchv1.JobFailed:
			return c
		case batchv1.JobFailureTarget:
			about = c
		}
	}
	return about
}

// finished tells whether a Job will start nothing any more.
func finished(job *batchv1.Job) bool {
	end := ending(job)
	return end != nil && end.Type != batchv1.JobFailureTarget
}

// longest is the deadline of the longest build that a config can ask for.
const longest = 24*time.Hour + queueing

// endless tells whether a Job would never end: nobody starts it, or nothing ends
// it. No version of Towpath makes such a one.
func endless(job *batchv1.Job) bool {
	spec := &job.Spec
	return spec.Suspend != nil && *spec.Suspend || spec.ManagedBy != nil && *spec.ManagedBy != batchv1.JobControllerName ||
		spec.Parallelism != nil && *spec.Parallelism == 0 ||
		spec.ActiveDeadlineSeconds == nil || *spec.ActiveDeadlineSeconds > int64(longest.Seconds())
}

func reasonOf(reason, message string) string {
	return line(strings.Trim(reason+": "+message, ": "))
}

// line makes one line of what others wrote, fit for a terminal.
func line(text string) string { return console.Cut(console.Clean([]byte(text)), 500) }

// reportOf reads what a step said at its end. The error says why it is not
// believed: it is cut, or of another order than the one given.
func reportOf(pod *corev1.Pod, step, order string) (kaniko.Report, error) {
	var report kaniko.Report
	for _, status := range statuses(pod) {
		if status.Name != step || status.State.Terminated == nil {
			continue
		}
		message := status.State.Terminated.Message
		if message == "" {
			return report, fmt.Errorf("%s left no report", step)
		}
		decoder := json.NewDecoder(strings.NewReader(message))
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&report)
		if _, more := decoder.Token(); err != nil || !errors.Is(more, io.EOF) {
			return kaniko.Report{}, fmt.Errorf("the report of %s does not parse: %d bytes", step, len(message))
		}
		if want := orderDigest(order); report.Order != want {
			return kaniko.Report{}, fmt.Errorf("%s carried out the order %q, and it was given %s", step, line(report.Order), want)
		}
		return report, nil
	}
	return report, fmt.Errorf("%s did not end", step)
}

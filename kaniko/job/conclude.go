package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/console"
)

const (
	tailLines = 100 // lines of kaniko's log that are asked for
	// tailBytes bounds what comes. A limit keeps the beginning of those lines and
	// drops the end, which tells whose fault it was, so it is more than nodes keep
	// of a log.
	tailBytes = 16 << 20
	// unreadable is how long the log of a failed build may be out of reach before the
	// failure is recorded without.
	unreadable = 10 * time.Minute
)

// conclude judges a build that has ended by itself. A result is worth more than what
// the watches show, so Job and pod are first read anew from the API server.
func (b *Builder) conclude(ctx context.Context, want, known *batchv1.Job, seen *corev1.Pod) (Built, error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	job, err := b.client.BatchV1().Jobs(known.Namespace).Get(limited, known.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && job.UID != known.UID {
		return Built{}, errDeleted
	}
	if err != nil {
		return Built{}, hintAPI(fmt.Errorf("read it again: %w", err))
	}
	pod, err := b.client.CoreV1().Pods(seen.Namespace).Get(limited, seen.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && pod.UID != seen.UID {
		return Built{}, b.discard(ctx, job, errors.New("its pod is gone, and with it what became of it"))
	}
	if err != nil {
		return Built{}, hintAPI(fmt.Errorf("read its pod again: %w", err))
	}
	if place := or(jobDiffers(job, want), podDiffers(pod, job)); place != "" {
		return Built{}, b.disbelieve(ctx, job, place)
	}
	if place := imageDiffers(pod); place != "" {
		return Built{}, b.disbelieve(ctx, job, place)
	}
	switch stands := judge(job, pod); stands.state {
	case succeeded:
		return b.believe(ctx, job, pod)
	case failed:
		return Built{}, b.blame(ctx, job, pod, stands)
	case broken:
		return Built{}, b.discard(ctx, job, stands.err)
	default:
		return Built{}, errors.New("it goes on although it had ended")
	}
}

// disbelieve removes a Job whose result is not believed.
func (b *Builder) disbelieve(ctx context.Context, job *batchv1.Job, why string) error {
	return b.discard(ctx, job, hinted{fmt.Errorf("its result is not believed: %s", why),
		"see who may write in namespace " + job.Namespace + ", and whether an admission webhook changes build pods there; on nodes that name an image by the manifest of their platform, name that one in the config"})
}

// believe takes the result of a build that ended well.
func (b *Builder) believe(ctx context.Context, job *batchv1.Job, pod *corev1.Pod) (Built, error) {
	template := job.Spec.Template.Annotations
	fetched, err := reportOf(pod, stepFetch, template[annotationFetch])
	if err != nil {
		return Built{}, b.disbelieve(ctx, job, err.Error())
	}
	published, err := reportOf(pod, stepPublish, template[annotationPublish])
	switch {
	case err != nil:
		return Built{}, b.disbelieve(ctx, job, err.Error())
	case published.Error != "" || !digest.MatchString(published.Digest) || published.Size <= 0:
		return Built{}, b.disbelieve(ctx, job, fmt.Sprintf("publish ended well and reports digest %q, %d bytes, error %q", line(published.Digest), published.Size, line(published.Error)))
	}
	built := Built{
		Digest: published.Digest, Size: published.Size,
		Run: job.Namespace + "/" + job.Name + "/" + string(job.UID), Started: job.CreationTimestamp.Time,
	}
	for _, warning := range fetched.Warnings {
		built.Warnings = append(built.Warnings, line(warning))
	}
	for _, status := range statuses(pod) {
		end := status.State.Terminated
		if end == nil {
			continue
		}
		took := end.FinishedAt.Sub(end.StartedAt.Time)
		switch status.Name {
		case stepFetch:
			built.Times.Fetch = took
		case stepBuild:
			built.Times.Build = took
		case stepPublish:
			built.Times.Publish, built.Finished = took, end.FinishedAt.Time
		}
	}
	b.expire(ctx, job)
	return built, nil
}

// blame tells whose fault a step's failure was, and records it where it was the
// build's own.
func (b *Builder) blame(ctx context.Context, job *batchv1.Job, pod *corev1.Pod, stands verdict) error {
	fault := &kaniko.BuildError{Step: stands.step, Err: stands.err, Kept: true}
	if stands.step == stepBuild {
		fault.Step = "build"
		tail, err := b.tail(ctx, pod)
		switch {
		case err == nil:
		case apierrors.IsForbidden(err):
			b.log.Warn("the log of a failed build may not be read", "job", job.Name, "error", err)
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case b.mayBeReadLater(job):
			// The Job stays: its log says whose fault it was, and is asked for again.
			return fmt.Errorf("kaniko failed, and its log cannot be read at the moment: %w", err)
		}
		fault.Tail = strings.Join(tail.Lines(), "\n")
		var late *overdue
		if !errors.As(stands.err, &late) {
			own, why := tail.Judge(statusOf(pod, stepBuild))
			why = hinted{why, console.Advice(why.Error(), tail.Lines(), b.opening)}
			if !own {
				return b.discard(ctx, job, fmt.Errorf("build: %w", why))
			}
			fault.Err = why
		}
	} else {
		order := annotationFetch
		if stands.step == stepPublish {
			order = annotationPublish
		}
		report, err := reportOf(pod, stands.step, job.Spec.Template.Annotations[order])
		switch {
		case err != nil:
			return b.discard(ctx, job, fmt.Errorf("%s %w: %w", stands.step, stands.err, err))
		case report.Error == "":
			return b.discard(ctx, job, fmt.Errorf("%s %w, and reports no error", stands.step, stands.err))
		}
		failure := errors.New(console.Cut(console.Clean([]byte(report.Error)), maxReport))
		if report.Hint != "" {
			failure = hinted{failure, line(report.Hint)}
		} else if advice := console.Unreached(failure.Error(), b.opening); advice != "" {
			failure = hinted{failure, advice}
		}
		if !report.Fault {
			return b.discard(ctx, job, fmt.Errorf("%s: %w", stands.step, failure))
		}
		fault.Err = failure
	}
	b.record(ctx, job, fault)
	return fault
}

// opening says what opens a private address to build Jobs: a line of the config and,
// since the config changes no NetworkPolicy, a rule of one.
func (b *Builder) opening(address string) string {
	host, port, _ := net.SplitHostPort(address)
	bits := 32
	if strings.Contains(host, ":") {
		bits = 128
	}
	return fmt.Sprintf("builder.egress: [%q] and, in network.yaml, a rule of the NetworkPolicy egress in namespace %s: "+
		`- {to: [{ipBlock: {cidr: "%s/%d"}}], ports: [{protocol: TCP, port: %s}]}`, address, b.settings.Namespace, host, bits, port)
}

// tail is the end of what kaniko printed, bounded and cleaned. The log has both
// of its streams in one, so a RUN step can put words into kaniko's mouth; all it
// gains is to be built again.
func (b *Builder) tail(ctx context.Context, pod *corev1.Pod) (*console.Tail, error) {
	tail := &console.Tail{}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	log, err := b.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: stepBuild, TailLines: new(int64(tailLines)), LimitBytes: new(int64(tailBytes)),
	}).Stream(limited)
	if err != nil {
		return tail, err
	}
	defer log.Close()
	stream := &console.Stream{Tail: tail, Kaniko: true}
	_, err = io.Copy(stream, io.LimitReader(log, tailBytes))
	stream.Flush()
	return tail, err
}

func statusOf(pod *corev1.Pod, step string) int {
	for _, status := range statuses(pod) {
		if status.Name == step && status.State.Terminated != nil {
			return int(status.State.Terminated.ExitCode)
		}
	}
	return 0
}

// mayBeReadLater tells whether the log of a failed build, which cannot be read
// now, is worth another try.
func (b *Builder) mayBeReadLater(job *batchv1.Job) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first, known := b.unread[job.UID]
	if !known {
		first = time.Now()
		b.unread[job.UID] = first
	}
	if time.Since(first) < unreadable {
		return true
	}
	delete(b.unread, job.UID)
	return false
}

// failure is what is written to the Job of a failed build, for those who ask
// after its pod and log are gone: nodes come and go.
type failure struct {
	Step string `json:"step"`
	Err  string `json:"error"`
	Hint string `json:"hint,omitempty"`
	Tail string `json:"tail,omitempty"`
}

// record writes down why a build failed. Without it the next process reads the
// pod and the log again.
func (b *Builder) record(ctx context.Context, job *batchv1.Job, fault *kaniko.BuildError) {
	entry := failure{Step: fault.Step, Err: fault.Err.Error(), Tail: fault.Tail}
	var own interface{ Hint() string }
	if errors.As(fault.Err, &own) {
		entry.Hint = own.Hint()
	}
	encoded, err := json.Marshal(entry)
	if err == nil {
		err = b.patch(ctx, job, map[string]any{"metadata": map[string]any{"annotations": map[string]string{annotationFailure: string(encoded)}}})
	}
	if err != nil {
		b.log.Warn("the failure of a build was not recorded at its Job", "job", job.Name, "error", err)
	}
}

// recorded is the build's own failure that is written down at a Job; nil: none is.
func recorded(job *batchv1.Job) error {
	text := job.Annotations[annotationFailure]
	end := ending(job)
	if text == "" || end == nil || end.Type == batchv1.JobComplete {
		return nil
	}
	var entry failure
	err := json.Unmarshal([]byte(text), &entry)
	if err != nil || entry.Err == "" {
		return nil //nolint:nilerr // somebody else's words: the pod is asked
	}
	var lines []string
	for _, one := range strings.Split(entry.Tail, "\n") {
		if one = line(one); one != "" {
			lines = append(lines, one)
		}
	}
	why := errors.New(console.Cut(console.Clean([]byte(entry.Err)), maxReport))
	if entry.Hint != "" {
		why = hinted{why, line(entry.Hint)}
	}
	return &kaniko.BuildError{Step: line(entry.Step), Err: why, Tail: strings.Join(lines, "\n"), Kept: true}
}

// expire lets Kubernetes remove the Job of a successful build some time from its
// end on. A daemon that dies between this and the seal finds it until then.
func (b *Builder) expire(ctx context.Context, job *batchv1.Job) {
	if job.Spec.TTLSecondsAfterFinished != nil {
		return
	}
	ttl := int32(max(b.settings.ttl().Seconds(), 1))
	if err := b.patch(ctx, job, map[string]any{"spec": map[string]any{"ttlSecondsAfterFinished": ttl}}); err != nil {
		b.log.Debug("the Job of a successful build is not let go yet", "job", job.Name, "error", err)
	}
}

// patch changes a Job, this one and no other of its name.
func (b *Builder) patch(ctx context.Context, job *batchv1.Job, change map[string]any) error {
	meta, ok := change["metadata"].(map[string]any)
	if !ok {
		meta = map[string]any{}
		change["metadata"] = meta
	}
	meta["uid"] = job.UID
	encoded, err := json.Marshal(change)
	if err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	_, err = b.client.BatchV1().Jobs(job.Namespace).Patch(limited, job.Name, types.MergePatchType, encoded, metav1.PatchOptions{})
	return err
}

package job

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"towpath.dev/towpath/kaniko/console"
)

// Line is one line of what a build printed, cleaned.
type Line struct {
	Job  string `json:"job"`
	Step string `json:"step"` // fetch, kaniko or publish; empty: said by Towpath about the build
	Text string `json:"text"`
}

// longestLine bounds a line of a log, in bytes; what is longer is cut.
const longestLine = 16 << 10

// Logs prints what the newest build of an image printed, its steps in their
// order. With follow it goes on until the build has ended; else it ends with what
// there is.
func (b *Builder) Logs(ctx context.Context, image string, follow bool, print func(Line)) error {
	jobs, pods, err := b.list(ctx, ofImage(image))
	if err != nil {
		return err
	}
	if len(jobs) == 0 {
		return hinted{fmt.Errorf("no build of %s is kept in namespace %s", image, b.settings.Namespace),
			"failed builds are kept, successful ones for builder.kubernetes.ttl; towpath why " + image + " tells how it stands"}
	}
	l := &follower{builder: b, job: &jobs[0], pod: pods[jobs[0].UID], follow: follow, print: print}
	for _, step := range []string{stepFetch, stepBuild, stepPublish} {
		status, err := l.begun(ctx, step)
		if err != nil {
			return err
		}
		if status == nil {
			break
		}
		if err := l.copy(ctx, step); err != nil {
			return err
		}
	}
	l.conclude()
	return nil
}

// follower copies the log of one build.
type follower struct {
	builder *Builder
	job     *batchv1.Job
	pod     *corev1.Pod // as last seen; nil: none yet
	follow  bool
	print   func(Line)
	said    string
}

func (l *follower) say(text string) {
	if text != "" && text != l.said {
		l.said = text
		l.print(Line{Job: l.job.Name, Text: text})
	}
}

// conclude says how the build ended, as far as that is known.
func (l *follower) conclude() {
	if ended := recorded(l.job); ended != nil && l.pod == nil {
		l.say("its pod and log are gone; what was recorded of it: " + line(ended.Error()))
		return
	}
	switch stands := judge(l.job, l.pod); stands.state {
	case going:
		l.say("the build " + stands.doing)
	case succeeded:
		l.say("the build succeeded")
	default:
		l.say("the build failed: " + line(strings.TrimPrefix(stands.step+": "+stands.err.Error(), ": ")))
	}
}

// begun waits until a step has begun, if it may wait; nil: it has not, and there
// is nothing more to wait for.
func (l *follower) begun(ctx context.Context, step string) (*corev1.ContainerStatus, error) {
	for {
		if l.pod != nil {
			for _, status := range running(l.pod) {
				if status.Name == step {
					return &status, nil
				}
			}
		}
		stands := judge(l.job, l.pod)
		if !l.follow || stands.state != going {
			return nil, nil //nolint:nilnil // as documented
		}
		l.say("the build " + stands.doing)
		if err := l.change(ctx); err != nil {
			return nil, err
		}
	}
}

// change waits until the pod has changed, or been made.
func (l *follower) change(ctx context.Context) error {
	options := metav1.ListOptions{LabelSelector: selector + "," + batchv1.ControllerUidLabel + "=" + string(l.job.UID)}
	pods := l.builder.client.CoreV1().Pods(l.job.Namespace)
	list, err := pods.List(ctx, options)
	if err != nil {
		return hintAPI(fmt.Errorf("read the build's pod: %w", err))
	}
	switch {
	case len(list.Items) == 0 && l.pod != nil:
		return errors.New("the build's pod is gone")
	case len(list.Items) > 0 && (l.pod == nil || list.Items[0].ResourceVersion != l.pod.ResourceVersion):
		l.pod = &list.Items[0]
		return nil
	}
	options.ResourceVersion = list.ResourceVersion
	events, err := pods.Watch(ctx, options)
	if err != nil {
		return hintAPI(fmt.Errorf("watch the build's pod: %w", err))
	}
	defer events.Stop()
	select {
	case event, open := <-events.ResultChan():
		if pod, ok := event.Object.(*corev1.Pod); open && ok && event.Type != watch.Deleted {
			l.pod = pod
		}
		return nil // a watch that ended is begun anew
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// copy prints a step's log. A stream that breaks while the step goes on is taken
// up where it broke.
func (l *follower) copy(ctx context.Context, step string) error {
	var last time.Time // of the last line that was printed
	for {
		options := &corev1.PodLogOptions{Container: step, Follow: l.follow, Timestamps: true}
		if !last.IsZero() {
			options.SinceTime = new(metav1.NewTime(last))
		}
		log, err := l.builder.client.CoreV1().Pods(l.pod.Namespace).GetLogs(l.pod.Name, options).Stream(ctx)
		if err == nil {
			err = l.lines(log, step, &last)
			log.Close()
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && last.IsZero():
			return hintAPI(fmt.Errorf("log of %s: %w", step, err))
		case !l.follow:
			return err
		}
		// Has the step ended, or only the stream?
		pod, readErr := l.builder.client.CoreV1().Pods(l.pod.Namespace).Get(ctx, l.pod.Name, metav1.GetOptions{})
		if readErr != nil {
			return hintAPI(fmt.Errorf("read the build's pod: %w", errors.Join(readErr, err)))
		}
		l.pod = pod
		for _, status := range statuses(pod) {
			if status.Name == step && status.State.Terminated != nil {
				return nil
			}
		}
		if err := l.change(ctx); err != nil {
			return err
		}
	}
}

// lines prints a log's lines that are newer than last. Each begins with its time.
func (l *follower) lines(log io.Reader, step string, last *time.Time) error {
	reader := bufio.NewReaderSize(log, longestLine)
	for {
		raw, cut, err := reader.ReadLine()
		if err == nil {
			stamp, text, _ := strings.Cut(string(raw), " ")
			when, wrong := time.Parse(time.RFC3339Nano, stamp)
			if wrong != nil {
				text = string(raw)
			}
			if wrong != nil || when.After(*last) {
				if wrong == nil {
					*last = when
				}
				text = console.Clean([]byte(text))
				if cut {
					text += "…"
				}
				l.print(Line{Job: l.job.Name, Step: step, Text: text})
			}
		}
		for cut && err == nil {
			_, cut, err = reader.ReadLine()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

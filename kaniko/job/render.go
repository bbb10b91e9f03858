package job

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/executor"
)

// Labels and annotations of Jobs and their pods.
const (
	prefix = "towpath.dev/"

	labelManager = "app.kubernetes.io/managed-by"
	manager      = "towpath"
	labelImage   = prefix + "image"
	labelKey     = prefix + "key" // the first 16 digits of the build key

	annotationCommit  = prefix + "commit"
	annotationFetch   = prefix + "fetch"   // kaniko.Fetch, which the first step reads
	annotationPublish = prefix + "publish" // kaniko.Publish, which the last step reads
	annotationFailure = prefix + "failure" // of a Job alone: what became of it, see record
)

// The three steps are containers of these names.
const (
	stepFetch   = "fetch"
	stepBuild   = "kaniko"
	stepPublish = "publish"
)

// selector finds the Jobs and pods of every Towpath in the namespace.
const selector = labelManager + "=" + manager

// maxOrder bounds what a step is told: annotations may have 256 KiB in all, and
// there are two.
const maxOrder = 100 << 10

// Job is one build. Secrets are named, never held: the node mounts each into
// the one step that needs it.
type Job struct {
	Order      kaniko.Order
	GitSecret  string // Secrets in the builds' namespace; empty: none
	PullSecret string // of base images
	PushSecret string // empty: no credential
}

// Name is the name of the Job that builds an order. Two copies of Towpath that
// are after the same image make the same one, and so collide instead of
// building twice. It is a DNS label of at most 63 characters.
func Name(order kaniko.Order) string {
	sum := sha256.Sum256([]byte(string(order.Key()) + "\n" + order.Destination.Repository))
	const digits = 16
	image := order.Image
	if room := 63 - digits - 1; len(image) > room {
		image = strings.TrimRight(image[:room], "-")
	}
	return image + "-" + hex.EncodeToString(sum[:])[:digits]
}

// Render is the Job for a build. Every field that the API server would fill in
// is filled in already, so that a live Job can be compared with it.
func Render(s Settings, what Job) (*batchv1.Job, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	order := what.Order
	if err := executor.CheckOrder(order); err != nil {
		return nil, err
	}
	if image, err := Pinned(s.Kaniko); err != nil || order.Executor != image {
		return nil, fmt.Errorf("the order is for executor %s, and kaniko's image is %s", order.Executor, image)
	}
	own, err := ordersOf(what)
	if err != nil {
		return nil, err
	}
	labels := map[string]string{
		labelManager: manager,
		labelImage:   order.Image,
		labelKey:     string(order.Key())[:16],
	}
	annotations := maps.Clone(s.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(annotations, own)
	seconds := int64((s.timeout() + queueing).Seconds())
	return &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name: Name(order), Namespace: s.Namespace, Labels: labels, Annotations: annotations,
		},
		Spec: batchv1.JobSpec{
			Parallelism:           new(int32(1)),
			Completions:           new(int32(1)),
			BackoffLimit:          new(int32(0)),
			ActiveDeadlineSeconds: &seconds,
			ManualSelector:        new(false),
			CompletionMode:        new(batchv1.NonIndexedCompletion),
			Suspend:               new(false),
			PodReplacementPolicy:  new(batchv1.TerminatingOrFailed),
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: maps.Clone(labels), Annotations: maps.Clone(annotations)},
				Spec:       podSpec(s, what),
			},
		},
	}, nil
}

// ordersOf are the annotations that tell the steps what to do.
func ordersOf(what Job) (map[string]string, error) {
	reporting := kaniko.Reporting{Report: corev1.TerminationMessagePathDefault, ReportLimit: maxReport}
	fetch := kaniko.Fetch{
		Order:   what.Order,
		Context: workDir + "/" + contextDir, Bases: workDir + "/" + basesDir, Network: networkDir,
		Reporting: reporting,
	}
	if what.GitSecret != "" {
		fetch.GitSecret = gitSecretDir
	}
	if what.PullSecret != "" {
		fetch.PullSecret = pullSecretDir
	}
	publish := kaniko.Publish{
		Order: what.Order, Layout: outDir + strings.TrimPrefix(executor.Layout, executor.Out),
		Reporting: reporting,
	}
	if what.PushSecret != "" {
		publish.Secret = registrySecretDir
	}
	annotations := map[string]string{annotationCommit: what.Order.Source.Commit}
	for key, step := range map[string]any{annotationFetch: fetch, annotationPublish: publish} {
		encoded, err := json.Marshal(step)
		if err != nil {
			return nil, fmt.Errorf("encode order: %w", err)
		}
		if len(encoded) > maxOrder {
			return nil, hinted{errors.New("the order is larger than a Job may carry"), "shorten the image's build arguments"}
		}
		annotations[key] = string(encoded)
	}
	return annotations, nil
}

// orderDigest is what a step says of the order it carried out.
func orderDigest(annotation string) string {
	sum := sha256.Sum256([]byte(annotation))
	return "sha256:" + hex.EncodeToString(sum[:])
}

// hinted is an error that a person can mend.
type hinted struct {
	error
	hint string
}

func (e hinted) Unwrap() error { return e.error }

// Hint says what to do about it.
func (e hinted) Hint() string { return e.hint }

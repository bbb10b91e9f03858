package job_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	registrationv1 "k8s.io/api/admissionregistration/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// create makes a Job as somebody else.
func (s *standin) create(j *batchv1.Job) *batchv1.Job {
	s.t.Helper()
	j, err := s.client.BatchV1().Jobs(s.namespace).Create(s.t.Context(), j, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return j
}

// TestForgedJob: a Job of a build's name that is not as rendered is never
// believed, whatever it says. Its end is waited for, since it may be another
// version's, and then the build is done.
func TestForgedJob(t *testing.T) {
	t.Parallel()
	for name, finished := range map[string]bool{"at work": false, "finished": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			forged, err := job.Render(s, what)
			if err != nil {
				t.Fatal(err)
			}
			forged.Spec.Template.Spec.InitContainers[1].Args = append(forged.Spec.Template.Spec.InitContainers[1].Args, "--build-arg=EVIL=1")
			forged = cluster.create(forged)
			cluster.succeed(cluster.pod(forged, nil), digest("e"))
			if finished {
				cluster.end(forged, batchv1.JobComplete, "CompletionsReached", "")
			}
			done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
			if !finished {
				select {
				case o := <-done:
					t.Fatalf("it did not wait: %+v, %v", o.built, o.err)
				case <-cluster.quiet():
				}
				cluster.end(forged, batchv1.JobComplete, "CompletionsReached", "")
			}
			own := cluster.made(what.Order, forged)
			if place := job.JobDiffers(own, must(job.Render(s, what))); place != "" {
				t.Errorf("the second Job is not as rendered: %s", place)
			}
			cluster.succeed(cluster.pod(own, nil), digest("d"))
			if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
				t.Errorf("got %+v, %v", o.built, o.err)
			}
		})
	}
}

// overhearing is a log that tells of a message, once, while it is written.
type overhearing struct {
	slog.Handler
	message string
	then    func()
}

func (o overhearing) Handle(ctx context.Context, r slog.Record) error {
	if r.Message == o.message {
		o.then()
	}
	return o.Handler.Handle(ctx, r)
}

// TestForgedJobEndsUnheard: a Job that is in the way ends, or goes, between the look
// at it and the wait for its end, which is then not waited for.
func TestForgedJobEndsUnheard(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(*standin, *batchv1.Job){
		"finished": func(s *standin, forged *batchv1.Job) { s.end(forged, batchv1.JobFailed, "BackoffLimitExceeded", "") },
		"deleted": func(s *standin, forged *batchv1.Job) {
			if err := s.client.BatchV1().Jobs(s.namespace).Delete(s.t.Context(), forged.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}); err != nil {
				s.t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			forged := must(job.Render(s, what))
			forged.Spec.Template.Spec.InitContainers[1].Args = append(forged.Spec.Template.Spec.InitContainers[1].Args, "--build-arg=EVIL=1")
			forged = cluster.create(forged)
			log := slog.New(overhearing{slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}), "build Job adopted", sync.OnceFunc(func() {
				ends(cluster, forged)
				<-cluster.quiet() // the builder has seen it
			})})
			b := must(job.New(must(job.Client(daemon(t, s.Namespace), nil)), s, log))
			defer b.Close()
			done := run(t.Context(), b, what)
			cluster.succeed(cluster.pod(cluster.made(what.Order, forged), nil), digest("d"))
			if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
				t.Errorf("got %+v, %v", o.built, o.err)
			}
		})
	}
}

// TestForgedJobOutOfSight: a Job of a build's name that has none of our labels is
// in the way only as long as it is there and at work.
func TestForgedJobOutOfSight(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(*standin, *batchv1.Job){
		"finished": func(s *standin, forged *batchv1.Job) { s.end(forged, batchv1.JobFailed, "BackoffLimitExceeded", "") },
		"deleted": func(s *standin, forged *batchv1.Job) {
			if err := s.client.BatchV1().Jobs(s.namespace).Delete(t.Context(), forged.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)}); err != nil {
				t.Error(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			forged := must(job.Render(s, what))
			forged.Labels, forged.Spec.Template.Labels = nil, nil
			forged = cluster.create(forged)
			reading, said := io.Pipe()
			defer reading.Close()
			b := must(job.New(must(job.Client(daemon(t, s.Namespace), nil)), s, slog.New(slog.NewTextHandler(said, nil))))
			defer b.Close()
			b.Glance(20 * time.Millisecond)
			done := run(t.Context(), b, what)
			for lines := bufio.NewScanner(reading); lines.Scan() && !strings.Contains(lines.Text(), "its end is waited for"); {
			}
			go func() { _, _ = io.Copy(io.Discard, reading) }()
			ends(cluster, forged)
			cluster.succeed(cluster.pod(cluster.made(what.Order, forged), nil), digest("d"))
			if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
				t.Errorf("got %+v, %v", o.built, o.err)
			}
		})
	}
}

// TestJobChangedOnItsWay: where a webhook makes another Job of ours, nothing is
// built to be thrown away: it is said what was changed.
func TestJobChangedOnItsWay(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	authority := lab.NewCA(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		review.Response = &admissionv1.AdmissionResponse{
			UID: review.Request.UID, Allowed: true, PatchType: new(admissionv1.PatchTypeJSONPatch),
			Patch: []byte(`[{"op": "add", "path": "/spec/template/metadata/labels/sidecar", "value": "injected"}]`),
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review)
	}))
	pair, err := tls.X509KeyPair(authority.Issue(t, "127.0.0.1"))
	if err != nil {
		t.Fatal(err)
	}
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	t.Cleanup(server.Close)
	hooks := cluster.client.AdmissionregistrationV1().MutatingWebhookConfigurations()
	hook, err := hooks.Create(t.Context(), &registrationv1.MutatingWebhookConfiguration{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "changes-jobs-"},
		Webhooks: []registrationv1.MutatingWebhook{{
			Name: "jobs.example.com", SideEffects: new(registrationv1.SideEffectClassNone), AdmissionReviewVersions: []string{"v1"},
			ClientConfig:      registrationv1.WebhookClientConfig{URL: new(server.URL + "/"), CABundle: authority.PEM},
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.Namespace}},
			Rules: []registrationv1.RuleWithOperations{{
				Operations: []registrationv1.OperationType{registrationv1.Create},
				Rule:       registrationv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
			}},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := hooks.Delete(context.Background(), hook.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	// It is in force a moment after it was accepted.
	eventually(t, "the webhook", func() bool {
		tried, err := cluster.client.BatchV1().Jobs(s.Namespace).Create(t.Context(), must(job.Render(s, what)), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err == nil && tried.Spec.Template.Labels["sidecar"] != ""
	})
	o := result(t, run(t.Context(), builder(t, daemon(t, s.Namespace), s), what))
	if o.err == nil || !strings.Contains(o.err.Error(), "it was changed on its way into the cluster: spec.template.metadata.labels.sidecar: found \"injected\", want nothing") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
	var hinted interface{ Hint() string }
	if !errors.As(o.err, &hinted) || !strings.Contains(hinted.Hint(), "which admission webhook") {
		t.Errorf("no hint: %v", o.err)
	}
	cluster.gone(what.Order)
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// TestForgedResults: whoever writes pods, statuses or messages gains nothing: the
// result is not believed, what was found is said, and the Job is removed.
func TestForgedResults(t *testing.T) {
	t.Parallel()
	good := func(p *corev1.Pod) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{
			ran(p, "fetch", 0, "", report(p, "fetch", kaniko.Report{})), ran(p, "kaniko", 0, "", ""),
			ran(p, "publish", 0, "", report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1})),
		}
	}
	published := func(message func(p *corev1.Pod) string) func(p *corev1.Pod) []corev1.ContainerStatus {
		return func(p *corev1.Pod) []corev1.ContainerStatus {
			return append(good(p)[:2], ran(p, "publish", 0, "", message(p)))
		}
	}
	for name, test := range map[string]struct {
		pod    func(*corev1.Pod)
		status func(*corev1.Pod) []corev1.ContainerStatus
		want   string
	}{
		"a pod with another image": {
			pod:  func(p *corev1.Pod) { p.Spec.Containers[0].Image = "evil.example.com/towpath@" + digest("9") },
			want: "spec.containers[0].image: found",
		},
		"a pod with another order": {
			pod: func(p *corev1.Pod) {
				p.Annotations["towpath.dev/publish"] = strings.Replace(p.Annotations["towpath.dev/publish"], "/out/image", "/forged", 1)
			},
			want: "metadata.annotations.towpath.dev/publish: found",
		},
		"a pod that mounts more": {
			pod: func(p *corev1.Pod) {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "forged", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "forged"}}}})
			},
			want: "spec.volumes: found",
		},
		"a container that ran another image": {
			status: func(p *corev1.Pod) []corev1.ContainerStatus {
				all := good(p)
				all[1].ImageID = "evil.example.com/kaniko@" + digest("9")
				return all
			},
			want: "the node says that kaniko ran evil.example.com/kaniko@" + digest("9"),
		},
		"an image without a digest": {
			status: func(p *corev1.Pod) []corev1.ContainerStatus {
				all := good(p)
				all[2].ImageID = digest("a")
				return all
			},
			want: "the node says that publish ran sha256:",
		},
		"no message": {status: published(func(*corev1.Pod) string { return "" }), want: "publish left no report"},
		"a message that is cut": {status: published(func(p *corev1.Pod) string {
			m := report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1})
			return m[:len(m)-3]
		}), want: "the report of publish does not parse"},
		"a message and more": {status: published(func(p *corev1.Pod) string {
			return report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1}) + "{}"
		}), want: "the report of publish does not parse"},
		"a message and a brace": {status: published(func(p *corev1.Pod) string {
			return report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1}) + "}"
		}), want: "the report of publish does not parse"},
		"a message of another order": {
			status: published(func(p *corev1.Pod) string {
				return strings.Replace(report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1}), "sha256:", "sha256:0", 1)
			}), want: "publish carried out the order",
		},
		"no digest":        {status: published(func(p *corev1.Pod) string { return report(p, "publish", kaniko.Report{Size: 1}) }), want: `publish ended well and reports digest ""`},
		"a tag for digest": {status: published(func(p *corev1.Pod) string { return report(p, "publish", kaniko.Report{Digest: "latest", Size: 1}) }), want: `publish ended well and reports digest "latest"`},
		"an error as well": {status: published(func(p *corev1.Pod) string {
			return report(p, "publish", kaniko.Report{Digest: digest("d"), Size: 1, Error: "but"})
		}), want: `error "but"`},
		"fetch did something else": {
			status: func(p *corev1.Pod) []corev1.ContainerStatus {
				return append([]corev1.ContainerStatus{ran(p, "fetch", 0, "", `{"order":"sha256:0"}`)}, good(p)[1:]...)
			}, want: `fetch carried out the order "sha256:0"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cluster, s, what := world(t)
			done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
			live := cluster.made(what.Order)
			pod := cluster.pod(live, test.pod)
			status := good(pod)
			if test.status != nil {
				status = test.status(pod)
			}
			cluster.status(pod, phase(corev1.PodSucceeded, status...))
			o := result(t, done)
			var fault *kaniko.BuildError
			if o.err == nil || errors.As(o.err, &fault) || !strings.Contains(o.err.Error(), "its result is not believed: ") || !strings.Contains(o.err.Error(), test.want) {
				t.Errorf("got %+v, %v, want %q", o.built, o.err, test.want)
			}
			cluster.gone(what.Order)
		})
	}
}

// TestForgedFailure: whoever may change a Job's words cannot keep a commit from
// being built with them while the Job has not failed.
func TestForgedFailure(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	first := must(job.Render(s, what))
	record, err := json.Marshal(map[string]string{"step": "build", "error": "forged"})
	if err != nil {
		t.Fatal(err)
	}
	first.Annotations["towpath.dev/failure"] = string(record)
	first = cluster.create(first)
	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	cluster.succeed(cluster.pod(first, nil), digest("d"))
	if o := result(t, done); o.err != nil || o.built.Digest != digest("d") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
}

// TestStrangersPod: a pod that says it is a Job's and was there first is what the
// Job controller would take for its own. It is not believed.
func TestStrangersPod(t *testing.T) {
	t.Parallel()
	cluster, s, what := world(t)
	done := run(t.Context(), builder(t, daemon(t, s.Namespace), s), what)
	live := cluster.made(what.Order)
	stranger := cluster.pod(live, func(p *corev1.Pod) {
		p.Spec.InitContainers, p.Spec.Volumes = nil, nil
		p.Spec.Containers[0].VolumeMounts = nil
		p.Spec.Containers[0].Command, p.Spec.Containers[0].Args = []string{"sh", "-c"}, []string{"echo forged > /dev/termination-log"}
	})
	cluster.status(stranger, phase(corev1.PodSucceeded, ran(stranger, "publish", 0, "", report(stranger, "publish", kaniko.Report{Digest: digest("9"), Size: 1}))))
	if o := result(t, done); o.err == nil || !strings.Contains(o.err.Error(), "its result is not believed: spec.") {
		t.Errorf("got %+v, %v", o.built, o.err)
	}
}

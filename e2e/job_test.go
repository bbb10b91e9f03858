package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
)

// jobWorld is a world whose builds are Jobs of a real API server. What a Job
// controller, a node and its kubelet do there is done by the test: it makes the
// pod, pushes the image that the build would have made and writes the statuses.
type jobWorld struct {
	*lab.World
	t          *testing.T
	client     kubernetes.Interface
	namespace  string
	kubeconfig string
}

const (
	jobKaniko  = "registry.example.com/kaniko@sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
	jobTowpath = "registry.example.com/towpath@sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	jobCanary  = "c4n-registry-password-of-the-daemon"
)

func newJobWorld(t *testing.T) *jobWorld {
	t.Helper()
	admin := lab.ControlPlane(t)
	client, err := kubernetes.NewForConfig(admin)
	if err != nil {
		t.Fatal(err)
	}
	j := &jobWorld{t: t, client: client}
	j.namespace = lab.Namespace(t, admin, map[string]string{"pod-security.kubernetes.io/enforce": "baseline"})
	const user = "system:serviceaccount:towpath:towpath"
	role := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "towpath"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"batch"}, Resources: []string{"jobs"}, Verbs: []string{"get", "list", "watch", "create", "patch", "delete"}},
		{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"get", "list", "watch"}},
		{APIGroups: []string{""}, Resources: []string{"pods/log"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"list"}},
	}}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "towpath"}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "towpath"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user}},
	}
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "build"}}
	if _, err := client.RbacV1().Roles(j.namespace).Create(t.Context(), role, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.RbacV1().RoleBindings(j.namespace).Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ServiceAccounts(j.namespace).Create(t.Context(), account, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	j.kubeconfig = writeKubeconfig(t, lab.As(admin, user))
	j.World = lab.NewWorld(t, lab.WorldOptions{
		Binary: binary, Registry: memory,
		Config: func(w *lab.World, config string) string {
			before, _, _ := strings.Cut(config, "builder:\n")
			_, images, _ := strings.Cut(config, "\nimages:\n")
			images = strings.Replace(images, "destination: {repository: "+w.Repository()+"}", "destination: {repository: "+w.Repository()+", secretRef: {name: registry}}", 1)
			return before + fmt.Sprintf("builder:\n  type: kubernetes\n  kaniko: {image: %q}\n  kubernetes: {namespace: %s, image: %q}\nimages:\n", jobKaniko, j.namespace, jobTowpath) + images
		},
	})
	if err := os.MkdirAll(filepath.Join(j.Dir, "secrets", "registry"), 0o700); err != nil {
		t.Fatal(err)
	}
	j.Secret("registry", map[string][]byte{"username": []byte("towpath"), "password": []byte(jobCanary)})
	return j
}

// writeKubeconfig writes a configuration as people have it.
func writeKubeconfig(t *testing.T, config *rest.Config) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"lab": {Server: config.Host, CertificateAuthorityData: config.CAData}},
		AuthInfos: map[string]*clientcmdapi.AuthInfo{"lab": {
			ClientCertificateData: config.CertData, ClientKeyData: config.KeyData,
			Impersonate: config.Impersonate.UserName, ImpersonateGroups: config.Impersonate.Groups,
		}},
		Contexts:       map[string]*clientcmdapi.Context{"lab": {Cluster: "lab", AuthInfo: "lab"}},
		CurrentContext: "lab",
	}, file)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func (j *jobWorld) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := j.Command(ctx, args...)
	cmd.Env = append(cmd.Env, "KUBECONFIG="+j.kubeconfig)
	return cmd
}

// towpath runs a command that ends with a code, and returns all that it printed.
func (j *jobWorld) towpath(code int, args ...string) string {
	j.t.Helper()
	cmd := j.command(j.t.Context(), args...)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		j.t.Fatalf("towpath %s: %v, want code %d\n%s", strings.Join(args, " "), err, code, out)
	}
	j.noCanary("towpath "+strings.Join(args, " "), out)
	return string(out)
}

// start starts a command; end waits for it.
func (j *jobWorld) start(args ...string) (end func(code int) string) {
	j.t.Helper()
	ctx, stop := context.WithTimeout(j.t.Context(), 2*patience)
	j.t.Cleanup(stop)
	cmd := j.command(ctx, args...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		j.t.Fatal(err)
	}
	return func(code int) string {
		j.t.Helper()
		err := cmd.Wait()
		if cmd.ProcessState.ExitCode() != code {
			j.t.Fatalf("towpath %s: %v, want code %d\n%s", strings.Join(args, " "), err, code, &out)
		}
		j.noCanary("towpath "+strings.Join(args, " "), out.Bytes())
		return out.String()
	}
}

func (j *jobWorld) noCanary(where string, content []byte) {
	j.t.Helper()
	if bytes.Contains(content, []byte(jobCanary)) || bytes.Contains(content, []byte(base64.StdEncoding.EncodeToString([]byte(jobCanary)))) {
		j.t.Errorf("%s holds the registry's password:\n%s", where, content)
	}
}

// job waits for the Job of a commit, and makes its pod.
func (j *jobWorld) job(commit string) (*batchv1.Job, *corev1.Pod) {
	j.t.Helper()
	var live *batchv1.Job
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	deadline := time.After(patience)
	for live == nil {
		list, err := j.client.BatchV1().Jobs(j.namespace).List(j.t.Context(), metav1.ListOptions{})
		if err != nil {
			j.t.Fatal(err)
		}
		for i := range list.Items {
			if one := &list.Items[i]; one.Annotations["towpath.dev/commit"] == commit && one.Status.Failed == 0 {
				live = one
			}
		}
		select {
		case <-look.C:
		case <-deadline:
			j.t.Fatal("no Job for " + commit)
		}
	}
	encoded, err := json.Marshal(live)
	if err != nil {
		j.t.Fatal(err)
	}
	j.noCanary("the Job", encoded)
	pod := &corev1.Pod{ObjectMeta: *live.Spec.Template.ObjectMeta.DeepCopy(), Spec: *live.Spec.Template.Spec.DeepCopy()}
	pod.GenerateName = live.Name + "-"
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(live, batchv1.SchemeGroupVersion.WithKind("Job"))}
	if pod, err = j.client.CoreV1().Pods(j.namespace).Create(j.t.Context(), pod, metav1.CreateOptions{}); err != nil {
		j.t.Fatal(err)
	}
	return live, pod
}

// end writes what a pod's steps ended with: the report of each, and its code.
func (j *jobWorld) end(pod *corev1.Pod, phase corev1.PodPhase, fetch, publish kaniko.Report, kanikoCode int32) {
	j.t.Helper()
	ended := func(step string, code int32, report kaniko.Report) corev1.ContainerStatus {
		image, message := jobTowpath, ""
		if step == "kaniko" {
			image = jobKaniko
		} else {
			sum := sha256.Sum256([]byte(pod.Annotations["towpath.dev/"+step]))
			report.Order = "sha256:" + hex.EncodeToString(sum[:])
			encoded, err := json.Marshal(report)
			if err != nil {
				j.t.Fatal(err)
			}
			message = string(encoded)
		}
		return corev1.ContainerStatus{Name: step, Image: image, ImageID: image, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Message: message, StartedAt: metav1.Now(), FinishedAt: metav1.Now(),
		}}}
	}
	pod.Status = corev1.PodStatus{Phase: phase, InitContainerStatuses: []corev1.ContainerStatus{ended("fetch", 0, fetch), ended("kaniko", kanikoCode, kaniko.Report{})}}
	if kanikoCode == 0 {
		pod.Status.ContainerStatuses = []corev1.ContainerStatus{ended("publish", 0, publish)}
	}
	if _, err := j.client.CoreV1().Pods(j.namespace).UpdateStatus(j.t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		j.t.Fatal(err)
	}
}

// TestBuildsInJobs: with builder.type kubernetes the program builds in Jobs and
// promotes what comes out of them; what builds are at, and why one failed, is
// told by status and why; and what was built so says so in its provenance.
func TestBuildsInJobs(t *testing.T) {
	t.Parallel()
	j := newJobWorld(t)
	if out := j.towpath(0, "check"); !strings.Contains(out, "builder: kubernetes, executor sha256:bbbb") || !strings.Contains(out, "registry in namespace "+j.namespace) {
		t.Errorf("check says\n%s", out)
	}

	end := j.start("run", "--once")
	live, pod := j.job(j.App.Head())
	if out := j.towpath(0, "why", "podinfo"); !strings.Contains(out, "Job "+live.Name+" waits for a node") {
		t.Errorf("why says\n%s", out)
	}
	if out := j.towpath(0, "status"); !strings.Contains(out, "building") {
		t.Errorf("status says\n%s", out)
	}
	_, digest, _ := strings.Cut(lab.PushImage(t, j.Repository(), "never-mind", lab.Busybox(t)), "@")
	j.end(pod, corev1.PodSucceeded, kaniko.Report{}, kaniko.Report{Digest: digest, Size: 1}, 0)
	end(0)
	if manifest := j.Manifest("clusters/production/podinfo.yaml"); !strings.Contains(manifest, "@"+digest) {
		t.Errorf("the bump says\n%s", manifest)
	}
	builder, invocation := j.provenance()
	if builder != "https://towpath.dev/builder/kubernetes/v1" || invocation != j.namespace+"/"+live.Name+"/"+string(live.UID) {
		t.Errorf("built by %s, run %s", builder, invocation)
	}

	// The next one fails by its own fault; another process knows it, with no
	// history of its own.
	j.App.Commit(lab.Commit{Message: "Break it", Files: map[string]string{"Dockerfile": "FROM scratch\nRUN false\n"}})
	j.App.Push("HEAD:master")
	end = j.start("run", "--once")
	failed, pod := j.job(j.App.Head())
	j.end(pod, corev1.PodFailed, kaniko.Report{}, kaniko.Report{}, 1)
	j.fail(failed)
	if out := end(1); !strings.Contains(out, "faulty") {
		t.Errorf("run says\n%s", out)
	}
	if out := j.towpath(1, "run", "--once"); !strings.Contains(out, "faulty") {
		t.Errorf("the second run says\n%s", out)
	}
	if out := j.towpath(0, "why", "podinfo"); !strings.Contains(out, "build    stopped  build: kaniko ended with status 1") {
		t.Errorf("why says\n%s", out)
	}
	if out := j.towpath(0, "status"); !strings.Contains(out, "failed") {
		t.Errorf("status says\n%s", out)
	}
	if out := j.towpath(0, "retry", "podinfo"); !strings.Contains(out, "removed the failed build Job "+failed.Name+" of commit "+j.App.Head()[:8]) {
		t.Errorf("retry says\n%s", out)
	}
	// Nothing calls it faulty any more, although nothing has polled since.
	for command, want := range map[string]string{
		"status": "podinfo → production: its build failed, and no Job records that any more",
		"why":    "build    waiting  its build failed, and no Job records that any more",
	} {
		args := map[string][]string{"status": {"status"}, "why": {"why", "podinfo"}}[command]
		if out := j.towpath(0, args...); !strings.Contains(out, want) || strings.Contains(out, "podinfo → production: faulty") || strings.Contains(out, "failed   ") {
			t.Errorf("%s after retry says\n%s", command, out)
		}
	}
	end = j.start("run", "--once")
	again, pod := j.job(j.App.Head())
	if again.UID == failed.UID {
		t.Error("it was not built again")
	}
	for _, args := range [][]string{{"status"}, {"why", "podinfo"}} {
		if out, _, _ := strings.Cut(j.towpath(0, args...), "history:"); !strings.Contains(out, "Job "+again.Name+" ") || strings.Contains(out, "faulty") || strings.Contains(out, "towpath retry") {
			t.Errorf("%s while it is built again says\n%s", args[0], out)
		}
	}
	j.end(pod, corev1.PodSucceeded, kaniko.Report{}, kaniko.Report{Digest: digest, Size: 1}, 0)
	end(0)

	if out := j.towpath(2, "logs", "nobody"); !strings.Contains(out, `the config has no image "nobody"`) {
		t.Errorf("logs says\n%s", out)
	}
}

// TestEndDuringJob: a daemon that is told to end hands its build over at once, and
// one that is killed cannot help it: the Job goes on, and the next process
// promotes what comes of it.
func TestEndDuringJob(t *testing.T) {
	t.Parallel()
	for name, signal := range map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGKILL": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJobWorld(t)
			daemon := j.command(t.Context(), "run")
			var out bytes.Buffer
			daemon.Stdout, daemon.Stderr = &out, &out
			if err := daemon.Start(); err != nil {
				t.Fatal(err)
			}
			live, pod := j.job(j.App.Head())
			if err := daemon.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			// With an error where its time was up: the Job does not end by itself.
			if err := daemon.Wait(); signal == syscall.SIGTERM && err != nil {
				t.Errorf("it ended with %v\n%s", err, &out)
			}
			end := j.start("run", "--once")
			_, digest, _ := strings.Cut(lab.PushImage(t, j.Repository(), "never-mind", lab.Busybox(t)), "@")
			j.end(pod, corev1.PodSucceeded, kaniko.Report{}, kaniko.Report{Digest: digest, Size: 1}, 0)
			end(0)
			if manifest := j.Manifest("clusters/production/podinfo.yaml"); !strings.Contains(manifest, "@"+digest) {
				t.Errorf("the bump says\n%s", manifest)
			}
			list, err := j.client.BatchV1().Jobs(j.namespace).List(t.Context(), metav1.ListOptions{})
			if err != nil || len(list.Items) != 1 || list.Items[0].UID != live.UID {
				t.Errorf("%d Jobs, %v, want the first alone", len(list.Items), err)
			}
		})
	}
}

// fail writes what the Job controller writes at a Job whose pod failed.
func (j *jobWorld) fail(live *batchv1.Job) {
	j.t.Helper()
	for {
		live, err := j.client.BatchV1().Jobs(j.namespace).Get(j.t.Context(), live.Name, metav1.GetOptions{})
		if err != nil {
			j.t.Fatal(err)
		}
		now := metav1.Now()
		live.Status.StartTime, live.Status.Failed, live.Status.UncountedTerminatedPods = &now, 1, &batchv1.UncountedTerminatedPods{}
		for _, kind := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobFailed} {
			live.Status.Conditions = append(live.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: "BackoffLimitExceeded", LastTransitionTime: now, LastProbeTime: now})
		}
		_, err = j.client.BatchV1().Jobs(j.namespace).UpdateStatus(j.t.Context(), live, metav1.UpdateOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsConflict(err) { // the program writes to it at the same moment
			j.t.Fatal(err)
		}
	}
}

// provenance is who built the newest promotion, and in which run, as its
// provenance says.
func (j *jobWorld) provenance() (builder, invocation string) {
	j.t.Helper()
	trailer := strings.TrimSpace(lab.RunGit(j.t, j.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Provenance,valueonly)", "main"))
	ref, err := name.NewDigest(j.Repository()+"@"+trailer, name.Insecure)
	if err != nil {
		j.t.Fatal(err)
	}
	carrier, err := remote.Image(ref)
	if err != nil {
		j.t.Fatal(err)
	}
	layers, err := carrier.Layers()
	if err != nil || len(layers) != 1 {
		j.t.Fatal(len(layers), err)
	}
	blob, err := layers[0].Compressed()
	if err != nil {
		j.t.Fatal(err)
	}
	defer blob.Close()
	var bundle struct {
		DSSE struct{ Payload []byte } `json:"dsseEnvelope"`
	}
	if err := json.NewDecoder(blob).Decode(&bundle); err != nil {
		j.t.Fatal(err)
	}
	j.noCanary("the provenance", bundle.DSSE.Payload)
	var statement struct {
		Predicate struct {
			RunDetails struct {
				Builder  struct{ ID string }
				Metadata struct{ InvocationID string }
			}
		}
	}
	if err := json.Unmarshal(bundle.DSSE.Payload, &statement); err != nil {
		j.t.Fatal(err)
	}
	return statement.Predicate.RunDetails.Builder.ID, statement.Predicate.RunDetails.Metadata.InvocationID
}

// TestJobCommandsInTheSandbox: where builds are no Jobs, there is a log once
// something was built, and retry says what to do instead.
func TestJobCommandsInTheSandbox(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	for command, says := range map[string][2]string{
		"logs":  {"no build of podinfo has printed anything", "towpath why podinfo"},
		"retry": {"builds are no Jobs", "towpath run --once --image podinfo"},
	} {
		r := w.Run(command, "podinfo")
		if r.Code != 1 || !strings.Contains(r.Err, says[0]) || !strings.Contains(r.Err, says[1]) {
			t.Errorf("%s: %d\n%s", command, r.Code, r.Err)
		}
	}
}

// TestJobsWithoutACluster: what needs no build works anywhere; what does says
// what is missing.
func TestJobsWithoutACluster(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory, Config: func(_ *lab.World, config string) string {
		before, _, _ := strings.Cut(config, "builder:\n")
		_, images, _ := strings.Cut(config, "\nimages:\n")
		return before + fmt.Sprintf("builder:\n  type: kubernetes\n  kaniko: {image: %q}\n  kubernetes: {image: %q}\nimages:\n", jobKaniko, jobTowpath) + images
	}})
	if out := w.MustRun("plan"); !strings.Contains(out, "planned") {
		t.Errorf("plan says\n%s", out)
	}
	if out := w.MustRun("status"); !strings.Contains(out, "podinfo") {
		t.Errorf("status says\n%s", out)
	}
	for _, args := range [][]string{{"run", "--once"}, {"check"}, {"logs", "podinfo"}, {"retry", "podinfo"}} {
		if r := w.Run(args...); r.Code != 1 || !strings.Contains(r.Out+r.Err, "this process belongs to no cluster") || !strings.Contains(r.Out+r.Err, "KUBECONFIG") {
			t.Errorf("%v: %d\n%s%s", args, r.Code, r.Out, r.Err)
		}
	}
}

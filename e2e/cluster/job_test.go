//go:build cluster

package cluster

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// buildSite is a namespace for build Jobs, with what they fetch and push.
type buildSite struct {
	*Cluster
	t        *testing.T
	settings job.Settings
	registry *lab.Registry
	source   *lab.Git
	work     *lab.Work
	base     string
}

func newBuildSite(t *testing.T) *buildSite {
	t.Helper()
	c := shared
	s := &buildSite{Cluster: c, t: t, registry: c.Registry(t, lab.RegistryOptions{})}
	s.source = c.Git(t, lab.GitOptions{TLS: true, Username: "reader", Password: "only-fetch-knows"})
	s.source.Create("app.git")
	s.work = lab.NewWork(t, s.source.Dir("app.git"))
	s.work.Git("switch", "--quiet", "--orphan", "master")
	s.base = s.registry.Push(t, "busybox", "1", lab.Busybox(t))
	s.settings = job.Settings{
		Namespace: newNamespace(t, c, "baseline"),
		Image:     s.registry.Push(t, "towpath", "1", lab.Towpath(t, buildStatic(t, t.TempDir()))),
		Kaniko:    s.registry.Push(t, "kaniko", "1", lab.Kaniko(t)),
		CABundle:  "authorities", Timeout: 5 * time.Minute,
		Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("300Mi")}},
	}
	core := c.Client.CoreV1()
	_, err := core.ServiceAccounts(s.settings.Namespace).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "build"}}, metav1.CreateOptions{})
	if err == nil {
		authorities := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "authorities"}, Data: map[string]string{"ca.crt": string(s.source.CA.PEM)}}
		_, err = core.ConfigMaps(s.settings.Namespace).Create(t.Context(), authorities, metav1.CreateOptions{})
	}
	if err == nil {
		secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "apps"}, StringData: map[string]string{"username": "reader", "password": "only-fetch-knows"}}
		_, err = core.Secrets(s.settings.Namespace).Create(t.Context(), secret, metav1.CreateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// builder is a builder of its own, with settings as edited.
func (s *buildSite) builder(edit func(*job.Settings)) *job.Builder {
	s.t.Helper()
	settings := s.settings
	if edit != nil {
		edit(&settings)
	}
	log := slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	client, err := job.Client(s.Config, log)
	if err != nil {
		s.t.Fatal(err)
	}
	b, err := job.New(client, settings, log)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { b.Close() })
	return b
}

// order commits a Dockerfile and orders its image.
func (s *buildSite) order(b *job.Builder, dockerfile string) job.Job {
	s.t.Helper()
	commit := s.work.Commit(lab.Commit{Message: "Change", Files: map[string]string{
		"Dockerfile": "FROM " + s.base + "\n" + dockerfile + "\n", "crontab": "* * * * * root true\n",
	}})
	s.work.Push("HEAD:master")
	executor, err := b.ExecutorDigest()
	if err != nil {
		s.t.Fatal(err)
	}
	return job.Job{GitSecret: "apps", Order: kaniko.Order{
		Image: "app", Path: ".", Dockerfile: "Dockerfile", Platform: "linux/amd64", Executor: executor,
		Source:      kaniko.Source{URL: s.source.RepoURL("app.git"), Ref: "refs/heads/master", Commit: commit, Time: time.Unix(1763750000, 0).UTC()},
		Destination: kaniko.Destination{Repository: s.registry.Repository("apps/app"), Insecure: true, Tag: commit},
		Pull:        kaniko.Pull{Allow: []string{s.registry.Repository("busybox")}},
	}}
}

// TestJobsOnANode: what kaniko/job's own tests write into objects, a real Job
// controller, scheduler and kubelet write here, and are understood: a build ends
// well and is believed, and others end in each way that can be had on one node.
func TestJobsOnANode(t *testing.T) {
	s := newBuildSite(t)
	builder := s.builder(nil)
	run := func(b *job.Builder, what job.Job) (job.Built, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		return b.Run(ctx, what)
	}

	t.Run("succeeds", func(t *testing.T) {
		what := s.order(builder, `COPY crontab /etc/crontab
RUN { echo forged > /etc/resolv.conf; echo forged > /etc/hosts; echo forged > /etc/hostname; cat /etc/hosts; ls -A /dev/shm /secrets /order /build /run/secrets /var/run/secrets; } > /loot 2>&1; true`)
		built, err := run(builder, what)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%+v", built)
		files := s.files(t, built.Digest)
		if file := files["etc/crontab"]; file.uid != 0 || file.content == "" {
			t.Errorf("the file that was copied belongs to %d", file.uid)
		}
		loot := files["loot"].content
		if n := strings.Count(loot, "Read-only file system"); n != 3 || strings.Contains(loot, "forged") {
			t.Errorf("a RUN step wrote to the files by which names are looked up:\n%s", loot)
		}
		for _, dir := range []string{"/secrets", "/order", "/build", "/run/secrets", "/var/run/secrets"} {
			if !strings.Contains(loot, dir+": No such file or directory") {
				t.Errorf("a RUN step sees %s:\n%s", dir, loot)
			}
		}
		again, err := run(s.builder(nil), what)
		if err != nil || again.Digest != built.Digest || again.Run != built.Run {
			t.Errorf("read again by another process: %+v, %v", again, err)
		}
	})

	for name, test := range map[string]struct {
		dockerfile string
		edit       func(*job.Settings)
		step       string // of the build's own fault; empty: the machinery's
		want       string
		tail       string
	}{
		"RUN fails":         {dockerfile: "RUN echo here it comes && exit 3", step: "build", want: "exit status 3", tail: "here it comes"},
		"refused by fetch":  {dockerfile: "ADD --checksum=sha256:0 http://example.com/x /x", step: "fetch", want: "ADD --checksum"},
		"output given away": {dockerfile: "RUN mkdir -p /kaniko/.out/image && chown 1000 /kaniko/.out/image && chmod 700 /kaniko/.out/image", step: "publish", want: "it may not be read"},
		"out of memory":     {dockerfile: "RUN a=x; while :; do a=$a$a; done", want: "needed more memory than its limit"},
		"too slow":          {dockerfile: "RUN echo on my way; sleep 300", edit: func(s *job.Settings) { s.Timeout = 45 * time.Second }, step: "build", want: "not done within its time, 45s", tail: "on my way"},
		"no image": {dockerfile: "RUN true", edit: func(j *job.Settings) {
			j.Kaniko = s.registry.Repository("nothing") + "@sha256:" + strings.Repeat("0", 64)
		}, want: "kaniko does not start: "},
	} {
		t.Run(name, func(t *testing.T) {
			b := s.builder(test.edit)
			what := s.order(b, test.dockerfile)
			_, err := run(b, what)
			var fault *kaniko.BuildError
			if err == nil || errors.As(err, &fault) != (test.step != "") || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("got %v, want %q", err, test.want)
			}
			if fault == nil {
				return
			}
			if fault.Step != test.step || !strings.Contains(fault.Tail, test.tail) {
				t.Errorf("step %s, last lines %q", fault.Step, fault.Tail)
			}
			var again *kaniko.BuildError
			if _, err := run(s.builder(test.edit), what); !errors.As(err, &again) || again.Error() != fault.Error() {
				t.Errorf("asked again: %v", err)
			}
			var lines []string
			if err := b.Logs(t.Context(), "app", true, func(l job.Line) { lines = append(lines, l.Step+" "+l.Text) }); err != nil || len(lines) < 2 || !strings.HasPrefix(lines[0], "fetch fetched ") {
				t.Errorf("logs: %q, %v", lines, err)
			}
		})
	}

	t.Run("a Secret is missing", func(t *testing.T) {
		what := s.order(builder, "RUN true")
		what.GitSecret = "nowhere"
		began := time.Now()
		_, err := run(builder, what)
		var fault *kaniko.BuildError
		var hinted interface{ Hint() string }
		if err == nil || errors.As(err, &fault) || !strings.Contains(err.Error(), `secret "nowhere" not found`) ||
			!errors.As(err, &hinted) || hinted.Hint() != "make Secret nowhere in namespace "+s.settings.Namespace+": what a build mounts has to be there, beside what Towpath itself reads" {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > 3*time.Minute {
			t.Errorf("it was told after %s", took)
		}
	})

	for name, remove := range map[string][]string{"pod deleted": {"pod", "--wait=false", "-l", "job-name=%s"}, "Job deleted": {"job", "%s"}} {
		t.Run(name, func(t *testing.T) {
			what := s.order(builder, "RUN sleep 300 # "+name)
			ended := make(chan error, 1)
			go func() {
				_, err := run(builder, what)
				ended <- err
			}()
			s.wait(t, s.settings.Namespace, time.Minute, "kaniko is at work", func(ctx context.Context) error {
				standings, err := builder.Standings(ctx)
				if doing := standings[job.Name(what.Order)].Doing; err == nil && doing != "is at kaniko" {
					err = fmt.Errorf("it %s", doing)
				}
				return err
			})
			args := []string{"-n", s.settings.Namespace, "delete"}
			for _, arg := range remove {
				args = append(args, strings.ReplaceAll(arg, "%s", job.Name(what.Order)))
			}
			s.Kubectl(t, "", args...)
			if err := <-ended; err == nil || !strings.Contains(err.Error(), "it was deleted while it ran") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// file is one of an image.
type file struct {
	uid     int
	content string
}

// files are those of an image that was built here.
func (s *buildSite) files(t *testing.T, digest string) map[string]file {
	t.Helper()
	ref, err := name.NewDigest(s.registry.Repository("apps/app")+"@"+digest, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	image, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	flat := mutate.Extract(image)
	defer flat.Close()
	files := map[string]file{}
	for archive := tar.NewReader(flat); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(io.LimitReader(archive, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimPrefix(header.Name, "/")] = file{header.Uid, string(content)}
	}
}

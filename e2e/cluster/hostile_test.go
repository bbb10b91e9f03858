//go:build cluster

package cluster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/kaniko"
)

// attack is a Dockerfile that is after something, with what must come of it.
type attack struct {
	name  string            // a DNS label: of its directory in the repository, and of its image
	what  string            // it is after, in words
	run   string            // the instructions after FROM and the COPY of its own canary; see siege.words
	whole string            // the whole Dockerfile, in place of run
	files map[string]string // more of its build context
	links map[string]string // symbolic links in it: name → where they lead
	tar   []entry           // of an archive evil.tar in it
	path  string            // source.path, where that is not its directory

	// What must come of it: by default it is built and promoted, and its image and
	// log show neither a canary of others nor a line that begins with BREACH.
	step   string                                   // fetch, build or publish: the build is found faulty there
	says   string                                   // and this is said
	broken string                                   // the machinery ends it, and this is said: a regular expression; with says: either
	see    func(t *testing.T, s *siege, o *outcome) // what else is to be seen
}

// outcome is what came of an attack.
type outcome struct {
	attack
	job     *batchv1.Job // nil once it was removed
	pod     *corev1.Pod
	logs    map[string]string // of the containers
	failure struct{ Step, Error, Hint, Tail string }
	removed string // what the daemon says of a Job that the machinery failed
	ref     string // what was promoted: repository:tag@digest
	image   v1.Image
	files   map[string]file // of its own layers
}

// log is what the build itself printed.
func (o *outcome) log() string { return o.logs["kaniko"] }

// siege is the installation with hostile images in its config.
type siege struct {
	*installation
	t        *testing.T
	work     *lab.Work
	canaries *lab.Canaries
	own      map[string]string // each attack's canary, in its build context
	victim   string            // the digest of somebody else's image
	words    *strings.Replacer
	base     string // the thief's image, pinned
	searched map[v1.Hash]bool
}

// ephemeral is what kaniko may take of the node's disk in TestHostileExcesses (for
// less, the limit of the other two steps would be the pod's), and patience how long
// such a build may take.
const (
	ephemeral = "1Gi"
	patience  = 90 * time.Second
)

// TestHostileDockerfiles builds what would steal, forge and break, on a real node
// by the daemon of deploy/. Secrets are everywhere around, and none comes out: not
// in an image, a log, a termination message, an event, an object, a commit or a
// word of Towpath's. No digest is promoted but that of the image that was built.
func TestHostileDockerfiles(t *testing.T) {
	all := chosen(t, attacks())
	besiege(t, all).run(t, all, func(config string) string {
		return strings.Replace(config, "  type: kubernetes\n", "  type: kubernetes\n  concurrency: 3\n", 1)
	})
}

// TestHostileExcesses builds what takes all it can get: the node and Towpath stay
// well, and each is ended by the bound that is meant for it.
func TestHostileExcesses(t *testing.T) {
	all := chosen(t, excesses())
	s := besiege(t, all)
	if s.Node == nil {
		t.Log("the cluster was given: whether its kubelet limits the processes of a pod is not known, and no fork bomb is tried")
		all = slices.DeleteFunc(all, func(a attack) bool { return a.name == "forks" })
	}
	s.run(t, all, func(config string) string {
		return strings.NewReplacer(
			"  type: kubernetes\n", fmt.Sprintf("  type: kubernetes\n  concurrency: %d\n  timeout: %s\n", len(all), patience),
			"limits: {memory: 4Gi, ephemeral-storage: 8Gi}", "limits: {memory: 256Mi, ephemeral-storage: "+ephemeral+"}",
		).Replace(config)
	})
}

// chosen are the attacks that -run asks for, as in TestHostileDockerfiles/index-.*
func chosen(t *testing.T, all []attack) []attack {
	t.Helper()
	_, pattern, found := strings.Cut(flag.Lookup("test.run").Value.String(), "/")
	if !found {
		return all
	}
	match, err := regexp.Compile(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(a attack) bool { return !match.MatchString(a.name) })
}

// besiege commits all attacks and plants the canaries.
func besiege(t *testing.T, all []attack) *siege {
	t.Helper()
	s := &siege{installation: theInstallation(t), t: t, canaries: &lab.Canaries{}, own: map[string]string{}, searched: map[v1.Hash]bool{}}
	s.until(t, 3*time.Minute, "the last commit's pod runs", func(ctx context.Context) error { return s.runs(ctx, s.app.Head()) })
	ref := strings.TrimSpace(lab.RunGit(t, s.fleet.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", "refs/towpath/production/podinfo"))
	tagged, victim, _ := strings.Cut(ref, "@")
	s.victim = victim
	s.plant(t)
	s.base = s.bases.Push(t, "hostile/base", "1", thief(t))
	_, tag, _ := strings.Cut(strings.TrimPrefix(tagged, s.registry.Repository("apps/podinfo")), ":")
	s.words = strings.NewReplacer(
		"{BASE}", s.base, "{THEIR-BASE}", s.bases.Push(t, "private/other-team", "1", lab.Busybox(t)),
		"{ONBUILD-BASE}", s.bases.Push(t, "hostile/onbuild", "1", withOnbuild(t, thief(t))),
		"{CLIMBING-BASE}", s.bases.Push(t, "hostile/climbing", "1", layered(t, thief(t), climbing()...)),
		"{LINKING-BASE}", s.bases.Push(t, "hostile/linking", "1", layered(t, thief(t), linking()...)),
		"{VICTIM}", s.victim, "{VICTIM-TAG}", tag,
		"{REGISTRY}", s.registry.Host, "{REGISTRY-URL}", s.registry.URL, "{BASES}", s.bases.Host, "{GIT}", strings.TrimPrefix(s.apps.URL, "https://"), "{API}", s.apiAddress(t), "{NODE}", s.nodeAddress(t),
		"{CONTROL}", base64.StdEncoding.EncodeToString([]byte(s.control())),
	)
	s.commitAttacks(t, all)
	return s
}

// commitAttacks writes a directory for each, with a canary of its own.
func (s *siege) commitAttacks(t *testing.T, all []attack) {
	t.Helper()
	name := strings.ToLower(t.Name())
	s.apps.Create("apps/" + name + ".git")
	s.work = lab.NewWork(t, s.apps.Dir("apps/"+name+".git"))
	s.work.Git("switch", "--quiet", "--orphan", "master")
	files := map[string]string{}
	for _, a := range all {
		s.own[a.name] = s.secret("own-" + a.name)
		dockerfile := a.whole
		if dockerfile == "" {
			dockerfile = "FROM {BASE}\nCOPY own /own\n" + a.run + "\n"
		}
		files[a.name+"/own"] = s.own[a.name] + "\n"
		if _, linked := a.links["Dockerfile"]; !linked {
			files[a.name+"/Dockerfile"] = s.words.Replace(dockerfile)
		}
		for name, content := range a.files {
			files[a.name+"/"+name] = s.words.Replace(content)
		}
		if len(a.tar) > 0 {
			files[a.name+"/evil.tar"] = string(archive(t, a.tar...))
		}
		for name, target := range a.links {
			link := filepath.Join(s.work.Dir, a.name, name)
			if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(target, link); err != nil {
				t.Fatal(err)
			}
		}
	}
	s.work.Commit(lab.Commit{Message: "Do your worst", Author: "Mallory <mallory@example.com>", Files: files})
	s.work.Push("HEAD:master")
}

// run has the daemon build all attacks, and judges each as soon as it has ended.
func (s *siege) run(t *testing.T, all []attack, settings func(config string) string) {
	t.Helper()
	repository := s.apps.RepoURL("apps/" + strings.ToLower(t.Name()) + ".git")
	var images, markers strings.Builder
	for _, a := range all {
		path := a.path
		if path == "" {
			path = a.name
		}
		fmt.Fprintf(&images, `  - name: %[1]s
    source: {url: %[2]s, path: %[3]s, secretRef: {name: apps}}
    build: {pull: {secretRef: {name: bases}, allow: [%[4]s/hostile/base, %[4]s/hostile/onbuild, %[4]s/hostile/climbing, %[4]s/hostile/linking]}}
    destination: {repository: %[5]s, secretRef: {name: registry}, insecure: %[6]t}
    policy: flux-system:%[1]s
`, imageOf(a), repository, path, s.bases.Host, s.registry.Repository("hostile/"+a.name), s.registry.CA == nil)
		fmt.Fprintf(&markers, "  %[1]s: %[2]s:none # {\"$imagepolicy\": \"flux-system:%[3]s\"}\n", a.name, s.registry.Repository("hostile/"+a.name), imageOf(a))
	}
	s.markers(t, markers.String())
	s.configure(t, settings(s.config())+images.String())
	before := s.daemonPod(t)
	began := time.Now()
	waiting := map[string]attack{}
	for _, a := range all {
		waiting[imageOf(a)] = a
	}
	look, limit := time.NewTicker(200*time.Millisecond), time.Now().Add(20*time.Minute)
	defer look.Stop()
	for ; len(waiting) > 0; <-look.C {
		for _, o := range s.ended(t, waiting) {
			delete(waiting, imageOf(o.attack))
			t.Run(o.name, func(t *testing.T) { s.judge(t, o) })
		}
		if len(waiting) > 0 && time.Now().After(limit) {
			t.Fatalf("no end of %v\n%s", slices.Sorted(maps.Keys(waiting)), s.logs(t.Context(), t))
		}
	}
	t.Logf("%d attacks in %s", len(all), time.Since(began).Round(time.Second))
	t.Run("afterwards", func(t *testing.T) { s.afterwards(t, imageOf(all[0]), before) })
}

func imageOf(a attack) string { return "hostile-" + a.name }

// markers puts one for each image into the GitOps repository, and takes them out
// with the test.
func (s *siege) markers(t *testing.T, data string) {
	t.Helper()
	const path = "clusters/production/hostile.yaml"
	change := func(message, content string) {
		s.gitops.Git("fetch", "--quiet", "origin", "main")
		s.gitops.Git("reset", "--quiet", "--hard", "FETCH_HEAD")
		commit := lab.Commit{Message: message, Files: map[string]string{path: content}}
		if content == "" {
			commit = lab.Commit{Message: message, Remove: []string{path}}
		}
		s.gitops.Commit(commit)
		s.gitops.Push("HEAD:main")
	}
	change("Name the images", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: hostile, namespace: "+appsNamespace+"}\ndata:\n"+data)
	t.Cleanup(func() {
		s.deploy(t, "") // nobody else pushes from here on
		change("Name them no more", "")
	})
}

// configure has the daemon run with a config, and with a canary in its environment.
func (s *siege) configure(t *testing.T, config string) {
	t.Helper()
	maps := s.Client.CoreV1().ConfigMaps(towpathNamespace)
	current, err := maps.Get(t.Context(), "towpath", metav1.GetOptions{})
	if err == nil {
		current.Data["towpath.yaml"] = config
		_, err = maps.Update(t.Context(), current, metav1.UpdateOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	canary := s.secret("environment")
	s.canaries.Plant(t, "a variable of the daemon's", []byte(canary))
	s.Kubectl(t, "", "-n", towpathNamespace, "set", "env", "deployment/towpath", "CANARY="+canary)
	t.Cleanup(func() { s.Kubectl(t, "", "-n", towpathNamespace, "set", "env", "deployment/towpath", "CANARY-") })
	s.rolledOut(t)
	s.plantToken(t)
}

// ended are those of the attacks that have come to an end by now, with all that
// is to be seen of them.
func (s *siege) ended(t *testing.T, waiting map[string]attack) (all []*outcome) {
	t.Helper()
	promoted := s.promoted(t)
	jobs, err := s.Client.BatchV1().Jobs(buildsNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/managed-by=towpath"})
	if err != nil {
		t.Fatal(err)
	}
	head := s.work.Head()
	var said map[string]string
	for image, a := range waiting {
		o := &outcome{attack: a}
		if ref := promoted[image]; strings.Contains(ref, ":master-"+head[:12]+"-") {
			o.ref = ref
		}
		for _, job := range jobs.Items {
			if job.Labels["towpath.dev/image"] == image && job.Annotations["towpath.dev/commit"] == head {
				o.job = &job
			}
		}
		failure := ""
		if o.job != nil {
			failure = o.job.Annotations["towpath.dev/failure"]
		}
		switch {
		case o.ref != "":
		case failure != "":
			if err := json.Unmarshal([]byte(failure), &o.failure); err != nil {
				t.Fatal(err)
			}
		default:
			if said == nil {
				said = s.removals(t)
			}
			if o.removed = said[image]; o.removed == "" {
				continue
			}
		}
		s.collect(t, o)
		all = append(all, o)
	}
	return all
}

// promoted is what the ledger has of every hostile image.
func (s *siege) promoted(t *testing.T) map[string]string {
	t.Helper()
	refs := map[string]string{}
	lines := lab.RunGit(t, s.fleet.Dir("fleet.git"), "for-each-ref", "--format=%(refname:lstrip=3) %(contents:trailers:key=Towpath-Ref,valueonly,separator=)", "refs/towpath/production/hostile-*")
	for line := range strings.Lines(lines) {
		if image, ref, found := strings.Cut(strings.TrimSpace(line), " "); found {
			refs[image] = strings.TrimSpace(ref)
		}
	}
	return refs
}

var jobName = regexp.MustCompile(`^(.*)-[0-9a-f]{16}$`)

// removals is what the daemon says of Jobs that the machinery failed, by image.
func (s *siege) removals(t *testing.T) map[string]string {
	t.Helper()
	said := map[string]string{}
	for line := range strings.Lines(s.daemonLog(t)) {
		var entry struct{ Msg, Job, Error string }
		if json.Unmarshal([]byte(line), &entry) != nil || !strings.HasPrefix(entry.Msg, "build Job removed") {
			continue
		}
		if parts := jobName.FindStringSubmatch(entry.Job); parts != nil {
			said[parts[1]] = entry.Error
		}
	}
	return said
}

// collect gathers what is left of a build.
func (s *siege) collect(t *testing.T, o *outcome) {
	t.Helper()
	o.logs = map[string]string{}
	if o.job != nil {
		pods, err := s.Client.CoreV1().Pods(buildsNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "job-name=" + o.job.Name})
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range pods.Items {
			o.pod = &pod
			for _, container := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
				log, err := s.Client.CoreV1().Pods(buildsNamespace).GetLogs(pod.Name, &corev1.PodLogOptions{Container: container.Name, LimitBytes: new(int64(8 << 20))}).DoRaw(t.Context())
				if err == nil { // a step that never began has none
					o.logs[container.Name] = string(log)
				}
			}
		}
	}
	if o.ref != "" {
		o.image = s.registry.Pull(t, o.ref)
		o.files = ownFiles(t, o.image, s.baseLayers(t))
	}
}

// judge is what must hold of an attack that has ended.
func (s *siege) judge(t *testing.T, o *outcome) {
	t.Helper()
	t.Log(o.what)
	switch {
	case o.broken != "" && (o.says == "" || o.removed != ""):
		if o.ref != "" || !regexp.MustCompile(o.broken).MatchString(o.removed) {
			t.Errorf("the machinery should have ended it with %q; promoted %q, found faulty %+v, removed: %s", o.broken, o.ref, o.failure, o.removed)
		}
	case o.says != "":
		said := o.failure.Error + ": " + o.failure.Tail
		if o.ref != "" || o.failure.Step != o.step || !strings.Contains(said, o.says) {
			t.Errorf("it should have failed at %s with %q; promoted %q, found faulty %+v, removed: %s\n%s", o.step, o.says, o.ref, o.failure, o.removed, end(o.log()))
		}
	case o.ref == "":
		t.Errorf("it should have been built, and every attempt held: found faulty %+v, removed: %s\n%s", o.failure, o.removed, end(o.log()))
	default:
		s.honest(t, o)
	}
	for where, content := range o.everything() {
		if at := strings.Index(content, "BREACH"); at >= 0 {
			t.Errorf("%s: %s", where, end(content[at:min(len(content), at+2000)]))
		}
	}
	s.search(t, o)
	if o.see != nil {
		o.see(t, s, o)
	}
}

func end(text string) string { return text[max(0, len(text)-3000):] }

// everything is the text that an attack left: its log and its files.
func (o *outcome) everything() map[string]string {
	all := map[string]string{}
	for name, log := range o.logs {
		all["the log of "+name] = log
	}
	for name, file := range o.files {
		if !strings.HasPrefix(name, "bin/") {
			all["/"+name] = file.content
		}
	}
	return all
}

// honest tells whether what was promoted is what publish computed of this build's
// own output.
func (s *siege) honest(t *testing.T, o *outcome) {
	t.Helper()
	tagged, digest, _ := strings.Cut(o.ref, "@")
	if digest == s.victim || !strings.HasPrefix(tagged, s.registry.Repository("hostile/"+o.name)+":master-"+s.work.Head()[:12]+"-") {
		t.Errorf("promoted is %s", o.ref)
	}
	if own := strings.TrimSpace(o.files["own"].content); own != s.own[o.name] {
		t.Errorf("the image holds %q in place of what its own build context had", own)
	}
	if computed, err := o.image.Digest(); err != nil || computed.String() != digest {
		t.Errorf("the registry has %s, %v", computed, err)
	}
	if o.pod == nil {
		t.Fatal("its pod is gone")
	}
	for _, status := range o.pod.Status.ContainerStatuses {
		var report kaniko.Report
		if err := json.Unmarshal([]byte(status.State.Terminated.Message), &report); err != nil || report.Digest != digest {
			t.Errorf("publish reports %s, %v, and promoted is %s", report.Digest, err, digest)
		}
	}
	manifest := lab.RunGit(t, s.fleet.Dir("fleet.git"), "show", "main:clusters/production/hostile.yaml")
	if !strings.Contains(manifest, "\n  "+o.name+": "+o.ref+" # ") {
		t.Errorf("the GitOps repository does not have %s:\n%s", o.ref, manifest)
	}
}

// daemonPod is the one pod that the daemon runs in.
func (s *siege) daemonPod(t *testing.T) *corev1.Pod {
	t.Helper()
	pods, err := s.Client.CoreV1().Pods(towpathNamespace).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=towpath"})
	if err != nil {
		t.Fatal(err)
	}
	live := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if len(live) != 1 {
		t.Fatalf("%d pods of the daemon", len(live))
	}
	return &live[0]
}

// daemonLog is all that the daemon has printed.
func (s *siege) daemonLog(t *testing.T) string {
	t.Helper()
	log, err := s.Client.CoreV1().Pods(towpathNamespace).GetLogs(s.daemonPod(t).Name, &corev1.PodLogOptions{}).DoRaw(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// afterwards looks at what is common to all attacks once they have ended: words,
// objects, histories, the victim, the node, the daemon, and an honest commit's
// way to its pod.
func (s *siege) afterwards(t *testing.T, image string, before *corev1.Pod) {
	t.Helper()
	s.searchAround(t, image)
	s.searchRegistry(t)
	if after := s.daemonPod(t); after.UID != before.UID || after.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Errorf("the daemon was %s, is %s, and began anew %d times", before.Name, after.Name, after.Status.ContainerStatuses[0].RestartCount)
	}
	if s.Node != nil {
		for _, pid := range s.daemons(t) {
			status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
			if err != nil {
				t.Fatal(err)
			}
			_, peak, _ := strings.Cut(string(status), "VmHWM:")
			kilobytes, _ := strconv.Atoi(strings.Fields(peak)[0])
			if t.Logf("the daemon had %d MiB at most", kilobytes>>10); kilobytes > 256<<10 {
				t.Errorf("the daemon needed %d MiB", kilobytes>>10)
			}
		}
		s.nothingLeft(t)
	}
	tag := s.registry.Repository("apps/podinfo") + ":" + s.words.Replace("{VICTIM-TAG}")
	if digest, err := s.registry.Pull(t, tag).Digest(); err != nil || digest.String() != s.victim {
		t.Errorf("the victim's tag names %s, %v; it named %s", digest, err, s.victim)
	}
	commit, pushed := s.commit("after-"+image), time.Now()
	s.follow(t, commit, pushed)
	s.once(t)
}

// nothingLeft looks for what a build left on the node.
func (s *siege) nothingLeft(t *testing.T) {
	t.Helper()
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, process := range processes {
		line, _ := os.ReadFile(process)
		if strings.Contains(string(line), "\x00remain\x00") || strings.Contains(string(line), "\x00forge\x00") {
			group, _ := os.ReadFile(filepath.Join(filepath.Dir(process), "cgroup"))
			t.Errorf("a process of a build's is alive: %q in\n%s", line, group)
		}
	}
	// A setuid program in a build's output is nobody's who has no way to it.
	pods := s.Node.path("kubelet", "pods")
	entries, err := os.ReadDir(pods)
	if err != nil || len(entries) == 0 {
		t.Fatalf("no pod's directory: %v", err)
	}
	for _, dir := range entries {
		info, err := os.Stat(filepath.Join(pods, dir.Name()))
		if err == nil && info.Mode().Perm()&0o007 != 0 {
			t.Errorf("everybody on the node gets into %s: %s", dir.Name(), info.Mode())
		}
	}
}

package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// imageSize is that of the image that measureAdded builds, compressed or not.
const imageSize = 50 << 20

// measureAdded builds the same image of 50 MiB in turn by Towpath and by kaniko
// alone, in Jobs on one node, pushed to one registry. Towpath's time is from the
// answer to its poll that names the commit until the registry has the tag, which
// it writes when the image is sealed; kaniko's, from the Job's creation, its
// context there already, until the registry has the tag.
func measureAdded(s *stand) []row {
	here := theSite(s)
	seen := newWitness()
	e := here.newEstate(seen.wrap)
	e.git.Create("apps/podinfo.git")
	app := lab.NewWork(s, e.git.Dir("apps/podinfo.git"))
	app.Git("switch", "--quiet", "--orphan", "master")
	// What cannot be compressed, as the programs and archives that fill images.
	dockerfile := func(n int) string {
		return fmt.Sprintf("FROM %s\nRUN head -c %d /dev/urandom > /payload # %d\n", e.base, imageSize, n)
	}
	change := func(n int) string {
		return app.Commit(lab.Commit{
			Message: fmt.Sprintf("Number %d", n), Author: "Dana Developer <dana@example.com>",
			Files: map[string]string{"Dockerfile": dockerfile(n)},
		})
	}
	change(0)
	path, content := e.manifest("podinfo")
	e.fleet.Commit(lab.Commit{Message: "Deploy podinfo", Files: map[string]string{path: content}})
	e.fleet.Push("HEAD:main")
	when := here.watchCluster()
	e.install(time.Second, "", e.image("podinfo", "apps/podinfo.git", "."))
	e.prepareAlone()

	var whole, theirs, added, push samples
	for n := range 1 + min(s.options.runs, 5) { // the first brings images to the node
		if n > 0 {
			change(n)
		}
		seen.await(app.Head())
		app.Push("HEAD:master")
		polled := here.within("the poll that sees the commit", seen.polled)
		here.within("the push of its bump", seen.pushed)
		ours := tagged(s, here.pushes.of("apps/podinfo", polled), "master-").Sub(polled)

		began := time.Now()
		e.buildAlone(n, dockerfile(n))
		when.of(here, jobEnded(fmt.Sprintf("alone-%d", n)))
		arrivals := here.pushes.of("alone/podinfo", began)
		ended := tagged(s, arrivals, "number-")
		if n == 0 {
			continue
		}
		own := ended.Sub(began)
		whole, theirs = append(whole, ours.Seconds()), append(theirs, own.Seconds())
		added = append(added, (ours - own).Seconds())
		push = append(push, ended.Sub(asked(s, arrivals)).Seconds())
	}
	e.remove()
	return []row{
		{what: "what Towpath adds to the build of a 50 MiB image in the cluster", ours: added, theirs: push, against: "kaniko's own push", unit: seconds,
			goal: "under 3 s, or less than kaniko's own push", reached: reached(added.median() < 3 || added.median() < push.median())},
		{what: "— from the poll that sees the commit to the tag in the registry", ours: whole, theirs: theirs, against: "kaniko building and pushing alone", unit: seconds},
	}
}

// tagged is when the registry had a tag.
func tagged(s *stand, arrivals []arrival, tag string) time.Time {
	for _, it := range arrivals {
		if it.method == http.MethodPut && strings.Contains(it.path, "/manifests/"+tag) {
			return it.ended
		}
	}
	s.Fatalf("the registry saw no tag %s…", tag)
	return time.Time{}
}

// asked is when a push began: before a blob is sent, the registry is asked for
// it. (That it may push at all, kaniko tries before it builds.)
func asked(s *stand, arrivals []arrival) time.Time {
	at := slices.IndexFunc(arrivals, func(it arrival) bool {
		return it.method == http.MethodHead && strings.Contains(it.path, "/blobs/")
	})
	if at < 0 {
		s.Fatal("the registry saw no push of kaniko's")
	}
	return arrivals[at].began
}

// alone is the namespace of kaniko by itself: in Towpath's, nobody else may build.
const alone = "alone"

// prepareAlone makes what kaniko needs there: the registry's credential, and
// its authority.
func (e *estate) prepareAlone() {
	e.Apply(e.s, fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {pod-security.kubernetes.io/enforce: baseline}}
---
apiVersion: v1
kind: Secret
metadata: {name: registry, namespace: %[1]s}
stringData: {config.json: %[2]q}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: authorities, namespace: %[1]s}
data: {ca.crt: %[3]q}
`, alone, e.registry.DockerConfig(), e.registry.CA))
}

// buildAlone starts a Job in which kaniko builds and pushes an image, as one
// has it without Towpath.
func (e *estate) buildAlone(n int, dockerfile string) {
	e.Apply(e.s, fmt.Sprintf(`apiVersion: v1
kind: ConfigMap
metadata: {name: alone-%[1]d, namespace: %[2]s}
data: {Dockerfile: %[3]q}
---
apiVersion: batch/v1
kind: Job
metadata: {name: alone-%[1]d, namespace: %[2]s}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      automountServiceAccountToken: false
      containers:
      - name: kaniko
        image: %[4]s
        args: [--force, --context=dir:///kaniko/.context, --dockerfile=/kaniko/.context/Dockerfile, --snapshot-mode=full, "--destination=%[5]s:number-%[1]d"]
        env: [{name: FF_KANIKO_RUN_VIA_TINI, value: "false"}, {name: DOCKER_CONFIG, value: /kaniko/.docker}, {name: SSL_CERT_DIR, value: "/kaniko/ssl/certs:/kaniko/.authorities"}]
        securityContext:
          runAsUser: 0
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL], add: [CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETUID, SETGID, SETFCAP, KILL]}
          seccompProfile: {type: RuntimeDefault}
        volumeMounts:
        - {name: context, mountPath: /kaniko/.context, readOnly: true}
        - {name: credential, mountPath: /kaniko/.docker, readOnly: true}
        - {name: authorities, mountPath: /kaniko/.authorities, readOnly: true}
      volumes:
      - {name: context, configMap: {name: alone-%[1]d}}
      - {name: credential, secret: {secretName: registry}}
      - {name: authorities, configMap: {name: authorities}}
`, n, alone, dockerfile, e.kaniko, e.registry.Repository("alone/podinfo")))
}

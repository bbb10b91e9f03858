//go:build cluster

package cluster

import (
	"slices"
	"strings"
	"testing"
)

// attacks are those that end by themselves. Words in braces are filled in by
// besiege.
func attacks() []attack {
	return slices.Concat(searches(), requests(), escapes(), outputs(), contexts())
}

// searches look for secrets in what a build can see.
func searches() []attack {
	return []attack{
		{
			name: "control", what: "nothing: it gives a canary away by itself, and that has to be found in its image and its log",
			run: "RUN echo {CONTROL} | base64 -d | gzip > /loot.gz && echo {CONTROL} | base64 -d > /loot && cat /loot",
			see: func(t *testing.T, s *siege, o *outcome) {
				for where, text := range map[string]string{"its log": o.log(), "/loot": o.files["loot"].content, "/loot.gz": o.files["loot.gz"].content} {
					if !slices.ContainsFunc(s.canaries.In([]byte(text)), func(found string) bool { return strings.HasPrefix(found, "the control, ") }) {
						t.Errorf("the search does not find the control in %s: it proves nothing\n%q", where, text)
					}
				}
			},
		},
		{
			name: "everything", what: "every file, environment, command line and mount that root sees",
			run: "RUN thief loot /loot",
			see: func(t *testing.T, s *siege, o *outcome) {
				loot := o.files["loot"].content
				for _, seen := range []string{"== /proc/1/environ", "== /proc/1/mountinfo", "== /etc/resolv.conf", "== /kaniko/.context/own", s.own["everything"], "SSL_CERT_DIR="} {
					if !strings.Contains(loot, seen) {
						t.Errorf("the thief did not see %q: it proves less than it should\n%.3000s", seen, loot)
					}
				}
				for _, path := range []string{"/secrets", "/order", "/var/run/secrets", "/run/secrets"} {
					if strings.Contains(loot, "== "+path+"/") || strings.Contains(loot, " "+path+" ") {
						t.Errorf("the thief saw %s", path)
					}
				}
			},
		},
		{name: "nobody", what: "what another user than root sees", run: "USER app\nRUN thief loot /tmp/loot"},
		{name: "memory", what: "the memory of kaniko itself", run: "RUN thief dump /memory", see: func(t *testing.T, _ *siege, o *outcome) {
			if len(o.files["memory"].content) < 1<<20 && !strings.Contains(o.files["memory"].content, "cannot:") {
				t.Errorf("%d bytes of memory: it proves less than it should", len(o.files["memory"].content))
			}
		}},
		{
			name: "environment", what: "variables that say more than kaniko needs", run: "RUN cat /proc/1/environ | tr '\\0' '\\n' > /environment; env >> /environment",
			see: func(t *testing.T, _ *siege, o *outcome) {
				known := []string{
					"PATH", "HOME", "USER", "HOSTNAME", "PWD", "SHLVL", "SSL_CERT_DIR", "DOCKER_CONFIG", "FF_KANIKO_RUN_VIA_TINI", "FF_KANIKO_OCI_WARMER",
					// The kubelet says where the API server is, whatever is asked of it.
					"KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT", "KUBERNETES_SERVICE_PORT_HTTPS", "KUBERNETES_PORT",
					"KUBERNETES_PORT_443_TCP", "KUBERNETES_PORT_443_TCP_PROTO", "KUBERNETES_PORT_443_TCP_PORT", "KUBERNETES_PORT_443_TCP_ADDR",
				}
				lines := strings.Fields(o.files["environment"].content)
				for _, line := range lines {
					if name, _, _ := strings.Cut(line, "="); !slices.Contains(known, name) {
						t.Errorf("variable %s", line)
					}
				}
				if len(lines) < 6 {
					t.Errorf("%d variables", len(lines))
				}
			},
		},
		{
			name: "tokens", what: "where secrets, tokens and sockets are in other containers",
			run: "RUN thief absent /var/run/secrets /run/secrets /secrets/git /secrets/pull /secrets/registry /order/fetch.json /order/publish.json /build /network " +
				"/etc/towpath /var/cache/towpath /var/run/docker.sock /run/containerd /var/lib/kubelet /etc/kubernetes /root/.docker /root/.ssh /kaniko/.docker/config.json /run/canary",
		},
		{name: "descriptors", what: "open files that lead out", run: "RUN thief descriptors"},
		{name: "keyrings", what: "keys that the kernel keeps", run: "RUN probe keys towpath-canary"},
		{name: "onbuild", what: "all of it, by way of a base image's ONBUILD", whole: "FROM {ONBUILD-BASE}\nRUN echo mine > /mine", see: func(t *testing.T, _ *siege, o *outcome) {
			if o.files["carried-out"].content != "onbuild\n" || len(o.files["loot"].content) < 10_000 {
				t.Error("ONBUILD was not carried out: it proves nothing")
			}
		}},
		{name: "mounted-secret", what: "a secret by BuildKit's means", run: "RUN --mount=type=secret,id=git cat /run/secrets/git", step: "fetch", says: "--mount"},
		{name: "mounted-host", what: "a directory of the machine's by BuildKit's means", run: "RUN --mount=type=bind,source=/,target=/machine ls /machine/secrets", step: "fetch", says: "--mount"},
		{name: "copied-secret", what: "a secret by COPY from out of the build context", run: "COPY ../../../secrets/git/password /password", step: "build", says: "secrets/git/password"},
		{name: "copied-root", what: "a secret by COPY from another stage's links", whole: `FROM {BASE} AS first
RUN ln -s /secrets /way && ln -s /proc/1/root /root-of-one
FROM {BASE}
COPY own /own
COPY --from=first /way/registry/password /password`, step: "build", says: "no such file"},
		{
			name: "other-cache", what: "what other builds left, or will find: base images, layers, the executor",
			run: "RUN probe write /kaniko/.bases/new /kaniko/.context/new && ls -laR /kaniko/.bases > /bases; mkdir -p /kaniko/no-layers && echo poison > /kaniko/no-layers/index.json; " +
				"cp /bin/busybox /kaniko/executor.new && mv -f /kaniko/executor.new /kaniko/executor; true",
			see: func(t *testing.T, _ *siege, o *outcome) {
				if n := strings.Count(o.files["bases"].content, "sha256:"); n == 0 || strings.Contains(o.files["bases"].content, "other-team") {
					t.Errorf("the build's bases:\n%s", o.files["bases"].content)
				}
			},
		},
	}
}

// requests ask around in the network.
func requests() []attack {
	const api = "https://{API}"
	guess := func(words ...string) string { return strings.Join(words, "' '") }
	return []attack{
		{name: "api-server", what: "the API server, without a token", run: "RUN thief ask '" + guess(
			"GET|"+api+"/api/v1/namespaces/towpath-builds/secrets", "GET|"+api+"/api/v1/namespaces/towpath/secrets/towpath-signing", "GET|"+api+"/api/v1/namespaces/towpath-builds/pods",
			"GET|"+api+"/api/v1/namespaces/towpath/configmaps", "GET|"+api+"/apis/batch/v1/namespaces/towpath-builds/jobs", "GET|"+api+"/api/v1/nodes/node/proxy/pods", "GET|"+api+"/metrics",
			"POST|"+api+"/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", "POST|"+api+"/api/v1/namespaces/towpath-builds/serviceaccounts/build/token",
		) + "'"},
		{name: "api-guessed", what: "the API server, with made-up tokens and names", run: "RUN thief ask '" + guess(
			"GET|"+api+"/api/v1/secrets|Bearer admin", "GET|"+api+"/api/v1/secrets|Basic YWRtaW46YWRtaW4=",
			"GET|"+api+"/api/v1/secrets|Bearer eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6dG93cGF0aDp0b3dwYXRoIn0.",
		) + "'"},
		{name: "node", what: "the programs of the node it is on", run: "RUN thief ask '" + guess(
			"GET|https://{NODE}:10250/pods", "GET|https://{NODE}:10250/runningpods/", "GET|https://{NODE}:10250/containerLogs/towpath/towpath/towpath", "POST|https://{NODE}:10250/run/towpath/towpath/towpath",
			"GET|http://{NODE}:10255/pods", "GET|http://{NODE}:2379/v2/keys", "GET|http://{NODE}:9790/", "GET|http://{NODE}:10249/configz",
		) + "'"},
		{
			name: "addresses", what: "addresses of the cluster's, and the one where clouds hand out credentials",
			run: "RUN thief dial " + metadataAddress + ":80 {API} {NODE}:6443 {NODE}:10250 {NODE}:22", see: reachesNobody,
		},
		{name: "registry", what: "another image in the registry, without a credential", run: "RUN thief ask '" + guess(
			"GET|{REGISTRY-URL}/v2/", "GET|{REGISTRY-URL}/v2/_catalog", "GET|{REGISTRY-URL}/v2/apps/podinfo/manifests/{VICTIM}", "GET|{REGISTRY-URL}/v2/apps/podinfo/tags/list",
			"DELETE|{REGISTRY-URL}/v2/apps/podinfo/manifests/{VICTIM}", "PUT|{REGISTRY-URL}/v2/apps/podinfo/manifests/{VICTIM-TAG}", "POST|{REGISTRY-URL}/v2/apps/podinfo/blobs/uploads/",
			"GET|https://{BASES}/v2/_catalog", "GET|https://{BASES}/v2/private/other-team/manifests/1",
		) + "'"},
		{name: "registry-guessed", what: "the registries and the git server, with guessed credentials", run: "RUN thief ask '" + guess(
			"GET|{REGISTRY-URL}/v2/_catalog|Basic YWRtaW46YWRtaW4=", "GET|{REGISTRY-URL}/v2/_catalog|Basic YXBwczphcHBz", "GET|https://{BASES}/v2/_catalog|Basic YmFzZXM6", "GET|{REGISTRY-URL}/v2/_catalog|Bearer apps",
			"GET|https://{GIT}/apps/podinfo.git/info/refs?service=git-upload-pack", "GET|https://{GIT}/apps/podinfo.git/info/refs?service=git-receive-pack|Basic cmVhZGVyOnJlYWRlcg==",
		) + "'"},
		{name: "their-base", what: "a private image that its config does not list", whole: "FROM {THEIR-BASE}\nCOPY own /own", step: "build", says: "UNAUTHORIZED"},
		{name: "their-files", what: "files of a private image by COPY --from", run: "COPY --from={REGISTRY}/apps/podinfo@{VICTIM} /site /site", step: "build", says: "UNAUTHORIZED"},
		{name: "added", what: "a private address by ADD", run: "ADD {REGISTRY-URL}/v2/_catalog /catalog", step: "build", says: "401"},
	}
}

// escapes try to get out of the container, or over what is not the build's.
func escapes() []attack {
	return []attack{
		{name: "identity", what: "more rights than it has", run: "RUN thief identity; cp /bin/thief /bin/up && chmod 6755 /bin/up\nUSER app\nRUN up identity", see: func(t *testing.T, _ *siege, o *outcome) {
			_, ids, _ := strings.Cut(o.log(), "user namespace: ")
			if ids, _, _ = strings.Cut(ids, "\n"); strings.HasPrefix(ids, "0 0 ") {
				t.Log("NOT ENFORCED HERE: this node's runtime knows no user namespaces for pods, so root in a build is the node's root but for its capabilities; hostUsers: false is in the Job where the config says so, see kaniko/job's tests of Render")
			}
		}},
		{name: "system-calls", what: "what only a machine's owner may ask of the kernel", run: "RUN thief calls\nUSER app\nRUN thief calls"},
		{name: "namespaces", what: "namespaces, mounts and roots by other programs' means", run: "RUN probe namespaces\nUSER app\nRUN probe namespaces"},
		{name: "devices", what: "devices, and switches of the machine's", run: "RUN thief devices"},
		{
			name: "settings", what: "files that are not the build's: the kernel's, the network's, fetch's",
			run: "RUN probe write /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger /etc/resolv.conf /etc/hosts /etc/hostname " +
				"/kaniko/.context/Dockerfile /kaniko/.context/own /kaniko/.authorities/ca.crt /sys/kernel/uevent_helper\nRUN umount /etc/resolv.conf; mv /etc/resolv.conf /etc/mine; ln -sf /tmp/x /etc/hosts; cat /etc/hosts > /looked-up",
			see: func(t *testing.T, _ *siege, o *outcome) {
				if !strings.Contains(o.files["looked-up"].content, "localhost") {
					t.Errorf("/etc/hosts is now %q", o.files["looked-up"].content)
				}
			},
		},
		{name: "processes", what: "other processes' lives, all that there are", run: "RUN thief processes; true", step: "build", says: "signal: killed"},
		{name: "debugger", what: "kaniko's own life, which it ends well with a layout of the RUN step's", run: "RUN thief leave {VICTIM}", step: "publish", says: "manifest: it is missing"},
		{name: "terminated", what: "kaniko's own life, by a signal", run: "RUN kill -TERM 1; kill -INT 1; sleep 2", step: "build", says: "kaniko ended with status"},
		{name: "workdir", what: "a directory of the machine's that the runtime left open", run: "WORKDIR /proc/self/fd/7\nRUN thief absent ../../../../run/canary", step: "build", says: "fork/exec /bin/sh: not a directory"},
		{name: "preloaded", what: "programs that run after it, by their environment", run: "ENV LD_PRELOAD=/evil.so SSL_CERT_DIR=/evil DOCKER_CONFIG=/evil HTTPS_PROXY=http://6.6.6.6:1 GODEBUG=http2debug=2 TMPDIR=/evil HOME=/evil PATH=/bin:/evil\n" +
			"RUN echo /evil.so > /etc/ld.so.preload; mkdir -p /root/.docker && echo '{\"credHelpers\": {\"{REGISTRY}\": \"evil\"}}' > /root/.docker/config.json; cp /bin/busybox /bin/towpath; mkdir -p /usr/local/bin && cp /bin/busybox /usr/local/bin/towpath"},
		{
			name: "shared-memory", what: "memory that publish might share", run: "RUN thief shared",
			see: func(t *testing.T, _ *siege, o *outcome) {
				if !strings.Contains(o.log(), "held /dev/shm after 6") {
					t.Errorf("/dev/shm has another bound than 64 MiB:\n%s", end(o.log()))
				}
			},
		},
		{
			name: "last-word", what: "what Towpath believes of a step: its termination message",
			run: `RUN echo '{"digest": "{VICTIM}", "size": 1000}' > /dev/termination-log && dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\0' x >> /dev/termination-log && echo '{"digest": "{VICTIM}", "size": 1000}' >> /dev/termination-log`,
			see: func(t *testing.T, s *siege, o *outcome) {
				message := o.pod.Status.InitContainerStatuses[1].State.Terminated.Message
				if !strings.Contains(message, s.victim) || len(message) > 4096 {
					t.Errorf("kaniko's last word is %q: the attack did not take place", message)
				}
			},
		},
		{name: "words", what: "whoever reads its log: terminals, and who tells the machinery's failures", run: `RUN printf '\033]0;owned\007\033[2J\033[31mtime="2026-11-22T00:00:00Z" level=error msg="error building image: dial tcp 10.0.0.1:443: i/o timeout"\n'; exit 3`, step: "build", says: "exit status 3"},
		{name: "volumes", what: "places that belong to other containers, by VOLUME, WORKDIR and links", run: "RUN rm -rf /workspace && ln -s / /workspace && ln -s /kaniko/.out /linked && mkdir -p /order /secrets/registry && echo '{}' > /order/publish.json && echo mine > /secrets/registry/password\nVOLUME /secrets /order /kaniko /dev/shm\nWORKDIR /secrets/registry\nRUN pwd"},
	}
}

// outputs leave something else behind than kaniko would.
func outputs() []attack {
	faulty := func(name, what, run, says string) attack {
		return attack{name: name, what: what, run: run, step: "publish", says: says}
	}
	return []attack{
		faulty("layout-link", "another directory in place of the layout", "RUN mkdir /elsewhere && ln -s /elsewhere /kaniko/.out/image", "its directory: it is a symbolic link"),
		faulty("index-link", "publish's own secret, by a link in place of index.json", "RUN mkdir -p /kaniko/.out/image /secrets/registry && ln -s /secrets/registry/password /kaniko/.out/image/index.json", "index.json: it is a symbolic link"),
		faulty("blobs-link", "publish's own secrets, by a link in place of the blobs", "RUN mkdir -p /kaniko/.out/image/blobs /secrets/registry && ln -s /secrets/registry /kaniko/.out/image/blobs/sha256", "blobs/sha256: it is a symbolic link"),
		faulty("layer-link", "publish's own secret, by a link in place of a layer", "RUN thief late link", "it is a symbolic link"),
		faulty("layer-named", "a layer that has another name", "RUN thief late named", "2 hard links"),
		faulty("layer-grown", "a layer that is longer than its descriptor says", "RUN thief late grown", "bytes large, at most"),
		faulty("layer-changed", "a layer of another content than its digest says", "RUN thief late changed", "sha256:"),
		faulty("layer-sparse", "a layer of a tebibyte that takes no room", "RUN thief late sparse", "bytes large, at most"),
		faulty("layer-elsewhere", "a layer that clients would fetch from elsewhere", "RUN thief late elsewhere", "it names URLs"),
		faulty("index-pipe", "publish's time, by a pipe in place of index.json", "RUN thief late pipe", "index.json: it is a pipe"),
		faulty("index-forged", "the promotion of another's image, by its digest in index.json", "RUN thief late index {VICTIM}", "manifest: it is missing"),
		faulty("index-second", "a second image beside its own", "RUN thief late second", "it names 2 manifests"),
		faulty("index-endless", "publish's memory, by an index of 5 MiB", "RUN thief late endless", "index.json: it is 52428"),
		faulty("marker", "a layout of another version", "RUN thief late marker", "does not name layout version 1.0.0"),
		faulty("given-away", "publish's rights, by giving the output away", "RUN mkdir -p /kaniko/.out/image && chown 1000 /kaniko/.out/image && chmod 700 /kaniko/.out/image", "it may not be read"),
		{
			name: "forged-files", what: "the promotion of another's image, by files that were there before",
			run: `RUN mkdir -p /kaniko/.out/image/blobs/sha256 && echo {VICTIM} | tee /kaniko/.out/digest /kaniko/digest /kaniko/.out/image/digest /digest && echo '{"imageLayoutVersion": "1.0.0"}' > /kaniko/.out/image/oci-layout && ` +
				`echo '{"schemaVersion": 2, "manifests": [{"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": "{VICTIM}", "size": 1000}]}' > /kaniko/.out/image/index.json`,
		},
		{name: "remains", what: "the output while it is published, by a process that outlives its step", run: "RUN thief stay"},
		{name: "modes", what: "the node, by setuid programs, capabilities and forbidding modes in the output", run: "RUN cp /bin/busybox /kaniko/.out/su && chmod 6755 /kaniko/.out/su && cp /bin/busybox /su && chmod 6777 /su && mkdir -p /kaniko/.out/closed/closed && chmod 0 /kaniko/.out/closed/closed /kaniko/.out/closed"},
		{name: "zeros", what: "publish's memory and disk, by a layer that unpacks to a thousand times its size", run: "RUN truncate -s 512M /zeros"},
		{name: "labels", what: "the daemon's memory, by a config of a megabyte", run: labels(16)},
	}
}

// contexts are hostile before kaniko begins: to fetch, and to who unpacks.
func contexts() []attack {
	return []attack{
		{name: "dockerfile-link", what: "fetch's own secret, by a link in place of the Dockerfile", links: map[string]string{"Dockerfile": "/secrets/git/password"}, step: "fetch", says: "Dockerfile: "},
		{name: "dockerfile-up", what: "fetch's own order, by a link that climbs", links: map[string]string{"Dockerfile": "../../order/fetch.json"}, step: "fetch", says: "Dockerfile: "},
		{name: "context-links", what: "secrets, by links in the build context", links: map[string]string{"password": "/secrets/git/password", ".dockerignore": "/secrets/git/username"}, run: "COPY password /password", step: "fetch", says: "leads out of the context"},
		{name: "context-climbs", what: "secrets, by a link in the build context that climbs", links: map[string]string{"deep/password": "../../../../secrets/git/password"}, run: "COPY deep /deep", step: "fetch", says: "leads out of the context"},
		{name: "path-link", what: "files outside the repository, by a link in place of source.path", path: "path-link/way", links: map[string]string{"way": "/secrets"}, step: "fetch", says: "a symlink, which is not followed"},
		{
			name: "laughs", what: "fetch's memory, by arguments that double forty times",
			whole: "ARG a0=xxxxxxxxxxxxxxxx\n" + doubling(40) + "FROM {BASE}\nCOPY own /own", step: "fetch", says: "ARG",
		},
		{name: "climbed", what: "kaniko's own files, by an archive whose names climb", tar: climbing(), run: "ADD evil.tar /unpacked/", step: "build", says: "references parent directory"},
		{name: "climbing-base", what: "kaniko's own files, by a base image whose names climb", whole: "FROM {CLIMBING-BASE}\nCOPY own /own", step: "build", says: "references parent directory"},
		{name: "linked", what: "kaniko's own files, by an archive with links and names of theirs", tar: linking(), run: "ADD evil.tar /\nRUN ls -la /kaniko /kaniko/.out > /seen"},
		{name: "linking-base", what: "kaniko's own files, by a base image with links and names of theirs", whole: "FROM {LINKING-BASE}\nCOPY own /own\nRUN ls -la /kaniko /kaniko/.out > /seen"},
	}
}

// labels are so many of 60 KB each, in a Dockerfile that is not much longer.
func labels(n int) string {
	var text strings.Builder
	text.WriteString("ARG long=" + strings.Repeat("x", 60<<10) + "\n")
	for i := range n {
		text.WriteString("LABEL l" + string(rune('a'+i)) + "=${long}\n")
	}
	return text.String()
}

// doubling is so many arguments, each twice the one before it.
func doubling(n int) string {
	var text strings.Builder
	for i := range n {
		from, to := "a"+string(rune('0'+i%10))+strings.Repeat("_", i/10), "a"+string(rune('0'+(i+1)%10))+strings.Repeat("_", (i+1)/10)
		text.WriteString("ARG " + to + "=${" + from + "}${" + from + "}\n")
	}
	return text.String()
}

// excesses take all they can get. What ends them is not always the build's fault:
// the node does.
func excesses() []attack {
	late := "not done within its time, " + patience.String()
	return []attack{
		{name: "talks", what: "all words", run: "RUN thief talk", step: "build", says: late},
		{name: "forks", what: "all process numbers", run: "RUN probe forks", step: "build", says: "resource temporarily unavailable"},
		{name: "spins", what: "all time", run: "RUN echo on my way; probe spin", step: "build", says: late},
		{name: "hungry", what: "all memory", run: "RUN probe memory", broken: "needed more memory than its limit"},
		{name: "disk", what: "all of the node's disk, in the image", run: "RUN thief fill /filled 1300", broken: "ephemeral|Evicted"},
		// The kubelet measures an emptyDir once a minute, so the deadline may come first.
		{name: "output", what: "all of the node's disk, in the output", run: "RUN thief fill /kaniko/.out/filled 1300", broken: "ephemeral|EmptyDir|Evicted", step: "build", says: late},
		{name: "sparse", what: "kaniko's time, by a file of a tebibyte", run: "RUN truncate -s 1099511627776 /sparse", step: "build", says: late},
		{name: "survivor", what: "nothing: it is built while the others take all", run: "RUN echo alive > /alive"},
	}
}

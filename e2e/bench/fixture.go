package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"towpath.dev/towpath/e2e/lab"
)

// The repositories that are measured on.
const (
	manyRefs     = 20_000
	fleetFiles   = 10_000
	fleetMarkers = 200
	fleetCommits = 5_000
	markerEvery  = fleetFiles / fleetMarkers
)

// edition changes with what the repositories hold: others are made then.
const edition = "2"

// fixture returns a bare repository that is made once and kept in the user's
// cache. Nobody may write to it.
func fixture(s *stand, name string, fill func(s *stand, dir string)) string {
	cache, err := os.UserCacheDir()
	s.must(err)
	dir := filepath.Join(cache, "towpath", "bench", name+"-"+edition+".git")
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	s.say("making %s (once)", dir)
	s.must(os.MkdirAll(filepath.Dir(dir), 0o755))
	making, err := os.MkdirTemp(filepath.Dir(dir), name+"-")
	s.must(err)
	s.Cleanup(func() { os.RemoveAll(making) })
	lab.RunGit(s, "", "init", "--quiet", "--bare", "--initial-branch=main", making)
	for key, value := range map[string]string{"http.receivepack": "true", "gc.auto": "0", "receive.autogc": "false"} {
		lab.RunGit(s, making, "config", key, value)
	}
	fill(s, making)
	s.must(os.Rename(making, dir))
	return dir
}

// refsRepository has 20,000 refs, as the repository of an application that many
// people work on: branches, tags and what a forge keeps of pull requests.
func refsRepository(s *stand) string {
	return fixture(s, "refs", func(s *stand, dir string) {
		stream(s, dir, func(in io.Writer) {
			for n := range 200 {
				commit(in, n)
				writeFile(in, "main.go", fmt.Sprintf("package main // %d\n", n))
			}
			for n := range manyRefs - 1 { // and main
				name := fmt.Sprintf("refs/pull/%d/head", n)
				switch n % 4 {
				case 0:
					name = fmt.Sprintf("refs/heads/feature/team-%d/change-%d", n%17, n)
				case 1:
					name = fmt.Sprintf("refs/tags/v1.%d.%d", n/50, n%50)
				}
				fmt.Fprintf(in, "reset %s\nfrom :%d\n\n", name, 1+n%200)
			}
		})
		lab.RunGit(s, dir, "pack-refs", "--all")
	})
}

// fleetRepository is a GitOps repository as large ones are: 10,000 YAML files in
// nested directories, 200 markers, 5,000 commits.
func fleetRepository(s *stand) string {
	return fixture(s, "fleet", func(s *stand, dir string) {
		stream(s, dir, func(in io.Writer) {
			commit(in, 0)
			for i := range fleetFiles {
				path, content := fleetFile(i)
				writeFile(in, path, content)
			}
			for n := 1; n < fleetCommits; n++ {
				commit(in, n)
				path, content := fleetFile((n * 37) % fleetFiles)
				writeFile(in, path, fmt.Sprintf("%s# change %d\n", content, n))
			}
		})
		lab.RunGit(s, dir, "repack", "-adq")
	})
}

// stream feeds git fast-import.
func stream(s *stand, dir string, write func(io.Writer)) {
	reader, writer := io.Pipe()
	go func() {
		write(writer)
		writer.Close()
	}()
	fastImport(s, dir, reader)
}

func commit(in io.Writer, n int) {
	fmt.Fprintf(in, "commit refs/heads/main\nmark :%d\ncommitter Pat <pat@example.com> %d +0000\ndata 6\nchange\n", n+1, lab.Epoch.Unix()+int64(n)*60)
}

func writeFile(in io.Writer, path, content string) {
	fmt.Fprintf(in, "M 100644 inline %s\ndata %d\n%s\n", path, len(content), content)
}

// fleetFile is the i-th file of the GitOps repository: each application has a
// directory with five of them, a team some fifty applications. Every 50th file,
// a Deployment, has a marker.
func fleetFile(i int) (path, content string) {
	kinds := []string{"Deployment", "Service", "Ingress", "ConfigMap", "NetworkPolicy"}
	kind, service := kinds[i%len(kinds)], i/len(kinds)
	name, mark := fmt.Sprintf("service-%d", service), ""
	if i%markerEvery == 0 {
		name = appName(i / markerEvery)
		mark = fmt.Sprintf(" # {\"$imagepolicy\": \"%s:%s\"}", policyNamespace, name)
	}
	team := service % 40
	path = fmt.Sprintf("clusters/region-%d/team-%d/%s/%s.yaml", team%5, team, name, strings.ToLower(kind))
	content = fmt.Sprintf(`# %[1]s is looked after by team %[2]d.
apiVersion: example.com/v1
kind: %[3]s
metadata:
  name: %[1]s
  namespace: apps
  labels:
    app.kubernetes.io/name: %[1]s
    app.kubernetes.io/part-of: team-%[2]d
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: %[1]s
`, name, team, kind)
	if kind == "Deployment" {
		content += fmt.Sprintf(`  replicas: %[2]d
  template:
    metadata:
      labels:
        app.kubernetes.io/name: %[1]s
    spec:
      containers:
        - name: app
          image: %[3]s:none%[4]s
          ports:
            - containerPort: 8080
          resources:
            requests: {cpu: 100m, memory: 64Mi}
`, name, 1+service%3, repositoryOf(name), mark)
	}
	return path, content
}

const policyNamespace = "flux-system"

func appName(n int) string { return fmt.Sprintf("app-%d", n) }

// repositoryOf is where an application's images are, without a tag.
func repositoryOf(app string) string { return "registry.example.com/apps/" + app }

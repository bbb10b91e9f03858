package config

import (
	"path"
	"strings"
	"time"

	flux "github.com/fluxcd/image-automation-controller/api/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// DefaultTag is the template of Image.TagTemplate where none is given.
const DefaultTag = "{{ .Branch }}-{{ .ShortCommit }}-{{ .CommitTime.Unix }}"

// configDefaults is what the config says before anything is read.
func configDefaults() Config {
	return Config{ //nolint:gosec // G101 sees a secret in a directory's name
		Interval: time.Minute,
		Secrets:  "/etc/towpath/secrets",
		Cache:    "/var/cache/towpath",
		Builder: Builder{
			Type:        BuilderSandbox,
			Concurrency: 2,
			Timeout:     30 * time.Minute,
			Kaniko:      Kaniko{Executor: "executor"},
			Sandbox:     Sandbox{Runtime: "runc", Memory: 4 << 30, PIDs: 4096},
			Kubernetes: Kubernetes{
				Namespace: "towpath-builds",
				TTL:       time.Hour,
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{
						corev1.ResourceCPU:              resource.MustParse("500m"),
						corev1.ResourceMemory:           resource.MustParse("1Gi"),
						corev1.ResourceEphemeralStorage: resource.MustParse("2Gi"),
					},
					Limits: corev1.ResourceList{
						corev1.ResourceMemory:           resource.MustParse("4Gi"),
						corev1.ResourceEphemeralStorage: resource.MustParse("20Gi"),
					},
				},
			},
		},
	}
}

// targetDefaults is what a target says before its own keys are read.
func targetDefaults() Target {
	return Target{
		Update:      flux.UpdateStrategy{Strategy: flux.UpdateStrategySetters},
		Verify:      Verify{Mode: VerifyNone},
		AfterRevert: RevertNext,
	}
}

// imageDefaults is what an image says before the file's defaults and its own
// keys are read.
func imageDefaults() Image {
	return Image{
		Source: Source{Branch: "master", Path: ".", Verify: Verify{Mode: VerifyNone}},
		Build:  Build{Dockerfile: "Dockerfile", Platforms: []string{"linux/amd64"}},
		Pin:    PinDigest,
		Start:  StartBuild,
	}
}

// settle fills in what follows from the rest of the config, once all of it is
// known to be sound.
func (c *Config) settle(directory string) {
	c.Secrets, c.Cache = below(directory, c.Secrets), below(directory, c.Cache)
	for _, program := range []*string{&c.Builder.Kaniko.Executor, &c.Builder.Sandbox.Runtime} {
		if strings.Contains(*program, "/") {
			*program = below(directory, *program)
		}
	}
	for _, token := range []*Token{&c.Builder.Kubernetes.Identity.Fetch, &c.Builder.Kubernetes.Identity.Publish} {
		if token.Audience != "" && token.Path == "" {
			token.Path = DefaultTokenPath
		}
	}
	var every []string
	for i := range c.GitOps {
		target := &c.GitOps[i]
		every = append(every, target.Name)
		if target.Git.Commit.SigningKey.Type == "" {
			target.Git.Commit.SigningKey.Type = flux.SigningKeyTypeGPG // as Flux does
		}
		if target.Git.Commit.Author.Name == "" {
			target.Git.Commit.Author.Name = "Towpath" // git wants one
		}
		target.Update.Path = path.Clean(target.Update.Path)
	}
	for i := range c.Images {
		image := &c.Images[i]
		image.Source.Path = path.Clean(image.Source.Path)
		image.Build.Dockerfile = path.Clean(image.Build.Dockerfile)
		if image.TagTemplate == "" {
			image.TagTemplate = DefaultTag
		}
		if image.GitOps == nil {
			image.GitOps = append([]string(nil), every...)
		}
		image.Source.Watch = watched(image.Source)
	}
}

// watched are the patterns that ask for a new image. The Dockerfile and
// .dockerignore are in the context, so the context's path covers them.
func watched(s Source) []string {
	if s.Watch == nil && s.Path != "." {
		return []string{"/" + escapePattern(s.Path) + "/"}
	}
	if s.Watch == nil {
		return []string{"*"}
	}
	patterns := make([]string, len(s.Watch))
	for i, pattern := range s.Watch {
		patterns[i] = pattern
		// To git the pattern "/" matches nothing. Here people mean the
		// repository by it.
		if pattern == "/" || pattern == "!/" {
			patterns[i] = strings.Replace(pattern, "/", "*", 1)
		}
	}
	return patterns
}

// escapePattern makes a path a gitignore pattern that matches that path alone.
func escapePattern(p string) string {
	var b strings.Builder
	for _, r := range p {
		if strings.ContainsRune(`\*?[]! #`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return b.String()
}

// Branch is the branch of the GitOps repository that Towpath reads and, unless
// a review branch is set, pushes to.
func (t *Target) Branch() string { return t.Git.Checkout.Reference.Branch }

// Path is the directory below which markers are edited, from the repository's
// root: "." or as in clusters/production.
func (t *Target) Path() string { return t.Update.Path }

package main

import (
	"fmt"
	"strings"

	"sigs.k8s.io/yaml"
)

// configText is the config: what was answered, and of the rest what somebody who
// begins should see. Everything else has its default.
func (s *setup) configText() string {
	var b strings.Builder
	line := func(format string, values ...any) { fmt.Fprintf(&b, format+"\n", values...) }
	line("# Towpath's config. Every key there is: config/towpath.example.yaml of Towpath.")
	line("apiVersion: towpath.dev/v1")
	line("kind: Config")
	line("include: [images.d/*.yaml] # the ConfigMap towpath-images, if there is one: a file per team")
	line("interval: 1m")
	line("suspend: false # the brake: nothing is built or promoted")
	line("")
	line("signing:")
	line("  provenance: {secretRef: {name: towpath-provenance}}")
	line("")
	line("gitops:")
	line("  - name: %s", scalar(s.target))
	line("    url: %s", scalar(s.url))
	line("    secretRef: {name: %s}", scalar(s.fleet))
	line("    git:")
	if s.git == "" {
		line("      checkout: {ref: {branch: %s}}", scalar(s.branch))
		line("      commit:")
		line("        author: {name: Towpath, email: %s}", scalar(s.email))
		line("        signingKey: {type: ssh, secretRef: {name: towpath-signing}}")
	} else {
		for each := range strings.Lines(s.git) {
			b.WriteString("      " + each)
		}
	}
	if s.path != "" {
		line("    update: {strategy: Setters, path: %s}", scalar(s.path))
	}
	if s.flux != "" {
		namespace, name, _ := strings.Cut(s.flux, "/")
		line("    flux: {gitRepository: {namespace: %s, name: %s}}", scalar(namespace), scalar(name))
	}
	line("")
	line("builder:")
	line("  type: kubernetes")
	if len(s.egress) > 0 {
		line("  egress: # network.yaml is made of it")
		for _, entry := range s.egress {
			line("    - %s", scalar(entry))
		}
	}
	line("  # The two images are also in admission.yaml and kustomization.yaml: change them together.")
	line("  kaniko: {image: %s}", scalar(s.kaniko))
	line("  kubernetes: {namespace: towpath-builds, image: %s}", scalar(s.towpath))
	line("")
	s.imagesText(line)
	return b.String()
}

func (s *setup) imagesText(line func(string, ...any)) {
	known := 0
	for _, image := range s.images {
		if image.source != "" {
			known++
		}
	}
	if known == 0 {
		line("images: []")
	} else {
		line("images:")
	}
	for _, image := range s.images {
		mark := ""
		if image.source == "" {
			mark = "  #"
			line("  # Where is its source? Take the marks away, and the [] above if it is there.")
		}
		source := image.source
		if source == "" {
			source = "https://git.example.com/" + image.name + ".git"
		}
		secret := ""
		if s.gitSecret != "" {
			secret = ", secretRef: {name: " + scalar(s.gitSecret) + "}"
		}
		line("%s  - name: %s", mark, scalar(image.name))
		line("%s    source: {url: %s, branch: %s%s}", mark, scalar(source), scalar(image.branch), secret)
		secret = ""
		if s.registry != "" {
			secret = ", secretRef: {name: " + scalar(s.registry) + "}"
		}
		line("%s    destination: {repository: %s%s}", mark, scalar(image.repository), secret)
		line("%s    policy: %s", mark, scalar(image.policy))
	}
}

// scalar writes a text as one YAML scalar, in quotes only where it needs them.
func scalar(text string) string {
	encoded, err := yaml.Marshal(text)
	plain := strings.TrimSuffix(string(encoded), "\n")
	// Inside {} and [] more needs quotes than by itself.
	if err != nil || strings.ContainsAny(plain, "\n,[]{}#") || strings.HasPrefix(plain, "|") || strings.HasPrefix(plain, ">") {
		return fmt.Sprintf("%q", text)
	}
	return plain
}

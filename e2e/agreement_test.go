package e2e

import (
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/Masterminds/sprig/v3"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/kaniko/executor"
)

// The config checks some of what other packages enforce, and may import none of
// them. Here each of its lists is held against the other's.

const soundConfig = `apiVersion: towpath.dev/v1
kind: Config
signing: {provenance: {secretRef: {name: provenance}}}
gitops:
  - name: production
    url: https://git.example.com/fleet.git
    git:
      checkout: {ref: {branch: main}}
      commit:
        author: {email: towpath@example.com}
        signingKey: {secretRef: {name: signing}}
        messageTemplate: '%TEMPLATE%'
builder: {kaniko: {args: ['%ARGUMENT%']}}
`

// loads tells whether a config with this argument of kaniko, or this template,
// is accepted, and why not.
func loads(t *testing.T, argument, template string) error {
	t.Helper()
	file := filepath.Join(t.TempDir(), "towpath.yaml")
	lab.WriteFile(t, file, []byte(strings.NewReplacer("%ARGUMENT%", argument, "%TEMPLATE%", template).Replace(soundConfig)))
	_, err := config.Load(config.Options{File: file})
	return err
}

// TestConfigAndBuilderAllowTheSameArguments asks both about every argument that
// the real executor knows, and some that it does not.
func TestConfigAndBuilderAllowTheSameArguments(t *testing.T) {
	t.Parallel()
	help, err := exec.CommandContext(t.Context(), lab.Tool(t, "executor"), "--help").CombinedOutput()
	if err != nil {
		t.Fatalf("executor --help: %v", err)
	}
	arguments := []string{"--", "---", "--=x", "-v", "verbosity", "--nothing", "--verbosity", "--verbosity=", "--Verbosity=debug", "--label=a=b", "--annotation", "--registry-map", "--registry-mirror=user:hunter2@mirror.example.com", "--registry-mirror=mirror.example.com"}
	for _, flag := range regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[a-z][a-z-]+)`).FindAllStringSubmatch(string(help), -1) {
		arguments = append(arguments, flag[1], flag[1]+"=x")
	}
	if len(arguments) < 100 {
		t.Fatalf("the executor's help names few arguments:\n%s", help)
	}
	allowed := 0
	for _, argument := range arguments {
		inConfig, inBuild := loads(t, argument, ""), executor.CheckArguments([]string{argument})
		if (inConfig == nil) != (inBuild == nil) {
			t.Errorf("%q: the config says %v, the builder %v", argument, inConfig, inBuild)
		}
		if inBuild == nil {
			allowed++
		}
	}
	if allowed < 20 {
		t.Errorf("%d arguments are allowed: the test saw too little", allowed)
	}
}

// TestConfigAndBumpKnowTheSameFunctions asks both about every function that a
// template could think of.
func TestConfigAndBumpKnowTheSameFunctions(t *testing.T) {
	t.Parallel()
	functions := []string{"and", "call", "html", "index", "slice", "js", "len", "not", "or", "print", "printf", "println", "urlquery", "eq", "ge", "gt", "le", "lt", "ne", "nothing"}
	for name := range sprig.FuncMap() {
		functions = append(functions, name)
	}
	slices.Sort(functions)
	known := 0
	for _, name := range functions {
		// Never called, so that only whether it is known counts.
		template := "{{ if false }}{{ " + name + " }}{{ end }}said"
		inConfig, inBump := loads(t, "--verbosity=debug", template), bump.CheckTemplate(template, nil)
		if (inConfig == nil) != (inBump == nil) {
			t.Errorf("%s: the config says %v, the bump %v", name, inConfig, inBump)
		}
		if inBump == nil {
			known++
		}
	}
	if known < 100 || known == len(functions) {
		t.Errorf("%d of %d functions are known: the test saw too little", known, len(functions))
	}
}

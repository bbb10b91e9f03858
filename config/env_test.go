package config_test

import (
	"errors"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/config"
)

func TestOverlay(t *testing.T) {
	file := filepath.Join(write(t, map[string]string{"towpath.yaml": small + podinfo + "interval: 5m\nbuilder: {concurrency: 9, kaniko: {args: [--label=A.B=c]}}\n"}), "towpath.yaml")
	for name, value := range map[string]string{
		"TOWPATH_INTERVAL":                          "90s",
		"TOWPATH_SUSPEND":                           "true",
		"TOWPATH_SECRETS":                           "0123", // text, whatever it looks like
		"TOWPATH_CACHE":                             "/Cache.D",
		"TOWPATH_BUILDER_CONCURRENCY":               "3",
		"TOWPATH_BUILDER_TIMEOUT":                   "1h",
		"TOWPATH_BUILDER_SANDBOX_MEMORY":            "512Mi",
		"TOWPATH_BUILDER_SANDBOX_PIDS":              "", // says nothing
		"TOWPATH_BUILDER_KUBERNETES_NAMESPACE":      "builds",
		"TOWPATH_BUILDER_KUBERNETES_HOSTUSERS":      "false", // unlike one that is left out
		"TOWPATH_SIGNING_PROVENANCE_SECRETREF_NAME": "other",
		"TOWPATH_TOOLS":                             "/opt",
		"TOWPATH_SERVICE_HOST":                      "10.96.0.7", // Kubernetes, for a Service called towpath
		"TOWPATH_SERVICE_PORT_HTTP":                 "80",
		"TOWPATH_PORT":                              "tcp://10.96.0.7:80",
		"TOWPATH_REGISTRY_PORT_80_TCP_ADDR":         "10.96.0.7",
	} {
		t.Setenv(name, value)
	}
	c, err := config.Load(config.Options{File: file})
	if err != nil {
		t.Fatal(err)
	}
	if c.Interval != 90*time.Second || !c.Suspend || c.Secrets != filepath.Join(filepath.Dir(file), "0123") || c.Cache != "/Cache.D" || c.Signing.Provenance.SecretRef.Name != "other" {
		t.Errorf("%+v", c)
	}
	want := config.Builder{
		Type: "sandbox", Concurrency: 3, Timeout: time.Hour,
		Kaniko:     config.Kaniko{Executor: "executor", Args: []string{"--label=A.B=c"}},
		Sandbox:    config.Sandbox{Runtime: "runc", Memory: 512 << 20, PIDs: 4096},
		Kubernetes: config.Kubernetes{Namespace: "builds", TTL: time.Hour, HostUsers: new(false), Resources: resources("500m", "1Gi", "2Gi", "4Gi", "20Gi")},
	}
	if diff := cmp.Diff(want, c.Builder); diff != "" {
		t.Errorf("builder (-want +got):\n%s", diff)
	}
}

func TestOverlayBad(t *testing.T) {
	file := filepath.Join(write(t, map[string]string{"towpath.yaml": small + podinfo + "interval: 5x\n"}), "towpath.yaml")
	for name, value := range map[string]string{
		"TOWPATH_INTERVAL":            "60",
		"TOWPATH_SUSPEND":             "maybe",
		"TOWPATH_BUILDER_TIMEOUT":     "1ms",
		"TOWPATH_BUILDER_TYPE":        "docker",
		"TOWPATH_BUILDER_CONCURRENCI": "3",
		"TOWPATH_GITOPS":              "x",
		"TOWPATH_APIVERSION":          "x",
	} {
		t.Setenv(name, value)
	}
	_, err := config.Load(config.Options{File: file})
	var problems config.Problems
	if !errors.As(err, &problems) {
		t.Fatal(err)
	}
	want := file + `:15: interval: "5x" is no duration
	hint: a number and its unit: 90s, 5m, 1h30m
TOWPATH_APIVERSION: is no variable that Towpath reads
	hint: a variable is TOWPATH_ and the setting's path in capitals: builder.timeout is TOWPATH_BUILDER_TIMEOUT
TOWPATH_BUILDER_CONCURRENCI: is no variable that Towpath reads
	hint: did you mean TOWPATH_BUILDER_CONCURRENCY?
TOWPATH_BUILDER_TIMEOUT: builder.timeout: 1ms is not between 1s and 24h
TOWPATH_BUILDER_TYPE: builder.type: "docker" is not kubernetes or sandbox
TOWPATH_GITOPS: is no variable that Towpath reads
	hint: a variable is TOWPATH_ and the setting's path in capitals: builder.timeout is TOWPATH_BUILDER_TIMEOUT
TOWPATH_INTERVAL: interval: "60" is no duration
	hint: a number and its unit: 90s, 5m, 1h30m
TOWPATH_SUSPEND: suspend: is text, not true or false
	hint: write true or false, without quotes
`
	if diff := cmp.Diff(want, lines(problems)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

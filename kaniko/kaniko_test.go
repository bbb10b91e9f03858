package kaniko_test

import (
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/kaniko"
)

// TestKey: whatever may make another image makes another key, and where the
// image goes and what it is called does not.
func TestKey(t *testing.T) {
	t.Parallel()
	order := func() kaniko.Order {
		return kaniko.Order{
			Image:  "demo",
			Source: kaniko.Source{URL: "https://git.example.com/demo.git", Ref: "refs/heads/master", Commit: strings.Repeat("8b07d4aa", 5)},
			Path:   ".", Dockerfile: "Dockerfile", Args: map[string]string{"A": "1"}, Platform: "linux/amd64",
			KanikoArgs: []string{"--label=a=b", "--single-snapshot"},
			Executor:   "sha256:e", Policy: "sha256:f",
			Destination: kaniko.Destination{Repository: "registry.example.com/apps/demo", Tag: "v1"},
		}
	}
	for name, edit := range map[string]func(*kaniko.Order){
		"url":                    func(o *kaniko.Order) { o.Source.URL += "2" },
		"commit":                 func(o *kaniko.Order) { o.Source.Commit = strings.Repeat("0", 40) },
		"path":                   func(o *kaniko.Order) { o.Path = "app" },
		"Dockerfile":             func(o *kaniko.Order) { o.Dockerfile = "Containerfile" },
		"target":                 func(o *kaniko.Order) { o.Target = "release" },
		"build argument":         func(o *kaniko.Order) { o.Args = map[string]string{"A": "2"} },
		"platform":               func(o *kaniko.Order) { o.Platform = "linux/arm64" },
		"kaniko's arguments":     func(o *kaniko.Order) { o.KanikoArgs = []string{"--label=a=c", "--single-snapshot"} },
		"no arguments of kaniko": func(o *kaniko.Order) { o.KanikoArgs = nil },
		"split arguments":        func(o *kaniko.Order) { o.KanikoArgs = []string{"--label=a=b,--single-snapshot"} },
		"executor":               func(o *kaniko.Order) { o.Executor = "sha256:0" },
		"policy":                 func(o *kaniko.Order) { o.Policy = "sha256:0" },
	} {
		other := order()
		edit(&other)
		if other.Key() == order().Key() {
			t.Errorf("another %s has the same key", name)
		}
	}
	for name, edit := range map[string]func(*kaniko.Order){
		"name": func(o *kaniko.Order) { o.Image = "other" },
		"ref":  func(o *kaniko.Order) { o.Source.Ref = "refs/heads/release" },
		"time": func(o *kaniko.Order) { o.Source.Time = time.Unix(1763750000, 0) },
		"destination": func(o *kaniko.Order) {
			o.Destination = kaniko.Destination{Repository: "x/y", Tag: "v2", Insecure: true}
		},
		"pull": func(o *kaniko.Order) { o.Pull = kaniko.Pull{Secret: "bases"} },
	} {
		same := order()
		edit(&same)
		if same.Key() != order().Key() {
			t.Errorf("another %s has another key", name)
		}
	}
	empty, none := order(), order()
	empty.KanikoArgs, none.KanikoArgs = []string{}, nil
	if empty.Key() != none.Key() {
		t.Error("no arguments and none have two keys")
	}
}

// TestKeyOfTheFirstVersion: images that were sealed when keys knew nothing of
// kaniko's arguments could have been built with any, and are not found again.
func TestKeyOfTheFirstVersion(t *testing.T) {
	t.Parallel()
	const sealed = "5bc1f89f6ebcbc858503a638d89fbdab98f466b513a830c47e0a5b762573042a"
	order := kaniko.Order{Source: kaniko.Source{URL: "u", Commit: "c"}, Path: ".", Dockerfile: "Dockerfile", Platform: "linux/amd64", Executor: "e", Policy: "p"}
	if order.Key() == sealed {
		t.Error("an image of the first version would be adopted")
	}
}

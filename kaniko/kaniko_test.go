package kaniko_test

import (
	"encoding/json"
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

// TestReportIsCut: a report fits where its reader takes so many bytes, however
// much of it JSON escapes, and still says what was pushed.
func TestReportIsCut(t *testing.T) {
	t.Parallel()
	digest, order := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	for name, report := range map[string]kaniko.Report{
		"short":    {Error: "no"},
		"error":    {Error: strings.Repeat("x", 10_000), Hint: "mend it"},
		"escaped":  {Error: strings.Repeat("\x00\"ü", 5_000), Hint: strings.Repeat("<&>", 3_000)},
		"warnings": {Warnings: []string{strings.Repeat("w", 3_000), strings.Repeat("v", 3_000)}, Size: 1 << 40},
	} {
		report.Digest, report.Order, report.Fault = digest, order, true
		encoded, err := report.Encode(4096)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var read kaniko.Report
		if err := json.Unmarshal(encoded, &read); err != nil || len(encoded) > 4096 {
			t.Errorf("%s: %d bytes, %v", name, len(encoded), err)
		}
		if read.Digest != digest || read.Order != order || !read.Fault || read.Size != report.Size {
			t.Errorf("%s: became %+v", name, read)
		}
		if !strings.HasPrefix(report.Error, read.Error) || (report.Error != "" && read.Error == "") {
			t.Errorf("%s: the error became %q", name, read.Error)
		}
		if whole, err := report.Encode(0); err != nil || len(whole) < len(encoded) {
			t.Errorf("%s: without a limit: %d bytes, %v", name, len(whole), err)
		}
	}
	if encoded, err := (kaniko.Report{Digest: strings.Repeat("a", 5000)}).Encode(4096); err == nil {
		t.Errorf("%d bytes of a digest were cut to %d", 5000, len(encoded))
	}
}

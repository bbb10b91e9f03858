package config_test

import (
	"strings"
	"testing"
	"time"

	"towpath.dev/towpath/config"
)

func TestTag(t *testing.T) {
	t.Parallel()
	commit, at := "8b07d4aa0c115f7e2c3d9b64a1f0e5d2c7b89a36", time.Unix(1763750000, 0).In(time.FixedZone("", 7200))
	for _, c := range []struct{ template, branch, want, err string }{
		{"", "master", "master-8b07d4aa0c11-1763750000", ""},
		{"", "feature/Größe+x", "feature-Gr--e-x-8b07d4aa0c11-1763750000", ""},
		{"", "-.-", "", `tag: "-8b07d4aa0c11-1763750000" is no tag: letters, digits, _, . and -, not first . or -`},
		{"", strings.Repeat("b", 250), strings.Repeat("b", 80) + "-8b07d4aa0c11-1763750000", ""},
		{"{{ .Image }}-{{ .Commit }}", "x", "podinfo-" + commit, ""},
		{"{{ .CommitTime.Format \"20060102-1504\" }}.{{ printf \"%.7s\" .Commit }}", "x", "20251121-1833.8b07d4a", ""},
		{"{{ slice .Commit 0 6 }}", "x", "", `tag: "8b07d4" does not contain the commit`},
		{"{{ .Commit }}\n", "x", "", `tag: "8b07d4aa0c115f7e2c3d9b64a1f0e5d2c7b89a36\n" is no tag: letters, digits, _, . and -, not first . or -`},
		{"{{ .Commit }}{{ printf \"%5000d\" 1 }}", "x", "", "tag: at <printf \"%5000d\" 1>: error"},
		{"{{ range 900000000000000000 }}{{ end }}{{ .Commit }}", "x", "", "tag: loops ({{ range }}), as no name needs to"},
		{"{{ if .Commit }}{{ else }}{{ with .Image }}{{ range 900000000000000000 }}{{ end }}{{ end }}{{ end }}", "x", "", "tag: loops ({{ range }}), as no name needs to"},
		{"{{ define \"a\" }}{{ template \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}", "x", "", "tag: calls another template ({{ template }}), as no name needs to"},
		{"{{ $x := .Commit }}" + strings.Repeat("{{ $x = print $x $x }}", 20), "x", "", "tag: at <print $x $x>: error calling print: is too long"},
		{"{{ $x := `\\` }}" + strings.Repeat("{{ $x = js $x }}", 25), "x", "", "tag: at <js $x>: error calling js: is too long"},
		{"{{ $x := `1` }}" + strings.Repeat("{{$x = .CommitTime.Format $x}}", 40), "x", "", "tag: is a template of more than 512 bytes"},
		{"{{ .Nothing }}", "x", "", "tag: at <.Nothing>: can't evaluate field Nothing"},
		{"{{", "x", "", "tag: unclosed action"},
	} {
		image := &config.Image{Name: "podinfo", TagTemplate: c.template}
		got, err := image.Tag(c.branch, commit, at)
		if c.err != "" && strings.Contains(c.err, "printf") {
			if err == nil || !strings.Contains(err.Error(), "is too long") {
				t.Errorf("%q: error %v", c.template, err)
			}
			continue
		}
		if got != c.want || (err == nil) != (c.err == "") || err != nil && err.Error() != c.err {
			t.Errorf("%q of %q: tag %q, error %v; want %q, %q", c.template, c.branch, got, err, c.want, c.err)
		}
	}
	if _, err := (&config.Image{}).Tag("master", "8b07d4a", at); err == nil {
		t.Error("an abbreviated commit makes a tag")
	}
}

func TestPushBranch(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{"": "main", "review": "review", "towpath/{{ .Image }}": "towpath/podinfo"} {
		c := load(t, map[string]string{"towpath.yaml": strings.Replace(small, "    git:\n", "    git:\n      push: {branch: \""+template+"\", refspec: \"HEAD:refs/heads/auto\"}\n", 1) + podinfo})
		if got, err := c.GitOps[0].PushBranch("podinfo"); err != nil || got != want {
			t.Errorf("%q: branch %q, %v; want %q", template, got, err, want)
		}
	}
}

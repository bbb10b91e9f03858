package bump

import (
	"errors"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestTemplate(t *testing.T) {
	for _, test := range []struct{ name, template, want string }{
		{"flux's documentation", `Automated image update

Automation name: {{ .AutomationObject }}

Files:
{{ range $filename, $_ := .Changed.FileChanges -}}
- {{ $filename }}
{{ end -}}

Objects:
{{ range $resource, $changes := .Changed.Objects -}}
- {{ $resource.Kind }} {{ $resource.Name }}
  Changes:
{{- range $_, $change := $changes }}
    - {{ $change.OldValue }} -> {{ $change.NewValue }}
{{ end -}}
{{ end -}}`, `Automated image update

Automation name: flux-system/production

Files:
- clusters/production/kustomization.yaml
- clusters/production/podinfo.yaml
Objects:
-  ` + `
  Changes:
    - master-3f2a9c1e -> new
- Deployment podinfo
  Changes:
    - registry.example.com/apps/podinfo:master-3f2a9c1e -> registry.example.com/apps/podinfo:new`},
		{"flux's values and changes", `{{ .Values.team }}: {{ range .Changed.Changes }}{{ .Setter }} {{ .OldValue | trunc 3 }} {{ .NewValue | upper }};{{ end }}` +
			`{{ .AutomationObject.Name }} {{ .AutomationObject.Namespace }} [{{ .Values.none }}]`,
			"web: flux-system:podinfo reg REGISTRY.EXAMPLE.COM/APPS/PODINFO:NEW;flux-system:podinfo:tag mas NEW;production flux-system []"},
		{"ours", "{{ .Image }} {{ .Tag }} {{ .Digest | trunc 10 }} {{ .Policy }} {{ .Target }} {{ .Previous | trunc 8 }} {{ .More }}\n{{ range .Commits }}{{ .Short }} {{ .Subject }}, {{ .Author }}, {{ .When.Unix }}\n{{ end }}{{ .Commit }}",
			"podinfo master-8b07d4aa0c11-1763750000 sha256:555 flux-system:podinfo production 3f2a9c1e 0\n" +
				"8b07d4aa Fix readiness probe, Ada Lovelace, 1763750000\n77aa0000 Count errors, Grace Hopper, 1763750000\n8b07d4aa0c110000000000000000000000000000"},
		{"the default, with more", "{{ .Subject }}\n\nFor {{ .Values.team }}\n\n{{ .Body }}",
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\nFor web\n\n  8b07d4aa Fix readiness probe (Ada Lovelace)\n  77aa0000 Count errors (Grace Hopper)\n\n" +
				"Image: registry.example.com:5000/apps/podinfo:master-8b07d4aa0c11-1763750000\n       sha256:" + strings.Repeat("5", 64) + "\nSize: 12.3 MiB (+390.6 KiB)"},
		{"loops", `{{ range until 2 }}a{{ end }}{{ seq 3 }}{{ range untilStep 4 0 -2 }}{{ . }}{{ end }}{{ "x\ny" | indent 2 | repeat 2 }}{{ range $i := 3 }}{{ if $i }}{{ break }}{{ end }}b{{ end }}`,
			"aa1 2 342  x\n  y  x\n  yb"},
		{"control characters and blank lines", "\r\n \n{{ \"\\x1b[31m\" }}x\r\ny\x00\n\n", "[31mx\ny"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := sample(t)
			d.Template, d.Values = test.template, map[string]string{"team": "web"}
			got, err := Message(d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want+"\n\n"+d.Trailers.String(), got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			checkMessage(t, d, got)
			if err := CheckTemplate(d.Template, d.Values); err != nil {
				t.Errorf("CheckTemplate: %v", err)
			}
		})
	}
}

func TestTemplateRefuses(t *testing.T) {
	for _, test := range []struct{ name, template, want string }{
		{"no template", "{{", "unclosed action"},
		{"unknown data", "{{ .Updated }}", "can't evaluate field Updated"},
		{"an endless loop", "{{ range 1000000000 }}{{ end }}", "runs for too long"},
		{"a loop within loops", "{{ range until 1000 }}{{ if true }}{{ with 1 }}{{ range until 1000 }}{{ end }}{{ end }}{{ end }}{{ end }}", "runs for too long"},
		{"an endless recursion", `{{ define "x" }}{{ template "x" }}{{ end }}{{ template "x" }}`, "runs for too long"},
		{"a doubling recursion", `{{ define "x" }}{{ if . }}{{ template "x" (sub . 1) }}{{ template "x" (sub . 1) }}{{ end }}{{ end }}{{ template "x" 60 }}`, "runs for too long"},
		{"much output", `{{ range until 5000 }}{{ repeat 100 "x" }}{{ end }}`, "more than 64 KiB"},
		{"much out of little", `{{ repeat 1000000000 "x" }}`, "repeat: too much"},
		{"itself, again and again", `{{ $x := repeat 60000 "x" }}` + strings.Repeat(`{{ $x = print $x $x }}`, 12) + "a", "print: too much"},
		{"lists of lists", `{{ $l := list 1 2 }}` + strings.Repeat(`{{ $l = list $l $l }}`, 30) + `{{ toJson $l }}`, "list: too much"},
		{"a dictionary in itself", `{{ $d := dict }}{{ $_ := set $d "a" $d }}{{ print $d }}`, "set: too much"},
		{"two dictionaries in each other", `{{ $d := dict }}{{ $e := dict "d" $d }}{{ $_ := set $d "e" $e }}{{ print $d }}`, "set: too much"},
		{"much between little", `{{ replace "" (repeat 60000 "b") (repeat 60000 "a") | len }}`, "replace: too much"},
		{"much between little, by pattern", `{{ regexReplaceAll "" (repeat 60000 "a") (repeat 60000 "b") | len }}`, "regexReplaceAll: too much"},
		{"much between little, wrapped", `{{ wrapWith 1 (repeat 60000 "b") (repeat 60000 "a") | len }}`, "wrapWith: too much"},
		{"much between little, joined", `{{ join (repeat 60000 "b") (until 5000) | len }}`, "join: too much"},
		{"a wide number", `{{ printf "%1000000d" 1 }}`, "printf: too much"},
		{"a number as wide as is said", `{{ printf "%*d" 1000000 1 }}`, "printf: too much"},
		{"escaped again and again", `{{ $x := repeat 60000 "\\" }}` + strings.Repeat(`{{ $x = js $x }}`, 12) + "a", "js: too much"},
		{"a negative count", `{{ repeat -1 "x" }}`, "repeat: too much"},
		{"a long list", `{{ until 1000000000 }}`, "until: too much"},
		{"a long list by steps", `{{ untilStep 0 -1000000000 -1 }}`, "untilStep: too much"},
		{"a long sequence", `{{ seq 1 1000000000 }}`, "seq: too much"},
		{"a wide indent", `{{ indent 1000000000 "x" }}`, "indent: too much"},
		{"the environment", `{{ env "HOME" }}`, `function "env" not defined`},
		{"expanded", `{{ expandenv "$HOME" }}`, `function "expandenv" not defined`},
		{"the network", `{{ getHostByName "example.com" }}`, `function "getHostByName" not defined`},
		{"the clock", `{{ now }}`, `function "now" not defined`},
		{"chance", `{{ randAlpha 3 }}`, `function "randAlpha" not defined`},
		{"more chance", `{{ shuffle "abc" }}`, `function "shuffle" not defined`},
		{"keys", `{{ genPrivateKey "rsa" }}`, `function "genPrivateKey" not defined`},
		{"its own words", `{{ fail "not on a Friday" }}`, "not on a Friday"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := sample(t)
			d.Template = test.template
			message, err := Message(d)
			if err == nil {
				t.Fatalf("accepted: %s", message)
			}
			var fault *TemplateError
			if !errors.As(err, &fault) || fault.Hint() == "" || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%v; want a TemplateError with %q", err, test.want)
			}
			if err := CheckTemplate(test.template, nil); err == nil {
				t.Error("CheckTemplate accepts it")
			}
		})
	}
}

// A template that has nothing to say of one commit holds nothing back; one that
// never has is a mistake.
func TestTemplateSaysNothing(t *testing.T) {
	d := sample(t)
	want, err := Message(d)
	if err != nil {
		t.Fatal(err)
	}
	d.Template = "{{ if false }}x{{ end }} \n"
	if got, err := Message(d); err != nil || got != want {
		t.Errorf("%v\n%s", err, got)
	}
	if err := CheckTemplate(d.Template, nil); err == nil || !strings.Contains(err.Error(), "says nothing") {
		t.Errorf("CheckTemplate: %v", err)
	}
	if err := CheckTemplate("", nil); err != nil {
		t.Errorf("CheckTemplate of none: %v", err)
	}
}

// A large bump is no misuse: its data may be put side by side.
func TestTemplateOfMuch(t *testing.T) {
	d := sample(t)
	for i := range 2_000 {
		d.Changes = append(d.Changes, Change{File: strings.Repeat("d/", i%50) + "f.yaml", Old: "registry.example.com/podinfo:old", New: "registry.example.com/podinfo:" + strconv.Itoa(i), Setter: "flux-system:podinfo"})
	}
	d.Template = `{{ $all := dict "changes" .Changed.Changes "files" .Changed.FileChanges "commits" .Commits }}{{ len $all.changes }} changes{{ range first (list .Changed.Changes) }}{{ end }}`
	if message, err := Message(d); err != nil || !strings.HasPrefix(message, "2002 changes\n") {
		t.Errorf("%v\n%.200s", err, message)
	}
}

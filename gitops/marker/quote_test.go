package marker

import (
	"testing"

	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
	yaml11 "sigs.k8s.io/yaml"
)

func TestNeedsQuotes(t *testing.T) {
	t.Parallel()
	for _, text := range []string{
		"553640e6", "1.10", "1", "0", "007", "089", "1_000", "1e3", "1E+3", "12e03", ".5", "1.", "0x1f", "0X1F", "0o17", "017", "0b101",
		"12:30:45", "1:30", "190:20:30.15", "2026-01-02", "2026-1-2", "true", "True", "no", "NO", "off", "y", "N", "null", "Null", "~", "",
		"1,000", "=", "<<", "-1", "+1", ".inf", ".NaN", "[::1]:5000/a:b", "a:",
	} {
		if !needsQuotes(text) {
			t.Errorf("%q would stand plain", text)
		}
	}
	for _, text := range []string{
		"1.2.3", "v1", "1.10-rc1", "8b07d4aa", "553640ef", "0xfg", "latest", "master-8b07d4aa0c11-1763750000", "2026-01-02-abc", "20260102-abc",
		"nope", "yes1", "e6", "1e", "1e3e", "_1", "sha256:0123", "localhost:5000/a:1.10", "a", "1a", "1.2.3.4", "10.0.0.1:5000/a", "null0",
	} {
		if needsQuotes(text) {
			t.Errorf("%q would get quotes", text)
		}
	}
}

// TestPlainIsRead: whatever stands plain is read as that string by the YAML
// 1.2 of Flux and the YAML 1.1 of Kubernetes, in block and in flow style.
func TestPlainIsRead(t *testing.T) {
	t.Parallel()
	text := rapid.OneOf(
		rapid.StringMatching(`[0-9a-fxXobBeEyYnN_.:-]{1,12}`),
		rapid.StringMatching(`[-+]?[0-9_]{1,6}(\.[0-9_]{0,4})?([eE][-+]?[0-9]{1,3})?`),
		rapid.StringMatching(`[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt][0-9]{1,2})?`),
		rapid.StringMatching(`0[xXoObB]?[0-9a-fA-F_]{1,8}`),
		rapid.StringMatching(`[tTrRuUeEfFaAlLsSyYnNoOiI.]{1,5}`),
	)
	rapid.Check(t, func(t *rapid.T) {
		s := text.Draw(t, "text")
		v := Value{Name: s, Tag: s}
		if v.check(FieldTag) != nil && v.check(FieldName) != nil {
			t.Skip("never written")
		}
		for _, file := range []string{"k: " + literal(s, 0) + "\n", "{k: " + literal(s, 0) + "}\n"} {
			var got map[string]any
			if err := yaml.Unmarshal([]byte(file), &got); err != nil || got["k"] != any(s) {
				t.Fatalf("YAML 1.2: %q is read as %#v, %v", file, got["k"], err)
			}
			got = nil
			if err := yaml11.Unmarshal([]byte(file), &got); err != nil || got["k"] != any(s) {
				t.Fatalf("YAML 1.1: %q is read as %#v, %v", file, got["k"], err)
			}
		}
	})
}

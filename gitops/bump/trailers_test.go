package bump

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseTrailersRefuses(t *testing.T) {
	good := sample(t).Trailers.String()
	line := func(key string) string {
		for line := range strings.Lines(good) {
			if strings.HasPrefix(line, key+": ") {
				return line
			}
		}
		t.Fatalf("no trailer %s", key)
		return ""
	}
	replace := func(key, value string) string {
		return strings.Replace(good, line(key), key+": "+value+"\n", 1)
	}
	for _, test := range []struct {
		name, message string
		none          bool // no trailers at all
	}{
		{"nothing", "", true},
		{"one paragraph", good, true},
		{"no subject", "\n\n" + good, true},
		{"another paragraph after", "s\n\n" + good + "\nmore\n", true},
		{"in a paragraph before", "s\n\n" + good + "\nSigned-off-by: x\n", true},
		{"two newlines at the end", "s\n\n" + good + "\n", false},
		{"text above in the same paragraph", "s\n\ntext\n" + good, false},
		{"another trailer", "s\n\n" + good + "Signed-off-by: x\n", false},
		{"an unknown trailer of ours", "s\n\n" + good + "Towpath-More: x\n", false},
		{"lower case", "s\n\n" + strings.ToLower(good), false},
		{"a line twice", "s\n\n" + good + line("Towpath-Image"), false},
		{"a line with another value", "s\n\n" + good + "Towpath-Image: other\n", false},
		{"another order", "s\n\n" + line("Towpath-Policy") + strings.Replace(good, line("Towpath-Policy"), "", 1), false},
		{"no commit", "s\n\n" + strings.Replace(good, line("Towpath-Commit"), "", 1), false},
		{"no ref", "s\n\n" + strings.Replace(good, line("Towpath-Ref"), "", 1), false},
		{"no provenance", "s\n\n" + strings.Replace(good, line("Towpath-Provenance"), "", 1), false},
		{"a continuation", "s\n\n" + replace("Towpath-Target", "production main\n clusters/production"), false},
		{"carriage returns", "s\n\n" + strings.ReplaceAll(good, "\n", "\r\n"), false},
		{"spaces at the end", "s\n\n" + strings.ReplaceAll(good, "\n", " \n"), false},
		{"two spaces", "s\n\n" + strings.ReplaceAll(good, ": ", ":  "), false},
		{"no space", "s\n\n" + strings.ReplaceAll(good, ": ", ":"), false},
		{"an empty value", "s\n\n" + good + "Towpath-Accepted: \n", false},
		{"an image's path for its name", "s\n\n" + replace("Towpath-Image", "apps/podinfo"), false},
		{"a policy without namespace", "s\n\n" + replace("Towpath-Policy", "podinfo"), false},
		{"a target without path", "s\n\n" + replace("Towpath-Target", "production main"), false},
		{"a source without ref", "s\n\n" + replace("Towpath-Source", "https://git.example.com/a.git"), false},
		{"a branch for a ref", "s\n\n" + replace("Towpath-Source", "https://git.example.com/a.git master"), false},
		{"a password", "s\n\n" + replace("Towpath-Source", "ssh://git:secret@git.example.com/a.git refs/heads/m"), false},
		{"a token", "s\n\n" + replace("Towpath-Source", "https://ghp_secret@git.example.com/a.git refs/heads/m"), false},
		{"an abbreviated commit", "s\n\n" + replace("Towpath-Commit", "8b07d4aa"), false},
		{"an upper-case commit", "s\n\n" + replace("Towpath-Commit", strings.Repeat("A", 40)), false},
		{"a tag alone", "s\n\n" + replace("Towpath-Ref", "registry.example.com/a:b"), false},
		{"a digest alone", "s\n\n" + replace("Towpath-Ref", "registry.example.com/a@sha256:"+strings.Repeat("a", 64)), false},
		{"sha512", "s\n\n" + replace("Towpath-Provenance", "sha512:"+strings.Repeat("a", 128)), false},
		{"half a hash", "s\n\n" + good + "Towpath-Accepted-Before: 8b07d4aa\n", false},
		{"two spaces", "s\n\n" + good + "Towpath-Accepted-Before: " + strings.Repeat("a", 40) + "  " + strings.Repeat("b", 40) + "\n", false},
		{"a line separator", "s\n\n" + good + "Towpath-Accepted: a\u2028b\n", false},
		{"an escape", "s\n\n" + good + "Towpath-Accepted: a\x1b[31mb\n", false},
		{"no UTF-8", "s\n\n" + good + "Towpath-Accepted: a\xffb\n", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := ParseTrailers(test.message)
			if err == nil {
				t.Fatalf("accepted: %+v", got)
			}
			if none := errors.Is(err, ErrNoTrailers); none != test.none {
				t.Errorf("%v: ErrNoTrailers is %t, want %t", err, none, test.none)
			}
			if got != (Trailers{}) {
				t.Errorf("an error and trailers: %+v", got)
			}
		})
	}
}

func TestParseTrailersAccepts(t *testing.T) {
	for _, change := range []func(*Trailers){
		func(*Trailers) {},
		func(tr *Trailers) { tr.Ref, tr.Provenance = "", "" },
		func(tr *Trailers) { tr.Accepted = "a reason: with a colon" },
		func(tr *Trailers) { tr.Accepted = "ö" },
		func(tr *Trailers) { tr.AcceptedBefore = tr.Commit },
		func(tr *Trailers) { tr.Accepted, tr.AcceptedBefore = "because", tr.Commit+" "+tr.Commit },
		func(tr *Trailers) { tr.Target = "t feature/x a path/with spaces" },
		func(tr *Trailers) { tr.Target = "t main ." },
		func(tr *Trailers) { tr.Source = "git@git.example.com:a b/c.git refs/heads/m" },
		func(tr *Trailers) { tr.Source = "ssh://git@git.example.com/a.git refs/heads/m" },
		func(tr *Trailers) { tr.Source = "git@git.example.com:a.git refs/heads/m" },
		func(tr *Trailers) { tr.Policy = "a:b.c-d" },
	} {
		want := sample(t).Trailers
		change(&want)
		for _, message := range []string{"s\n\n" + want.String(), "s\n\nbody\n\n" + want.String(), "s\n\n" + strings.TrimSuffix(want.String(), "\n")} {
			got, err := ParseTrailers(message)
			if err != nil {
				t.Errorf("%v in\n%s", err, message)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
	}
}

func FuzzParseTrailers(f *testing.F) {
	good := sample(f).Trailers
	f.Add("s\n\n" + good.String())
	good.Accepted = "because"
	f.Add("s\n\nb\n\n" + good.String())
	good.Ref, good.Provenance = "", ""
	f.Add("s\n\n" + good.String())
	f.Add("s\n\nTowpath-Image: a\nTowpath-Image: b\n")
	f.Fuzz(func(t *testing.T, message string) {
		got, err := ParseTrailers(message)
		if err != nil {
			return
		}
		// What is accepted is what we would write.
		if text := strings.TrimSuffix(got.String(), "\n"); !strings.HasSuffix(strings.TrimSuffix(message, "\n"), "\n\n"+text) {
			t.Fatalf("read %q from %q", text, message)
		}
		again, err := ParseTrailers("s\n\n" + got.String())
		if err != nil || again != got {
			t.Fatalf("%+v, %v; before %+v", again, err, got)
		}
	})
}

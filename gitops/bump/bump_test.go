package bump

import (
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
)

func hash(t testing.TB, s string) gitops.Hash {
	t.Helper()
	h, err := gitops.ParseHash(s + strings.Repeat("0", 40-len(s)))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func commit(t testing.TB, short, author, subject string) gitops.Commit {
	t.Helper()
	who := gitops.Person{Name: author, Email: "someone@example.com", When: time.Unix(1763750000, 0).UTC()}
	return gitops.Commit{Hash: hash(t, short), Author: who, Committer: who, Subject: subject}
}

// sample is the bump of design 2.4.
func sample(t testing.TB) Data {
	tip := commit(t, "8b07d4aa0c11", "Ada Lovelace", "Fix readiness probe")
	return Data{
		Trailers: Trailers{
			Image:      "podinfo",
			Policy:     "flux-system:podinfo",
			Target:     "production main clusters/production",
			Source:     "https://git.example.com/apps/podinfo.git refs/heads/master",
			Commit:     tip.Hash.String(),
			Ref:        "registry.example.com:5000/apps/podinfo:master-8b07d4aa0c11-1763750000@sha256:" + strings.Repeat("5", 64),
			Provenance: "sha256:" + strings.Repeat("9", 64),
		},
		Commit:     tip,
		Commits:    []gitops.Commit{tip, commit(t, "77aa", "Grace Hopper", "Count errors")},
		Base:       hash(t, "3f2a9c1e"),
		Size:       12_900_000,
		SizeBefore: 12_500_000,
		Changes: []Change{
			{File: "clusters/production/podinfo.yaml", Object: ObjectIdentifier{"apps/v1", "Deployment", "web", "podinfo"},
				Old: "registry.example.com/apps/podinfo:master-3f2a9c1e", New: "registry.example.com/apps/podinfo:new", Setter: "flux-system:podinfo"},
			{File: "clusters/production/kustomization.yaml", Old: "master-3f2a9c1e", New: "new", Setter: "flux-system:podinfo:tag"},
		},
		Automation: types.NamespacedName{Namespace: "flux-system", Name: "production"},
	}
}

func TestMessage(t *testing.T) {
	trailers := sample(t).Trailers.String()
	observed := sample(t).Trailers
	observed.Ref, observed.Provenance = "", ""
	image := "Image: registry.example.com:5000/apps/podinfo:master-8b07d4aa0c11-1763750000\n" +
		"       sha256:" + strings.Repeat("5", 64) + "\n"

	for _, test := range []struct {
		name   string
		change func(*Data)
		want   string
	}{
		{"as designed", func(*Data) {},
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n\n" +
				image + "Size: 12.3 MiB (+390.6 KiB)\n\n" + trailers},
		{"the first", func(d *Data) { d.Base, d.Commits, d.SizeBefore = gitops.Hash{}, nil, 0 },
			"podinfo: 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n\n" +
				image + "Size: 12.3 MiB\n\n" + trailers},
		{"once more, as accepted", func(d *Data) {
			d.Base, d.Size, d.Trailers.Accepted = d.Commit.Hash, 0, " the revert was\n\na mistake "
		},
			"podinfo: 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n\n" +
				image + "Before: registry.example.com/apps/podinfo:master-3f2a9c1e, master-3f2a9c1e\n\n" + trailers + "Towpath-Accepted: the revert was a mistake\n"},
		{"after a revert", func(d *Data) {
			d.Changes[0].Old, d.Changes[1].Old, d.Size = "registry.example.com/my-apps/podinfo:master-11111111@sha256:"+strings.Repeat("1", 64), "master-11111111", 0
			d.Changes = append(d.Changes, Change{Old: "sha256:22", New: "sha256:23", Setter: "flux-system:podinfo:digest"})
		},
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n\n" +
				image + "Before: registry.example.com/my-apps/podinfo:master-11111111, master-11111111\n\n" + trailers},
		{"after somebody else wrote all over it", func(d *Data) {
			for _, old := range hostile {
				d.Changes = append(d.Changes, Change{Old: old, New: "x", Setter: "flux-system:podinfo"})
			}
			d.Size = 0
		},
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n\n" +
				image + "Before: Fixes # 12 and closes group/project! 3, GH- 12, owner/repo# 12 @ team @ org/team, " +
				"chore: release (skip ci) (ci skip) *NO_CI* (no ci) skip checks: true, " +
				"x Towpath Commit: 0000000000000000000000000000000000000000 and 20 more\n\n" + trailers},
		{"more commits than are listed", func(d *Data) {
			d.More = 30
			for len(d.Commits) < 25 {
				d.Commits = append(d.Commits, commit(t, "cc", "", ""))
			}
		},
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n" +
				strings.Repeat("  cc000000\n", 18) +
				"  … and 35 more\n\n" +
				image + "Size: 12.3 MiB (+390.6 KiB)\n\n" + trailers},
		{"nothing but the ledger", func(d *Data) { d.Trailers, d.Base = observed, gitops.Hash{} },
			"podinfo: observe 8b07d4aa Fix readiness probe\n\n" +
				"The source is observed from this commit on; nothing is promoted.\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n" +
				"  77aa0000 Count errors (Grace Hopper)\n\n" +
				observed.String()},
		{"markers filled", func(d *Data) { d.Fill, d.Commits, d.Size = true, nil, 0 },
			"podinfo: 3f2a9c1e → 8b07d4aa Fix readiness probe\n\n" +
				"Fills markers that never held an image of ours.\n\n" +
				"  8b07d4aa Fix readiness probe (Ada Lovelace)\n\n" +
				image + "\n" + trailers},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := sample(t)
			test.change(&d)
			got, err := Message(d)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("message (-want +got):\n%s", diff)
			}
			checkMessage(t, d, got)
			if again, _ := Message(d); again != got {
				t.Errorf("the same bump says something else the second time:\n%s", again)
			}
		})
	}
}

// checkTrailers checks that ParseTrailers finds what was given.
func checkTrailers(t *testing.T, d Data, message string) (want Trailers) {
	t.Helper()
	want = d.Trailers
	want.Accepted = gitops.Line(want.Accepted, maxReason)
	got, err := ParseTrailers(message)
	if err != nil {
		t.Fatalf("%v in\n%s", err, message)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatalf("trailers (-want +got):\n%s", diff)
	}
	return want
}

// checkMessage checks what must hold for every message: git and ParseTrailers
// find the trailers that were given, and no others.
func checkMessage(t *testing.T, d Data, message string) {
	t.Helper()
	want := checkTrailers(t, d, message)

	git := exec.Command(lab.Tool(t, "git"), "interpret-trailers", "--parse", "--no-divider")
	git.Stdin = strings.NewReader(message)
	out, err := git.Output()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), string(out)); diff != "" {
		t.Errorf("git reads other trailers (-want +got):\n%s", diff)
	}
	for line := range strings.Lines(strings.TrimSuffix(message, want.String())) {
		if strings.HasPrefix(strings.ToLower(line), "towpath-") {
			t.Errorf("a line looks like a trailer of ours: %q", line)
		}
	}
}

// hostile are texts that somebody may put into a source commit.
var hostile = []string{
	"Fixes #12 and closes group/project!3, GH-12, owner/repo#12 @team @org/team",
	"chore: release [skip ci] [ci skip] ***NO_CI*** [no ci] skip-checks: true",
	"x\n\nTowpath-Commit: 0000000000000000000000000000000000000000",
	"Towpath-Image: other",
	"towpath-image: other",
	"Signed-off-by: Mallory <m@example.com>",
	"Co-authored-by: Mallory <m@example.com>",
	"x\r\n\r\nTowpath-Ref: evil@sha256:00\r\n",
	"x\u2028\u2029Towpath-Ref: evil\u0085Towpath-Ref: evil",
	"{{ .Image }} {{ template \"x\" }} ${HOME} $(id) `id`",
	"\x1b]0;title\x07\x1b[31mred\x1b[0m\x00",
	"/tag v1.0.0 /close /merge",
	"https://github.com/o/r/issues/12 www.github.com/o/r/issues/12",
	"PROJ-12 #close #time 2d, closes PROJ-12, resolved PROJ-12",
	"---\n+++ b/file", "# a comment", "> quoted", "", " ", "\n", "…", "##12 @@x !!3 :// ://://x",
	strings.Repeat("long ", 5000), "\xff\xfe#12\xc3(", "\u202ekcap\u202c \u200b#\u200b12",
	"-----BEGIN PGP SIGNATURE-----",
}

func TestMessageHostile(t *testing.T) {
	for _, text := range hostile {
		for _, template := range []string{
			"",
			"{{ .Commit.Subject }}\n\n{{ range .Commits }}{{ .Subject }}\n{{ .Author }}\n{{ end }}",
			"Bump\n\n{{ range .Changed.Changes }}{{ .OldValue }}\n{{ end }}{{ range $f, $_ := .Changed.FileChanges }}{{ $f }}\n{{ end }}",
			"Bump\n\nTowpath: x\n{{ .Commit.Author }}",
		} {
			d := sample(t)
			d.Template = template
			d.Commit.Subject, d.Commit.Author.Name = text, text
			d.Commits = []gitops.Commit{d.Commit, d.Commit}
			d.Changes[0].Old, d.Changes[0].File = "v1", "a\n\nTowpath-Image: x"
			message, err := Message(d)
			if err != nil {
				t.Fatal(err)
			}
			checkMessage(t, d, message)
		}
	}
}

func TestMessageRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*Data)
		want   string
	}{
		{"another commit", func(d *Data) { d.Commit.Hash = hash(t, "77") }, "its trailer names"},
		{"no image name", func(d *Data) { d.Trailers.Image = "" }, "Towpath-Image"},
		{"a newline", func(d *Data) { d.Trailers.Target += "\nTowpath-Accepted: yes" }, "Towpath-Target"},
		{"a tag alone", func(d *Data) { d.Trailers.Ref = "registry.example.com/podinfo:tag" }, "Towpath-Ref"},
		{"a reason of nothing visible", func(d *Data) { d.Trailers.Accepted = "\u200b" }, "no reason"},
		{"no provenance", func(d *Data) { d.Trailers.Provenance = "" }, "come together"},
	} {
		t.Run(test.name, func(t *testing.T) {
			d := sample(t)
			test.change(&d)
			if message, err := Message(d); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Message = %q, %v; want an error with %q", message, err, test.want)
			}
		})
	}
}

func TestSize(t *testing.T) {
	for _, test := range []struct {
		now, before int64
		want        string
	}{
		{1, 0, "1 B"}, {1023, 0, "1023 B"}, {1024, 1024, "1.0 KiB (as before)"},
		{1<<20 - 1, 0, "1.0 MiB"}, {1 << 20, 1<<20 + 1, "1.0 MiB (−1 B)"},
		{5 << 30, 1 << 30, "5.0 GiB (+4.0 GiB)"}, {1<<63 - 1, 0, "8.0 EiB"},
	} {
		if got := size(test.now, test.before); got != test.want {
			t.Errorf("size(%d, %d) = %q, want %q", test.now, test.before, got, test.want)
		}
	}
}

func FuzzMessage(f *testing.F) {
	for _, text := range hostile {
		f.Add(text, text, "")
		f.Add(text, "Ada", "{{.Commit.Subject}}\n{{.Commit.Author}}\n\n{{range .Commits}}{{.Subject}}: {{.Author}}\n{{end}}")
	}
	f.Fuzz(func(t *testing.T, subject, author, template string) {
		d := sample(t)
		d.Commit.Subject, d.Commit.Author.Name = subject, author
		d.Commits = []gitops.Commit{d.Commit, d.Commit}
		if gitops.Line(subject, 0) != "" {
			d.Trailers.Accepted = subject
		}
		d.Template = template
		message, err := Message(d)
		if err != nil {
			if template == "" {
				t.Fatalf("the default message fails: %v", err)
			}
			return
		}
		want := checkTrailers(t, d, message)
		if strings.ContainsAny(message, "\x00\x1b\r") {
			t.Fatalf("control characters in %q", message)
		}
		if template == "" {
			// Nobody else's text may begin a line.
			for line := range strings.Lines(strings.TrimSuffix(message, want.String())) {
				switch {
				case line == "\n", strings.HasPrefix(line, "podinfo: "), strings.HasPrefix(line, "  "), strings.HasPrefix(line, "Image: "), strings.HasPrefix(line, "Size: "):
				default:
					t.Fatalf("a line that is not ours: %q", line)
				}
			}
		}
	})
}

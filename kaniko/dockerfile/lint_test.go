package dockerfile_test

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"towpath.dev/towpath/kaniko/dockerfile"
)

// Each line of the Dockerfile says in a trailing comment what is expected of
// it, so a case reads as its own answer.
func TestLint(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		build dockerfile.Build
		src   string
		want  map[int]string // line → "refuse: …" or "warn: …", the text's beginning
	}{
		"nothing to say": {
			src: "# a comment\nFROM --platform=$BUILDPLATFORM golang AS build\nARG A=1\nCOPY --chown=1:1 --chmod=0644 . .\nRUN --network=default --security=sandbox go build\nFROM scratch\nCOPY --from=build /a /a\nHEALTHCHECK --interval=1s --timeout=1s --start-period=1s --retries=2 CMD true\nONBUILD RUN true\n",
			build: dockerfile.Build{
				Platform: "linux/amd64",
			},
			want: map[int]string{},
		},
		"directives": {
			src:  "# syntax=docker/dockerfile:1\n# check=skip=all\nFROM scratch\n",
			want: map[int]string{1: "warn: # syntax=", 2: "warn: # check="},
		},
		"escape": {
			src:  "# escape=`\nFROM scratch\n",
			want: map[int]string{1: "refuse: # escape="},
		},
		"copy and add": {
			src: "FROM scratch\nADD --checksum=sha256:0 https://example.com/x /x\nCOPY --exclude=*.md . .\nADD --exclude=*.md . .\nCOPY --parents a/b /\nCOPY --link a /a\nADD --keep-git-dir=true a /a\nADD --unpack=true a /a\n",
			want: map[int]string{
				2: "refuse: ADD --checksum", 3: "refuse: COPY --exclude", 4: "refuse: ADD --exclude", 5: "refuse: COPY --parents",
				6: "warn: COPY --link", 7: "refuse: ADD --keep-git-dir", 8: "refuse: ADD --unpack",
			},
		},
		"git repositories": {
			src: "FROM scratch\nARG HOST=github.com\nENV REPO=https://$HOST/a/b.git\nADD https://u:p@github.com/a/b.git#v1:sub /x\nADD git@github.com:a/b /x\nADD git://example.com/a /x\nADD ssh://git@example.com/a /x\nADD $REPO /x\nADD https://example.com/a.tar.gz /a.git\nADD https://example.com/x?y=a.git /x\n",
			want: map[int]string{
				4: `refuse: ADD of a git repository ("https://github.com/a/b.git#v1:sub")`,
				5: "refuse: ADD of a git", 6: "refuse: ADD of a git", 7: "refuse: ADD of a git", 8: "refuse: ADD of a git",
			},
		},
		"a git repository by build argument": {
			build: dockerfile.Build{Args: map[string]string{"REPO": "https://example.com/a.git"}},
			src:   "FROM scratch\nARG REPO\nADD ${REPO} /x\n",
			want:  map[int]string{3: "refuse: ADD of a git"},
		},
		"run": {
			src: "FROM a\nRUN --network=none true\nRUN --network=host true\nRUN --security=insecure true\nRUN --mount=type=secret,id=x true\nRUN --mount=type=ssh true\nRUN --mount=type=tmpfs,target=/x true\nRUN --mount=target=/x true\nRUN --mount=type=bind,from=b,target=/x true\nRUN --mount=type=cache,target=/x \\\n  true\n",
			want: map[int]string{
				2: "refuse: RUN --network=none", 3: "refuse: RUN --network=host", 4: "refuse: RUN --security=insecure", 5: "refuse: RUN --mount=type=secret",
				6: "refuse: RUN --mount=type=ssh", 7: "refuse: RUN --mount=type=tmpfs", 8: "refuse: RUN --mount=type=bind", 9: "refuse: RUN --mount=type=bind",
				10: "refuse: RUN --mount=type=cache",
			},
		},
		"a cache mount where only files are copied from": {
			src:  "FROM a AS base\nRUN --mount=type=cache,target=/x true\nFROM b AS tool\nRUN --mount=type=cache,target=/x true\nFROM base\nCOPY --from=tool /t /t\n",
			want: map[int]string{2: "refuse: RUN --mount=type=cache", 4: "warn: RUN --mount=type=cache"},
		},
		"stages behind the target are not run": {
			build: dockerfile.Build{Target: "One"},
			src:   "FROM a AS one\nRUN true\nFROM b AS two\nRUN --network=none true\n",
			want:  map[int]string{},
		},
		"here-documents": {
			src:  "FROM a\nRUN <<EOF\necho hi\nEOF\nCOPY <<EOF /x\nhi\nEOF\n",
			want: map[int]string{2: "refuse: RUN with a here-document", 5: "refuse: COPY with a here-document"},
		},
		"onbuild": {
			src:  "FROM a\nONBUILD COPY --exclude=x . .\nONBUILD RUN --network=none true\nONBUILD ADD https://example.com/a.git /x\n",
			want: map[int]string{2: "refuse: COPY --exclude", 3: "refuse: RUN --network=none", 4: "refuse: ADD of a git"},
		},
		"a platform of its own": {
			build: dockerfile.Build{Platform: "linux/amd64"},
			src:   "ARG P=linux/arm64\nFROM --platform=linux/amd64 a\nFROM --platform=$P b\n",
			want:  map[int]string{3: "refuse: FROM --platform=linux/arm64"},
		},
		"odds and ends": {
			src:  "FROM a\nMAINTAINER me\nHEALTHCHECK --start-interval=1s CMD true\n",
			want: map[int]string{2: "warn: MAINTAINER", 3: "refuse: HEALTHCHECK --start-interval"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			findings, err := dockerfile.Lint([]byte(c.src), c.build)
			if err != nil {
				t.Fatal(err)
			}
			got := map[int]string{}
			for _, f := range findings {
				kind := "warn: "
				if f.Refuse {
					kind = "refuse: "
				}
				text := kind + f.Text
				if want := c.want[f.Line]; want != "" && strings.HasPrefix(text, want) {
					text = want
				}
				if got[f.Line] != "" {
					text = got[f.Line] + "; " + text
				}
				got[f.Line] = text
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("findings by line (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSyntaxErrorsNameTheLine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		src, target string
		line        int
		text        string
	}{
		{"FROM a\n\nRUNN x\n", "", 3, "unknown instruction: RUNN"},
		{"RUN x\n", "", 1, "no build stage"},
		{"", "", 0, "file with no instructions"},
		{"ARG A=1\n", "", 0, "there is no FROM"},
		{"FROM a\nCOPY x\n", "", 2, "COPY requires at least two arguments"},
		{"FROM a AS x\n", "y", 0, `there is no stage called "y"`},
		{"FROM a\nRUN <<EOF\nhi\n", "", 2, "unterminated heredoc"},
	} {
		_, err := dockerfile.Lint([]byte(c.src), dockerfile.Build{Target: c.target})
		var syntax *dockerfile.SyntaxError
		if !errors.As(err, &syntax) {
			t.Errorf("%q: got %v, want a SyntaxError", c.src, err)
			continue
		}
		if syntax.Line != c.line || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%q: got line %d, %q; want line %d, %q", c.src, syntax.Line, err, c.line, c.text)
		}
	}
}

const pin = "@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestBases(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		src   string
		build dockerfile.Build
		want  []dockerfile.Base
		err   string
	}{
		"arguments": {
			src:   "ARG REGISTRY=docker.io\nARG IMAGE=\"$REGISTRY/library/golang\"\nARG EMPTY=x\nFROM ${IMAGE}:1\nFROM ${EMPTY}${TARGETARCH}\nFROM ${MISSING:-y}\n",
			build: dockerfile.Build{Args: map[string]string{"REGISTRY": "mirror.example.com:5000", "EMPTY": ""}, Platform: "linux/amd64"},
			want: []dockerfile.Base{
				{Image: "mirror.example.com:5000/library/golang:1", Line: 4},
				{Image: "xamd64", Line: 5},
				{Image: "y", Line: 6},
			},
		},
		"pinned, stages, scratch, copies": {
			src: "FROM r.example.com/a" + pin + " AS Build\nFROM build AS next\nCOPY --from=0 /a /a\nCOPY --from=BUILD /a /a\nCOPY --from=r.example.com/b" + pin + " /a /a\nCOPY --from=7 /a /a\nFROM scratch\nFROM r.example.com/a" + pin + "\n",
			want: []dockerfile.Base{
				{Image: "r.example.com/a" + pin, Digest: pin[1:], Line: 1},
				{Image: "r.example.com/b" + pin, Digest: pin[1:], CopyFrom: true, Line: 5},
				{Image: "7", CopyFrom: true, Line: 6},
			},
		},
		"up to the target": {
			src:   "FROM a AS one\nFROM b AS two\nFROM c\n",
			build: dockerfile.Build{Target: "two"},
			want:  []dockerfile.Base{{Image: "a", Line: 1}, {Image: "b", Line: 2}},
		},
		"empty":             {src: "FROM $NONE\n", err: "Dockerfile line 1: base image \"$NONE\" is empty: a build argument is missing"},
		"unmatched quotes":  {src: "ARG A='x\"\nFROM $A\n", err: "Dockerfile line 1: "},
		"not an image name": {src: "FROM UPPER/case\n", err: "Dockerfile line 1: base image \"UPPER/case\": "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := dockerfile.Bases([]byte(c.src), c.build)
			if c.err != "" {
				if err == nil || !strings.HasPrefix(err.Error(), c.err) {
					t.Fatalf("got %v, want an error that begins with %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("bases (-want +got):\n%s", diff)
			}
		})
	}
}

// Whatever somebody else wrote: no panic, and what is refused has a line that
// exists.
func FuzzLint(f *testing.F) {
	for _, seed := range []string{
		"FROM scratch\n", "# escape=`\nFROM a\nONBUILD ADD --x=y a b\n", "FROM a AS b\nCOPY --from=b <<E /x\nhi\nE\n",
		"ARG A=$B\nFROM ${A:-x}\nRUN --mount=type=cache,target=/x --mount=\"type=bind\" x\n", "\ufeff#syntax=x\nFROM a\nARG X\nADD $X y\n",
	} {
		f.Add([]byte(seed), "b", "linux/amd64")
	}
	f.Fuzz(func(t *testing.T, src []byte, target, platform string) {
		build := dockerfile.Build{Target: target, Platform: platform, Args: map[string]string{"A": "b"}}
		findings, err := dockerfile.Lint(src, build)
		if err != nil {
			return
		}
		lines := strings.Count(string(src), "\n") + strings.Count(string(src), "\r") + 1
		for _, finding := range findings {
			if finding.Line < 1 || finding.Line > lines || finding.Text == "" {
				t.Errorf("odd finding %+v in a file of %d lines", finding, lines)
			}
		}
		_, _ = dockerfile.Bases(src, build)
	})
}

// TestExpansionsAreBounded: variables that hold each other many times over are
// refused before they take the machine's memory, and a build's own are not.
func TestExpansionsAreBounded(t *testing.T) {
	doubling := "ARG a0=xxxxxxxxxxxxxxxx\n"
	for i := range 60 {
		doubling += fmt.Sprintf("ARG a%d=${a%d}$a%d\n", i+1, i, i)
	}
	long := strings.Repeat("x", 60<<10)
	for name, test := range map[string]struct{ src, says string }{
		"doubled":           {doubling + "FROM a\n", "line 14: ARG a13: it expands to more than 65536 bytes"},
		"doubled, in FROM":  {"ARG a=" + long + "\nFROM b:$a$a\n", "expands to more than"},
		"many times":        {"ARG a=" + long + "\nARG b=" + strings.Repeat("$a", 10_000) + "\nFROM a\n", "ARG b: it expands to more than"},
		"of another script": {"ARG ö=" + long + "\nARG b=" + strings.Repeat("$ö", 10_000) + "\nFROM a\n", "ARG b: it expands to more than"},
		"by number":         {"ARG 1=" + long + "\nARG b=" + strings.Repeat("$1x", 10_000) + "\nFROM a\n", "ARG b: it expands to more than"},
		"replaced":          {"ARG a=" + strings.Repeat("x", 30<<10) + "\nARG b=${a//x/${a//x/$a}}\nFROM a\n", "ARG b: it expands to more than"},
		"long":              {"ARG a=" + long + "\nARG b=$a\nFROM c\n", ""},
		"usual":             {"ARG V=1.2.3\nARG T=${V//./_}\nFROM c:$T\n", ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := dockerfile.Bases([]byte(test.src), dockerfile.Build{})
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
	inside := "FROM c\n" + strings.ReplaceAll(strings.TrimSuffix(doubling, "\n"), "ARG", "ENV") + "\nADD $a60 /x\n"
	if findings, err := dockerfile.Lint([]byte(inside), dockerfile.Build{}); err != nil {
		t.Errorf("what kaniko is left with: %v %v", findings, err)
	}
}

// What somebody commits takes seconds at most, however it is written: it is read
// before the build, whose bounds do not hold here.
func TestReadingIsBounded(t *testing.T) {
	const size = 16 << 20
	lines := func(size int, line func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < size; i++ {
			b.WriteString(line(i))
		}
		return b.String()
	}
	variable := func(i int) string { return fmt.Sprintf("ARG a%d=$a%d\n", i, i-1) }
	for name, test := range map[string]struct{ src, says string }{
		"large":                  {"FROM a\n" + strings.Repeat("# x\n", size/4), "larger than 256 KiB"},
		"nested without end":     {"ARG A=" + strings.Repeat("${x:-\\\n", size/8) + "y" + strings.Repeat("}\\\n", size/8) + "\nFROM $A\n", "larger than 256 KiB"},
		"as many variables":      {lines(dockerfile.MaxSize-100, variable) + "FROM a\n", "instructions, at most 5000"},
		"many variables":         {lines(30<<10, variable) + "FROM a\n" + lines(30<<10, variable), ""},
		"many variables at once": {"FROM a\nENV" + lines(dockerfile.MaxSize-100, func(i int) string { return fmt.Sprintf(" a%d=$a%d\\\n", i, i-1) }) + " z=1\n", ""},
		"many stages":            {lines(120<<10, func(i int) string { return fmt.Sprintf("FROM a%d AS a%d\n", i, i+1) }), "instructions, at most 5000"},
		"triggers of triggers":   {"FROM a\n" + strings.Repeat("ONBUILD \\\n", dockerfile.MaxSize/10-10) + "RUN x\n", "ONBUILD ONBUILD"},
	} {
		t.Run(name, func(t *testing.T) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			began := worked(t)
			_, err := dockerfile.Lint([]byte(test.src), dockerfile.Build{Platform: "linux/amd64"})
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("got %v, want %q", err, test.says)
			}
			if took := worked(t) - began; took > time.Minute {
				t.Errorf("it took %s of a processor", took)
			}
		})
	}
}

// worked is what this thread has had of a processor: however busy the machine is
// with other things, that stays the same.
func worked(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

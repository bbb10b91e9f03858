package fleet

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// parts is a server that offers atomic pushes and does not keep to it: of one
// push it applies the refs whose names begin with a prefix, and then answers.
func parts(applied string, answer func(w http.ResponseWriter, refs []string)) trick {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		body, _ := io.ReadAll(r.Body)
		var refs []string
		kept := ""
		for {
			n, err := strconv.ParseUint(string(body[:4]), 16, 16)
			if err != nil || n < 4 {
				break // the flush before the pack
			}
			line, _, _ := strings.Cut(string(body[4:n]), "\x00")
			line, body = strings.TrimSuffix(line, "\n"), body[n:]
			ref := strings.Fields(line)[2]
			refs = append(refs, ref)
			if strings.HasPrefix(ref, applied) {
				if kept == "" {
					line += "\x00 report-status"
				}
				kept += packet(line)
			}
		}
		all := append([]byte(kept), body...)
		own := r.Clone(r.Context())
		own.Body, own.ContentLength = io.NopCloser(bytes.NewReader(all)), int64(len(all))
		next.ServeHTTP(httptest.NewRecorder(), own)
		answer(w, refs)
	}
}

func reports(verdict func(ref string) string) func(http.ResponseWriter, []string) {
	return func(w http.ResponseWriter, refs []string) {
		report := packet("unpack ok\n")
		for _, ref := range refs {
			report += packet(verdict(ref) + "\n")
		}
		w.Header().Set("Content-Type", "application/x-git-receive-pack-result")
		io.WriteString(w, packet("\x01"+report+"0000")+"0000")
	}
}

// A server that promised to move branch and ledger together and moved one: what
// it says of it does not count. What can be completed is, once, and a bump that
// the branch does not hold is never told to be promoted.
func TestAServerMovesOneRefOfTwo(t *testing.T) {
	t.Parallel()
	saysOK := reports(func(ref string) string { return "ok " + ref })
	saysNo := reports(func(ref string) string { return "ng " + ref + " internal error" })
	saysOf := func(applied string) func(http.ResponseWriter, []string) {
		return reports(func(ref string) string {
			if strings.HasPrefix(ref, applied) {
				return "ok " + ref
			}
			return "ng " + ref + " hook declined"
		})
	}
	dies := func(http.ResponseWriter, []string) { panic(http.ErrAbortHandler) }
	const branch, ledger = "refs/heads/", "refs/towpath/"
	for name, test := range map[string]struct {
		trick
		lost bool // what it does cannot be told from a person who set the branch back
	}{
		"branch, and says both":   {trick: parts(branch, saysOK)},
		"branch, and says so":     {trick: parts(branch, saysOf(branch))},
		"branch, and says none":   {trick: parts(branch, saysNo)},
		"branch, and dies":        {trick: parts(branch, dies)},
		"ledger, and says so":     {trick: parts(ledger, saysOf(ledger))},
		"ledger, and says none":   {trick: parts(ledger, saysNo)},
		"ledger, and dies":        {trick: parts(ledger, dies)},
		"ledger, and says both":   {trick: parts(ledger, saysOK), lost: true},
		"both, and says none":     {trick: parts("refs/", saysNo)},
		"nothing, and says nos":   {trick: parts("none", saysNo)},
		"nothing, and says other": {trick: parts("none", saysOf(branch))},
	} {
		for _, n := range []int{1, 2} {
			t.Run(name+[]string{"", ", at first", ", later"}[n], func(t *testing.T) {
				t.Parallel()
				y := newYard(t, plainFiles())
				f := y.fleet()
				if n == 2 {
					y.promote(f, podinfo, 1)
				}
				before := y.ref("main")
				b := bumpTo(podinfo, n, y.state(f, podinfo))
				y.faults.push(test.trick)
				p, err := f.Promote(t.Context(), b)
				switch {
				case test.lost:
					var parted *PartedError
					if !errors.As(err, &parted) || !strings.Contains(err.Error(), "branch main does not hold it") || parted.Hint() == "" {
						t.Fatalf("the branch holds nothing, and we say: %+v %v", p, err)
					}
					if y.ref("main") != before {
						t.Fatal("the branch was moved again")
					}
					y.stands(f, podinfo, Undone)
				case err != nil:
					// Nothing was applied, and the server said no: that is told.
					if !strings.HasPrefix(name, "nothing") || y.ref("main") != before {
						t.Fatal(err)
					}
				case y.ref("main") != p.Bump.String() || y.ledger("podinfo") != p.Bump.String():
					t.Fatalf("promoted %s, and main is %s and the ledger %s", p.Bump, y.ref("main"), y.ledger("podinfo"))
				}
				if !test.lost {
					if y.state(f, podinfo).LedgerRefused {
						t.Error("the ledger is given up")
					}
					if err != nil {
						y.promote(f, podinfo, n)
					}
					y.stands(f, podinfo, Holds)
				}
				y.promote(f, podinfo, n+1)
				y.stands(f, podinfo, Holds)
				y.sound()
			})
		}
	}
}

// The same of a proposal: without its branch there is nothing to review.
func TestAServerMovesTheLedgerOfAProposal(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(func(o *Options) { o.PushBranch = "towpath/{{ .Image }}" })
	y.faults.push(parts("refs/towpath/", reports(func(ref string) string { return "ok " + ref })))
	_, err := f.Promote(t.Context(), bumpTo(podinfo, 1, y.state(f, podinfo)))
	var parted *PartedError
	if !errors.As(err, &parted) || parted.Branch != "towpath/podinfo" {
		t.Fatalf("there is no proposal, and we say: %v", err)
	}
	p := y.promote(f, podinfo, 2)
	if y.ref("towpath/podinfo") != p.Bump.String() {
		t.Fatal("not proposed")
	}
}

// A batch of which a part arrived.
func TestAServerMovesSomeOfABatch(t *testing.T) {
	t.Parallel()
	files, images := many(6)
	y := newYard(t, files)
	f := y.fleet()
	y.promote(f, images[0], 1)
	y.faults.push(parts("refs/towpath/production/app-3", reports(func(ref string) string { return "ng " + ref + " internal error" })))
	for i, err := range y.promoteAll(f, images[1:], 1) {
		if err != nil {
			t.Errorf("%s: %v", images[i+1].Name, err)
		}
	}
	for _, image := range images {
		y.stands(f, image, Holds)
	}
	y.sound()
}

// Somebody who reviews fast is not told to be a server that lies.
func TestAProposalIsMergedAtOnce(t *testing.T) {
	t.Parallel()
	y := newYard(t, plainFiles())
	f := y.fleet(func(o *Options) { o.PushBranch = "towpath/{{ .Image }}" })
	y.faults.push(func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(httptest.NewRecorder(), r)
		y.person("main", lab.Commit{Message: "meanwhile", Files: map[string]string{"other": "x"}})
		y.works("main", []string{"merge", "--no-edit", "origin/towpath/podinfo"})
		y.run("update-ref", "-d", "refs/heads/towpath/podinfo")
		panic(http.ErrAbortHandler)
	})
	if _, err := f.Promote(t.Context(), bumpTo(podinfo, 1, y.state(f, podinfo))); err != nil {
		t.Fatal(err)
	}
	y.stands(f, podinfo, Holds)
}

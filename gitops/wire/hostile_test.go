package wire_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/fluxcd/pkg/git"
	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/e2e/lab"
	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/wire"
)

func pkt(lines ...string) string {
	var out strings.Builder
	for _, line := range lines {
		switch line {
		case "0000", "0001", "0002":
			out.WriteString(line)
		default:
			fmt.Fprintf(&out, "%04x%s", len(line)+4, line)
		}
	}
	return out.String()
}

const (
	h1 = "1111111111111111111111111111111111111111"
	h2 = "2222222222222222222222222222222222222222"
)

var (
	offerV2   = pkt("version 2\n", "agent=git/2.39\n", "ls-refs=unborn\n", "fetch=shallow wait-for-done\n", "object-format=sha1\n", "0000")
	offerPush = pkt("# service=git-receive-pack\n", "0000", h1+" refs/heads/main\x00 report-status delete-refs side-band-64k quiet atomic ofs-delta object-format=sha1 agent=git/2.39\n", "0000")
)

// script is a server that gives fixed answers: to the listing of a service, and
// to a request of it.
type script struct {
	refs, post string
	endless    string // follows the answer to a request for ever
	refsEnd    string // follows the listing for ever
	hang       bool   // the answer to a request does not end
	cut        bool   // the connection is closed after it
}

func (s script) serve(http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, kind, endless := s.refs, "advertisement", s.refsEnd
		service := r.URL.Query().Get("service")
		if r.Method == http.MethodPost {
			_, _ = io.Copy(io.Discard, r.Body)
			body, kind, endless = s.post, "result", s.endless
			service = r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		}
		w.Header().Set("Content-Type", "application/x-"+service+"-"+kind)
		_, _ = io.WriteString(w, body)
		for endless != "" {
			if _, err := io.WriteString(w, endless); err != nil {
				return
			}
		}
		if kind != "result" {
			return
		}
		if s.hang {
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}
		if s.cut {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
	})
}

func (s script) remote(t *testing.T, o wire.Options) *wire.Remote {
	t.Helper()
	server := lab.NewGit(t, lab.GitOptions{Middleware: s.serve})
	o.URL = server.RepoURL("x.git")
	return dial(t, o)
}

func TestHostileListing(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		script
		want string // in the error
	}{
		"no pkt-lines":         {script{refs: "<html>hello"}, "not git's protocol"},
		"empty":                {script{}, "cut"},
		"cut listing":          {script{refs: offerV2[:60]}, "cut"},
		"cut reply":            {script{refs: offerV2, post: pkt(h1 + " refs/heads/main\n")}, "cut"},
		"cut within a line":    {script{refs: offerV2, post: pkt(h1 + " refs/heads/main\n")[:30]}, "cut"},
		"connection cut":       {script{refs: offerV2, post: pkt(h1 + " refs/heads/main\n"), cut: true}, "cut"},
		"endless capabilities": {script{refs: strings.TrimSuffix(offerV2, "0000"), refsEnd: pkt(strings.Repeat("x", 60000))}, "more than an honest server"},
		"endless refs":         {script{refs: pkt(h1 + " refs/x\x00 agent=x\n"), refsEnd: pkt(h1 + " refs/x/" + strings.Repeat("x", 60000) + "\n")}, "more than an honest server"},
		"endless reply":        {script{refs: offerV2, endless: pkt(h1 + " refs/x/" + strings.Repeat("x", 60000) + "\n")}, "more than an honest server"},
		"endless after it":     {script{refs: offerV2, post: pkt(h1+" refs/heads/main\n", "0000"), endless: "0000"}, "more after the end"},
		"impossible length":    {script{refs: offerV2, post: "ffff"}, "a line of 65535 bytes"},
		"length 3":             {script{refs: offerV2, post: "0003"}, "length 3"},
		"no hash":              {script{refs: offerV2, post: pkt("zzzz refs/heads/main\n", "0000")}, "no object name"},
		"no ref":               {script{refs: offerV2, post: pkt(h1, "0000")}, "no ref"},
		"two values":           {script{refs: offerV2, post: pkt(h1+" refs/heads/main", h2+" refs/heads/main", "0000")}, "two values"},
		"sha256":               {script{refs: strings.Replace(offerV2, "0017object-format=sha1", "0019object-format=sha256", 1)}, "not SHA-1"},
		"error line":           {script{refs: pkt("ERR go\x1b[2Jaway\n")}, "the server says: go [2Jaway"},
		"error line later":     {script{refs: offerV2, post: pkt("ERR access denied\n")}, "not authorised"},
		"delimiter":            {script{refs: offerV2, post: pkt("0001")}, "delimiter"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			remote := test.remote(t, wire.Options{})
			refs, err := remote.Refs(t.Context(), "refs/heads/main")
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.ContainsAny(err.Error(), "\x1b\n") {
				t.Errorf("%v %v, want %q", refs, err, test.want)
			}
		})
	}
	server := lab.NewGit(t, lab.GitOptions{Middleware: answer(200, "text/html", "<html>log in</html>")})
	refusal(t, dial(t, wire.Options{URL: server.RepoURL("x")}), nil, "login page")
}

// Names that git refuses lead nowhere: they are not listed.
func TestHostileRefNames(t *testing.T) {
	t.Parallel()
	var lines []string
	for _, name := range []string{"refs/heads/../../etc/passwd", "refs/heads/a\x1bb", "refs/heads/x.lock", "refs/heads//x", "/etc/passwd", "refs/heads/-x/", "FETCH_HEAD", "refs/heads/a b"} {
		lines = append(lines, h1+" "+name+"\n")
	}
	lines = append(lines, h2+" refs/heads/main\n", h2+" refs/heads/with attribute:x\n", h1+" refs/tags/v1 peeled:"+h2+"\n", "0000")
	remote := script{refs: offerV2, post: pkt(lines...)}.remote(t, wire.Options{})
	refs, err := remote.Refs(t.Context(), "refs/heads/", "/", "FETCH")
	if err != nil {
		t.Fatal(err)
	}
	// The text after a second space is an attribute to ls-refs.
	want := map[string]gitops.Hash{"refs/heads/main": hash(t, h2), "refs/heads/with": hash(t, h2), "refs/heads/a": hash(t, h1)}
	if diff := cmp.Diff(want, refs); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, prefix := range []string{"", "refs/heads/x\n0000", "refs/heads/a b"} {
		if _, err := remote.Refs(t.Context(), prefix); err == nil {
			t.Errorf("prefix %q was sent", prefix)
		}
	}
}

func TestHostileFetch(t *testing.T) {
	t.Parallel()
	head := pkt("packfile\n")
	big := strings.Repeat("x", 60000)
	tests := map[string]struct {
		script
		want string
	}{
		"cut pack":         {script{post: head + pkt("\x01PACK")}, "cut"},
		"connection cut":   {script{post: head + pkt("\x01PACK"), cut: true}, "cut"},
		"endless pack":     {script{post: head, endless: pkt("\x01" + big)}, "larger than allowed"},
		"endless progress": {script{post: head, endless: pkt("\x02" + big)}, "more than an honest server"},
		"endless silence":  {script{post: head, endless: pkt("\x01") + pkt("\x02")}, "more than an honest server"},
		"endless shallow":  {script{post: pkt("shallow-info\n"), endless: pkt("shallow " + h1 + "\n" + big)}, "no object name"},
		"its fatal error":  {script{post: head + pkt("\x01PACK", "\x03out of\nmemory", "0000")}, "the server says: out of memory"},
		"unknown band":     {script{post: head + pkt("\x07PACK", "0000")}, "band 7"},
		"delimiter":        {script{post: head + pkt("0001")}, "band"},
		"unknown section":  {script{post: pkt("wanted-refs\n")}, "unknown section"},
		"no section":       {script{post: "0000"}, "no section"},
		"not ours":         {script{post: pkt("ERR upload-pack: not our ref " + h1 + "\n")}, "does not offer that commit"},
		"neither":          {script{post: pkt("shallow-info\n", "deepen 1\n", "0001")}, "neither shallow"},
		"falls silent":     {script{post: head + pkt("\x01PACK"), hang: true}, "sent nothing"},
		"silent before":    {script{post: "", hang: true}, "sent nothing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.refs = offerV2
			remote := test.remote(t, wire.Options{MaxPack: 1 << 20})
			if test.hang {
				remote.Impatient(3 * time.Second) // its listing has to come in that time
			}
			pack, err := remote.Fetch(t.Context(), wire.FetchRequest{Wants: []gitops.Hash{hash(t, h1)}, Depth: 1})
			if err == nil {
				_, err = io.Copy(io.Discard, pack)
				if _, again := pack.Read(make([]byte, 1)); !errors.Is(again, err) {
					t.Errorf("after %v the pack goes on with %v", err, again)
				}
				pack.Close()
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}
}

// A request ends when its context does, whatever the server does.
func TestCancelled(t *testing.T) {
	t.Parallel()
	remote := script{refs: offerV2, hang: true, post: pkt("packfile\n", "\x01PACK")}.remote(t, wire.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	pack, err := remote.Fetch(ctx, wire.FetchRequest{Wants: []gitops.Hash{hash(t, h1)}})
	if err != nil {
		t.Fatal(err)
	}
	go cancel()
	if _, err := io.Copy(io.Discard, pack); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := remote.Refs(ctx, "refs/heads/main"); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestHostilePush(t *testing.T) {
	t.Parallel()
	band := func(lines ...string) string { return pkt("\x01"+pkt(lines...), "0000") }
	a, b := "refs/heads/main", "refs/towpath/production/podinfo"
	tests := map[string]struct {
		script
		want string
	}{
		"empty 200":           {script{}, "cut"},
		"cut":                 {script{cut: true}, "cut"},
		"flush only":          {script{post: "0000"}, "cut"},
		"silence":             {script{hang: true}, "sent nothing"},
		"html":                {script{post: "<html>"}, "not git's protocol"},
		"no unpack line":      {script{post: band("ok "+a+"\n", "ok "+b+"\n", "0000")}, "without its first line"},
		"one ref missing":     {script{post: band("unpack ok\n", "ok "+a+"\n", "0000")}, "no verdict on \"refs/towpath"},
		"a ref twice":         {script{post: band("unpack ok\n", "ok "+a+"\n", "ok "+a+"\n", "0000")}, "second one"},
		"a foreign ref":       {script{post: band("unpack ok\n", "ok refs/heads/x\n", "0000")}, "not pushed"},
		"another verdict":     {script{post: band("unpack ok\n", "fine "+a+"\n", "0000")}, "no verdict"},
		"no flush":            {script{post: band("unpack ok\n", "ok "+a+"\n", "ok "+b+"\n")}, "cut"},
		"ok though unpacked":  {script{post: band("unpack disk full\n", "ok "+a+"\n", "ok "+b+"\n", "0000")}, "yet"},
		"fatal after a hook":  {script{post: pkt("\x02hook says no\n", "\x03fatal: dead\n")}, "hook says no: the server says: fatal: dead"},
		"endless hook output": {script{endless: pkt("\x02" + strings.Repeat("x", 60000))}, "more than an honest server"},
		"endless report":      {script{post: pkt("\x01" + pkt("unpack ok\n")), endless: pkt("\x01" + pkt("ng "+a+" "+strings.Repeat("x", 60000)+"\n"))}, "second one"},
	}
	push := wire.PushRequest{
		Updates: []wire.Update{{Ref: a, Old: hash(t, h1), New: hash(t, h2)}, {Ref: b, New: hash(t, h2)}},
		Atomic:  true,
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test.refs = offerPush
			remote := test.remote(t, wire.Options{})
			if test.hang {
				remote.Impatient(3 * time.Second) // its listing has to come in that time
			}
			err := remote.Push(t.Context(), push)
			if !errors.Is(err, wire.ErrOutcomeUnknown) || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v, want %q", err, test.want)
			}
		})
	}

	t.Run("rejected", func(t *testing.T) {
		t.Parallel()
		remote := script{refs: offerPush, post: band("unpack index-pack failed\n", "ng "+a+" unpacker\x1b error\n", "ng "+b+" unpacker error\n", "0000")}.remote(t, wire.Options{})
		err := remote.Push(t.Context(), push)
		var rejected *wire.RejectedError
		if !errors.As(err, &rejected) || errors.Is(err, wire.ErrOutcomeUnknown) {
			t.Fatal(err)
		}
		want := map[string]string{a: "unpacker error (unpack: index-pack failed)", b: "unpacker error (unpack: index-pack failed)"}
		if diff := cmp.Diff(want, rejected.Refs); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	})
	t.Run("whole report, then cut", func(t *testing.T) {
		t.Parallel()
		remote := script{refs: offerPush, post: pkt("\x01" + pkt("unpack ok\n", "ok "+a+"\n", "ok "+b+"\n", "0000")), cut: true}.remote(t, wire.Options{})
		if err := remote.Push(t.Context(), push); err != nil {
			t.Error(err)
		}
	})
	t.Run("no bands", func(t *testing.T) {
		t.Parallel()
		remote := script{refs: strings.NewReplacer("side-band-64k", "side-band-xxk").Replace(offerPush), post: pkt("unpack ok\n", "ok "+a+"\n", "ok "+b+"\n", "0000")}.remote(t, wire.Options{})
		if err := remote.Push(t.Context(), push); err != nil {
			t.Error(err)
		}
	})
	t.Run("nothing sent", func(t *testing.T) {
		t.Parallel()
		for _, bad := range []wire.PushRequest{
			{},
			{Updates: []wire.Update{{Ref: "refs/heads/a..b", New: hash(t, h1)}}},
			{Updates: []wire.Update{{Ref: "main", New: hash(t, h1)}}},
			{Updates: []wire.Update{{Ref: "refs/heads/a\n0000", New: hash(t, h1)}}},
			{Updates: []wire.Update{{Ref: a}}},
			{Updates: []wire.Update{{Ref: a, New: hash(t, h1)}, {Ref: a, New: hash(t, h2)}}},
			{Updates: []wire.Update{{Ref: a, New: hash(t, h1)}}, Options: []string{"a\nb"}},
			{Updates: []wire.Update{{Ref: a, New: hash(t, h1)}}, Pack: io.MultiReader(strings.NewReader("PACK"), brokenReader{})},
		} {
			remote := script{refs: offerPush}.remote(t, wire.Options{})
			if err := remote.Push(t.Context(), bad); err == nil || errors.Is(err, wire.ErrOutcomeUnknown) {
				t.Errorf("%+v: %v", bad, err)
			}
		}
		gone := dial(t, wire.Options{URL: "http://127.0.0.1:1/x.git"})
		if err := gone.Push(t.Context(), push); err == nil || errors.Is(err, wire.ErrOutcomeUnknown) {
			t.Error(err)
		}
	})
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, errors.New("disk gone") }

// A push that was applied although the connection died, and one that was
// refused with a status, as a real server behind a proxy gives them.
func TestPushThroughFaults(t *testing.T) {
	t.Parallel()
	var fault func(w http.ResponseWriter, r *http.Request, next http.Handler)
	server := lab.NewGit(t, lab.GitOptions{Middleware: func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost && fault != nil {
				fault(w, r, next)
				return
			}
			next.ServeHTTP(w, r)
		})
	}})
	url := server.Create("fleet.git")
	dir := server.Dir("fleet.git")
	work, heads := fill(t, dir, 2)
	remote := dial(t, wire.Options{URL: url})
	tip := heads[1]
	push := func() (gitops.Hash, error) {
		next := hash(t, work.Commit(lab.Commit{Message: "bump"}))
		return next, remote.Push(t.Context(), wire.PushRequest{
			Updates: []wire.Update{{Ref: "refs/heads/main", Old: tip, New: next}},
			Pack:    bytes.NewReader(packOf(t, work.Dir, next)),
		})
	}

	for cutAt := range []int{0, 1, 2} { // before the headers, after them, in the report
		fault = func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			recorded := httptest.NewRecorder()
			next.ServeHTTP(recorded, r)
			if cutAt > 0 {
				w.Header().Set("Content-Type", recorded.Header().Get("Content-Type"))
				_, _ = w.Write(recorded.Body.Bytes()[:20*(cutAt-1)])
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		}
		next, err := push()
		if !errors.Is(err, wire.ErrOutcomeUnknown) {
			t.Errorf("cut %d: %v", cutAt, err)
		}
		fault = nil
		refs, err := remote.Refs(t.Context(), "refs/heads/main")
		if err != nil || refs["refs/heads/main"] != next {
			t.Errorf("cut %d: the push was not applied: %v %v", cutAt, refs, err)
		}
		tip = next
	}
	for status, unknown := range map[int]bool{401: false, 403: false, 404: false, 413: false, 429: false, 302: false, 409: true, 500: true, 502: true, 503: true} {
		fault = func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", "http://evil.example.invalid/")
			w.WriteHeader(status)
		}
		_, err := push()
		var e *wire.Error
		if !errors.As(err, &e) || e.Status != status || errors.Is(err, wire.ErrOutcomeUnknown) != unknown {
			t.Errorf("%d: %v", status, err)
		}
	}
}

// A pack too large to hold goes out in chunks.
func TestPushLarge(t *testing.T) {
	t.Parallel()
	server := lab.NewGit(t)
	url := server.Create("fleet.git")
	work, heads := fill(t, server.Dir("fleet.git"), 1)
	noise := make([]byte, 3<<20)
	for i, x := 0, uint32(1); i < len(noise); i++ {
		x = x*1664525 + 1013904223
		noise[i] = byte(x >> 24)
	}
	next := hash(t, work.Commit(lab.Commit{Files: map[string]string{"noise": string(noise)}}))
	pack := packOf(t, work.Dir, next)
	if len(pack) < 2<<20 {
		t.Fatalf("the pack has %d bytes only", len(pack))
	}
	remote := dial(t, wire.Options{URL: url})
	err := remote.Push(t.Context(), wire.PushRequest{
		Updates: []wire.Update{{Ref: "refs/heads/main", Old: heads[0], New: next}},
		Pack:    io.MultiReader(bytes.NewReader(pack)),
	})
	if err != nil {
		t.Fatal(err)
	}
	lab.RunGit(t, server.Dir("fleet.git"), "fsck", "--strict")
}

// A server that repeats what it was sent does not get it into an error, a
// message or the progress.
func TestEcho(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte("ada:" + canary))
	for _, echo := range []script{
		{refs: pkt("ERR you are " + canary + " " + encoded + "\n")},
		{refs: canary},
		{refs: offerV2, post: pkt(h1 + canary + " x\n")},
		{refs: offerV2, post: pkt("packfile\n", "\x03"+encoded)},
		{refs: offerPush, post: pkt("\x02"+canary+"\n", "\x01"+pkt("unpack ok\n", "ng refs/heads/main "+encoded+"\n", "0000"), "0000")},
		{refs: offerPush, post: pkt("\x02"+canary+"\n", "\x03"+canary)},
	} {
		var told []string
		progress := func(line string) { told = append(told, line) }
		remote := echo.remote(t, wire.Options{Auth: as(git.AuthOptions{Username: "ada", Password: canary})})
		_, err1 := remote.Refs(t.Context(), "refs/heads/main")
		pack, err2 := remote.Fetch(t.Context(), wire.FetchRequest{Wants: []gitops.Hash{hash(t, h1)}, Progress: progress})
		if err2 == nil {
			_, err2 = io.Copy(io.Discard, pack)
		}
		err3 := remote.Push(t.Context(), wire.PushRequest{Updates: []wire.Update{{Ref: "refs/heads/main", New: hash(t, h1)}}, Progress: progress})
		if err2 == nil || err3 == nil {
			t.Errorf("%+v: %v, %v, %v", echo, err1, err2, err3)
		}
		text := fmt.Sprintf("%+v %+v %+v %q", err1, err2, err3, told)
		var rejected *wire.RejectedError
		if errors.As(err3, &rejected) {
			text += fmt.Sprintf("%+v", *rejected)
		}
		if strings.Contains(text, canary) || strings.Contains(text, encoded) {
			t.Errorf("the secret came back: %s", text)
		}
	}
	for hint, server := range map[string]*lab.Git{
		"":               lab.NewGit(t, lab.GitOptions{Middleware: answer(500, "text/plain", canary)}),
		"login page":     lab.NewGit(t, lab.GitOptions{Middleware: answer(200, canary, "")}),
		"change its URL": lab.NewGit(t, lab.GitOptions{Middleware: answer(302, "text/plain", "", "Location", "http://"+canary+".example.com/"+canary)}),
	} {
		refusal(t, dial(t, wire.Options{URL: server.RepoURL("x"), Auth: as(git.AuthOptions{Username: "ada", Password: canary})}), nil, hint)
	}
}

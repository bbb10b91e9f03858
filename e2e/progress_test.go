package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

// TestLongClonesShowProgress: on a terminal a person sees that a long clone goes
// on, of the source and of the target. What the server says is shown as text;
// elsewhere nothing is shown.
func TestLongClonesShowProgress(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory, Git: lab.GitOptions{Middleware: slowAndLoud}})

	quiet := w.Run("plan")
	if quiet.Code != 0 || strings.Contains(quiet.Err, "remote:") {
		t.Fatalf("without a terminal plan ends with %d\n%s", quiet.Code, quiet.Err)
	}
	cmd := w.Command(t.Context(), "plan")
	cmd.Env = append(cmd.Env, "TOWPATH_CACHE="+t.TempDir())
	screen, terminal := openTerminal(t)
	cmd.Stderr = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	shown, _ := io.ReadAll(screen) // ends with an error once nobody has the terminal open
	if err := cmd.Wait(); err != nil {
		t.Fatalf("plan: %v\n%s", err, shown)
	}
	for _, want := range []string{"podinfo.git: remote: half done [2J", "target production: remote: half done [2J"} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("nothing like %q is shown:\n%q", want, shown)
		}
	}
	if bytes.ContainsAny(shown, "\x1b\a") {
		t.Errorf("the server's control characters reach the terminal: %q", shown)
	}
}

// TestADiffActsOnNoTerminal: what stands around a marker is shown there without
// what would reorder it, and elsewhere as it is.
func TestADiffActsOnNoTerminal(t *testing.T) {
	t.Parallel()
	const hidden = "# \u202eneddih\n"
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	file := "clusters/production/podinfo.yaml"
	before := w.Manifest(file)
	head, _, _ := strings.Cut(before, "$imagepolicy")
	at := strings.LastIndex(head, "\n") + 1
	w.Fleet.Commit(lab.Commit{Message: "say more", Files: map[string]string{file: before[:at] + hidden + before[at:]}})
	w.Fleet.Push("HEAD:main")

	if plain := w.Run("plan"); plain.Code != 0 || !strings.Contains(plain.Out, hidden) {
		t.Fatalf("without a terminal plan ends with %d\n%q", plain.Code, plain.Out)
	}
	cmd := w.Command(t.Context(), "plan")
	screen, terminal := openTerminal(t)
	cmd.Stdout = terminal
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	terminal.Close()
	shown, _ := io.ReadAll(screen) // ends with an error once nobody has the terminal open
	if err := cmd.Wait(); err != nil {
		t.Fatalf("plan: %v\n%s", err, shown)
	}
	if !strings.Contains(string(shown), "# neddih") || strings.ContainsRune(string(shown), '\u202e') {
		t.Errorf("the terminal shows\n%q", shown)
	}
}

// slowAndLoud is a server that takes its time for each pack, and says so with
// characters that would clear the screen.
func slowAndLoud(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		if !bytes.Contains(body, []byte("command=fetch")) {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		<-time.After(1100 * time.Millisecond)
		const begins = "000dpackfile\n"
		says := "\x02half done \x1b[2J\a\n"
		text := strings.Replace(answer.Body.String(), begins, begins+fmt.Sprintf("%04x", len(says)+4)+says, 1)
		w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
		io.WriteString(w, text)
	})
}

// openTerminal opens a pseudo-terminal: what is written to the terminal is read
// from the screen.
func openTerminal(t *testing.T) (screen, terminal *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, terminal
}

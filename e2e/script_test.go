package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	"towpath.dev/towpath/e2e/lab"
)

// TestScripts runs the scripts in testdata/script against the built binary, a
// world of its own for each. They read as a specification of what a user sees;
// their names begin with what they are about: promote, refuse, restart, config.
//
// A script finds the world in variables: $CONFIG, the clones $APP and $FLEET,
// the server's repositories $APPGIT and $FLEETGIT, $REPOSITORY for images and
// $SIGNERS, git's allowed signers. Its further commands are below.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		name := strings.TrimSuffix(filepath.Base(script), ".txtar")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			options := lab.WorldOptions{Binary: binary}
			if name != "promote_first" {
				// The real registry adds time to the others and nothing else.
				options.Registry = memory
			}
			w := lab.NewWorld(t, options)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               func(env *testscript.Env) error { return settle(t, env, w) },
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"commit": commit, "config": configure, "image": image, "exits": exits, "json": jsonAt,
					"ledger": ledger, "bumps": countBumps, "squatter": squatter,
				},
			})
		})
	}
}

func memory(t testing.TB) *lab.Registry { return lab.NewMemoryRegistry(t, lab.RegistryOptions{}) }

// settle puts the world into a script's environment.
func settle(t testing.TB, env *testscript.Env, w *lab.World) error {
	env.Vars = append(env.Vars,
		"PATH="+filepath.Dir(w.Binary)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"COSIGN="+lab.Tool(t, "cosign"), "CONFIG="+w.Config, "WORLD="+w.Dir, "APP="+w.App.Dir, "FLEET="+w.Fleet.Dir,
		"APPGIT="+w.Git.Dir("apps/podinfo.git"), "FLEETGIT="+w.Git.Dir("fleet.git"),
		"GITURL="+w.Git.URL, "APPURL="+w.Git.RepoURL("apps/podinfo.git"), "FLEETURL="+w.Git.RepoURL("fleet.git"), "REPOSITORY="+w.Repository(), "BASE="+w.Base, "BASEREPOSITORY="+w.Registry.Repository("base/busybox"), "HEAD="+w.App.Head(), "SHORTHEAD="+w.App.Head()[:8],
		"SIGNERS="+filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers"),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Sam", "GIT_AUTHOR_EMAIL=sam@example.com",
		"GIT_COMMITTER_NAME=Sam", "GIT_COMMITTER_EMAIL=sam@example.com",
		"GIT_CONFIG_COUNT=2", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		"GIT_CONFIG_KEY_1=protocol.file.allow", "GIT_CONFIG_VALUE_1=always",
	)
	env.Values["world"], env.Values["t"] = w, t
	// The world's config is where towpath looks first.
	return os.Symlink(w.Config, filepath.Join(env.WorkDir, "towpath.yaml"))
}

func world(ts *testscript.TestScript) *lab.World { return ts.Value("world").(*lab.World) }

// lines reads \n in an argument as the end of a line.
func lines(argument string) string { return strings.ReplaceAll(argument, `\n`, "\n") }

// commit CLONE MESSAGE [PATH=CONTENT…] commits to app or fleet and pushes. It
// sets $HEAD, or $FLEETHEAD, to the new commit.
func commit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: commit app|fleet MESSAGE [PATH=CONTENT…]")
	}
	w := world(ts)
	clone, branch, variable := w.App, "master", "HEAD"
	if args[0] == "fleet" {
		clone, branch, variable = w.Fleet, "main", "FLEETHEAD"
		clone.Git("pull", "--quiet", "--rebase", "--autostash", "origin", branch)
	}
	files := map[string]string{}
	for _, file := range args[2:] {
		path, content, _ := strings.Cut(file, "=")
		files[path] = lines(content)
	}
	clone.Commit(lab.Commit{Message: lines(args[1]), Files: files})
	clone.Push("HEAD:" + branch)
	ts.Setenv(variable, clone.Head())
	ts.Setenv("SHORT"+variable, clone.Head()[:8])
}

// config OLD NEW replaces a text in the config, which must hold it. A NEW of
// @FILE is a file of the script, its variables filled in.
func configure(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: config OLD NEW")
	}
	w := world(ts)
	content, err := os.ReadFile(w.Config)
	ts.Check(err)
	before, after := lines(args[0]), lines(args[1])
	if file, ok := strings.CutPrefix(after, "@"); ok {
		after = os.Expand(ts.ReadFile(file), ts.Getenv)
	}
	if !strings.Contains(string(content), before) {
		ts.Fatalf("the config does not hold %q", before)
	}
	ts.Check(os.WriteFile(w.Config, []byte(strings.Replace(string(content), before, after, 1)), 0o600))
}

// image PATH TEXT checks what the image that the ledger names holds.
func image(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: image PATH TEXT")
	}
	w := world(ts)
	bump, _ := w.Ledger("podinfo")
	ref, err := lab.TryGit(w.Git.Dir("fleet.git"), "show", "-s", "--format=%(trailers:key=Towpath-Ref,valueonly)", bump)
	ts.Check(err)
	ref = strings.TrimSpace(ref)
	content := lab.ReadImageFile(ts.Value("t").(testing.TB), ref, args[0])
	if strings.Contains(content, args[1]) == neg {
		ts.Fatalf("%s of %s holds %q", args[0], ref, content)
	}
}

// exits CODE PROGRAM [ARG…] is exec with an exact exit code.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM [ARG…]")
	}
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		code = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if code != args[0] {
		ts.Fatalf("ended with %s, want %s", code, args[0])
	}
}

// jsonAt PATH TEXT checks one value of the JSON on the standard output, as in
// `json 0.gates.1.verdict passed`; with ! that it is another, or missing.
func jsonAt(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: json PATH TEXT")
	}
	var value any
	if err := json.Unmarshal([]byte(ts.ReadFile("stdout")), &value); err != nil {
		ts.Fatalf("the output is no JSON: %v", err)
	}
	for key := range strings.SplitSeq(args[0], ".") {
		switch inner := value.(type) {
		case map[string]any:
			value = inner[key]
		case []any:
			i, err := strconv.Atoi(key)
			if err != nil || i >= len(inner) {
				ts.Fatalf("%s: there is no %s", args[0], key)
			}
			value = inner[i]
		default:
			value = nil
		}
	}
	if got := fmt.Sprint(value); (got == args[1]) == neg {
		ts.Fatalf("%s is %q", args[0], got)
	}
}

// ledger COMMIT checks which source commit the ledger says was promoted; none:
// there is no entry. It sets $BUMP to the entry.
func ledger(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: ledger COMMIT|none")
	}
	bump, source := world(ts).Ledger("podinfo")
	want := strings.TrimPrefix(args[0], "none")
	if source != want {
		ts.Fatalf("the ledger names %q, want %q", source, want)
	}
	ts.Setenv("BUMP", bump)
}

// countBumps N [BRANCH] checks how many bumps a branch of the GitOps
// repository has, main if none is named.
func countBumps(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 || len(args) > 2 {
		ts.Fatalf("usage: bumps N [BRANCH]")
	}
	branch := append(args[1:], "main")[0]
	log, err := lab.TryGit(world(ts).Git.Dir("fleet.git"), "log", "--format=%s", "--grep=^Towpath-Image: ", branch)
	ts.Check(err)
	subjects := strings.Split(strings.TrimSpace(log), "\n")
	if subjects[0] == "" {
		subjects = nil
	}
	if diff := cmp.Diff(args[0], strconv.Itoa(len(subjects))); diff != "" {
		ts.Fatalf("%d bumps on %s, want %s:\n%s", len(subjects), branch, args[0], log)
	}
}

// squatter puts an image of somebody else's under the tag that the
// application's newest commit is going to have.
func squatter(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: squatter")
	}
	t, w := ts.Value("t").(testing.TB), world(ts)
	tag := "master-" + w.App.Git("show", "-s", "--abbrev=12", "--format=%h-%ct")
	lab.PushImage(t, w.Repository(), tag, lab.Busybox(t))
	ts.Setenv("TAG", tag)
}

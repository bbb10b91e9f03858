package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"towpath.dev/towpath/e2e/lab"
)

// TestScripts runs the scripts in testdata/script against the built binary, a
// world of its own for each. They read as a specification of what a user sees;
// their names begin with what they are about: promote, refuse, restart, config.
//
// A script finds the world in variables: $CONFIG, the clones $APP and $FLEET,
// the server's repositories $APPGIT and $FLEETGIT, $REPOSITORY for images and
// $SIGNERS, git's allowed signers.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			w := lab.NewWorld(t, lab.WorldOptions{Binary: binary})
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				RequireUniqueNames:  true,
				Setup:               func(env *testscript.Env) error { return settle(t, env, w) },
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"commit": commit, "config": config, "image": image,
				},
			})
		})
	}
}

// settle puts the world into a script's environment.
func settle(t testing.TB, env *testscript.Env, w *lab.World) error {
	env.Vars = append(env.Vars,
		"PATH="+filepath.Dir(w.Binary)+string(os.PathListSeparator)+os.Getenv("PATH"),
		"CONFIG="+w.Config, "WORLD="+w.Dir, "APP="+w.App.Dir, "FLEET="+w.Fleet.Dir,
		"APPGIT="+w.Git.Dir("apps/podinfo.git"), "FLEETGIT="+w.Git.Dir("fleet.git"),
		"REPOSITORY="+w.Repository(), "BASE="+w.Base,
		"SIGNERS="+filepath.Join(w.Dir, "secrets", "towpath-signing", "allowed_signers"),
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=Sam", "GIT_AUTHOR_EMAIL=sam@example.com",
		"GIT_COMMITTER_NAME=Sam", "GIT_COMMITTER_EMAIL=sam@example.com",
		"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
	)
	env.Values["world"], env.Values["t"] = w, t
	// The world's config is where towpath looks first.
	return os.Symlink(w.Config, filepath.Join(env.WorkDir, "towpath.yaml"))
}

func world(ts *testscript.TestScript) *lab.World { return ts.Value("world").(*lab.World) }

// commit CLONE MESSAGE [PATH=CONTENT…] commits to app or fleet and pushes.
func commit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: commit app|fleet MESSAGE [PATH=CONTENT…]")
	}
	w := world(ts)
	clone, branch := w.App, "master"
	if args[0] == "fleet" {
		clone, branch = w.Fleet, "main"
		clone.Git("pull", "--quiet", "--rebase", "origin", branch)
	}
	files := map[string]string{}
	for _, file := range args[2:] {
		path, content, _ := strings.Cut(file, "=")
		files[path] = strings.ReplaceAll(content, `\n`, "\n")
	}
	clone.Commit(lab.Commit{Message: strings.ReplaceAll(args[1], `\n`, "\n"), Files: files})
	clone.Push("HEAD:" + branch)
	ts.Setenv("HEAD", clone.Head())
}

// config OLD NEW replaces a text in the config, which must hold it.
func config(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: config OLD NEW")
	}
	w := world(ts)
	content, err := os.ReadFile(w.Config)
	ts.Check(err)
	before, after := strings.ReplaceAll(args[0], `\n`, "\n"), strings.ReplaceAll(args[1], `\n`, "\n")
	if !strings.Contains(string(content), before) {
		ts.Fatalf("the config does not hold %q", before)
	}
	ts.Check(os.WriteFile(w.Config, []byte(strings.Replace(string(content), before, after, 1)), 0o600))
}

// image PATH TEXT checks what the image that the manifest names holds.
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

package sandbox

import (
	"os"
	"path/filepath"
	"testing"
)

// Somebody without rights came first to where builds are made, and would have
// root change, run or remove what it must not.
func TestDirectoriesOfOthers(t *testing.T) {
	t.Parallel()
	const stranger = 1000
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		lay     func(cache, elsewhere string)
		refused bool
		sweeps  bool // all the same: it does not look there
	}{
		"nothing there":                     {func(string, string) {}, false, false},
		"there, and ours":                   {func(cache, _ string) { must(os.MkdirAll(filepath.Join(cache, "builds", "builds"), 0o755)) }, false, false},
		"a link by an administrator, above": {func(cache, elsewhere string) { must(os.Symlink(elsewhere, cache)) }, false, false},
		"an administrator's own directory": {func(cache, _ string) {
			must(os.Chown(filepath.Dir(cache), stranger, stranger))
		}, false, false},
		"everybody writes above the cache": {func(cache, _ string) {
			must(os.Mkdir(cache, 0o700))
			must(os.Chmod(filepath.Dir(cache), 0o777))
		}, true, false},
		"the cache is a stranger's": {func(cache, _ string) {
			must(os.Mkdir(cache, 0o700))
			must(os.Chown(cache, stranger, stranger))
		}, true, false},
		"everybody writes to the cache": {func(cache, _ string) {
			must(os.Mkdir(cache, 0o700))
			must(os.Chmod(cache, 0o777))
		}, true, false},
		"the work directory is a stranger's": {func(cache, _ string) {
			must(os.MkdirAll(filepath.Join(cache, "builds"), 0o700))
			must(os.Chown(filepath.Join(cache, "builds"), stranger, stranger))
		}, true, false},
		"executors are to be seen by all, elsewhere": {func(cache, elsewhere string) {
			must(os.MkdirAll(filepath.Join(cache, "builds"), 0o700))
			must(os.Symlink(elsewhere, filepath.Join(cache, "builds", "executors")))
		}, true, true},
		"builds are elsewhere": {func(cache, elsewhere string) {
			must(os.MkdirAll(filepath.Join(cache, "builds"), 0o700))
			must(os.Symlink(elsewhere, filepath.Join(cache, "builds", "builds")))
		}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			cache, elsewhere := filepath.Join(dir, "cache"), filepath.Join(dir, "elsewhere")
			must(os.Mkdir(elsewhere, 0o700))
			must(os.WriteFile(filepath.Join(elsewhere, "file"), nil, 0o600))
			must(os.Chmod(elsewhere, 0o710))
			test.lay(cache, elsewhere)
			b := &Builder{Dir: filepath.Join(cache, "builds")}
			err := b.makeDirs()
			if (err != nil) != test.refused {
				t.Errorf("got %v, refused is to be %t", err, test.refused)
			}
			info, err := os.Stat(elsewhere)
			if err != nil || info.Mode().Perm() != 0o710 {
				t.Errorf("what is elsewhere was changed: %v %v", info.Mode(), err)
			}
			if _, err := os.Stat(filepath.Join(b.Dir, "builds")); err == nil {
				if err := b.Sweep(t.Context()); (err != nil) != (test.refused && !test.sweeps) {
					t.Errorf("swept: %v", err)
				}
			}
		})
	}
}

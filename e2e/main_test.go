package e2e

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// binary is the towpath under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "towpath-e2e-")
	if err == nil {
		err = noteSources()
	}
	if err == nil {
		binary, err = lab.BuildTowpath(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// noteSources looks at every source file of the binary. The go command keeps
// the result of a test until something changes that the test has looked at, and
// it cannot see into the process that builds the binary.
func noteSources() error {
	for _, dir := range []string{"cmd", "config", "gitops", "kaniko", "reconcile"} {
		err := filepath.WalkDir(filepath.Join("..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(path) == ".go" {
				_, err = os.Stat(path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

package e2e

import (
	"fmt"
	"os"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// binary is the towpath under test, built once.
var binary string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "towpath-e2e-")
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

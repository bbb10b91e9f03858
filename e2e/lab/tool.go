// Package lab sets up the real parts that tests run against: git servers, a
// registry, the kaniko executor, signing keys. It is for tests alone.
package lab

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Tool returns the path of a program that the tests need: one that the Makefile
// builds into the tools' cache, or one of the system's. A missing tool fails
// the test: a suite that skips its heart has failed.
func Tool(t testing.TB, name string) string {
	t.Helper()
	if path := filepath.Join(ToolDir(), name); executable(path) {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		// Debian keeps servers out of an ordinary user's PATH.
		if path = filepath.Join("/usr/sbin", name); executable(path) {
			return path
		}
		t.Fatalf("%s is missing: run `make tools`", name)
	}
	return path
}

// ToolDir is where the Makefile puts the tools it builds: TOWPATH_TOOLS, or
// towpath/bin below the user's cache.
func ToolDir() string {
	if dir := os.Getenv("TOWPATH_TOOLS"); dir != "" {
		return dir
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return ""
	}
	return filepath.Join(cache, "towpath", "bin")
}

func executable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

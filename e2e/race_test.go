//go:build race

package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

var raced = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(binary), "race")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", err
	}
	return lab.BuildTowpath(dir, "-race")
})

// daemonBinary is a towpath under the race detector, as the tests are. It is
// slower, so it serves those tests alone in which much goes on at once.
func daemonBinary(t *testing.T) string {
	t.Helper()
	path, err := raced()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

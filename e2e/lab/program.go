package lab

import (
	"os"
	"syscall"
	"testing"
)

// WriteProgram writes a file that is run soon. While it is open nothing is started:
// a child has what this process has open until it runs a program of its own, and
// what somebody has open to write to it cannot be run ("text file busy").
func WriteProgram(t testing.TB, path string, content []byte) {
	t.Helper()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, content, 0o755); err != nil {
		t.Fatal(err)
	}
}

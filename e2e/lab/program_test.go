package lab

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// TestAProgramRunsAtOnce, however many others are started while it is written.
func TestAProgramRunsAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for n := range 100 {
				program := filepath.Join(dir, fmt.Sprintf("%d-%d", worker, n))
				WriteProgram(t, program, []byte("#!/bin/sh\n"))
				if out, err := exec.Command(program).CombinedOutput(); err != nil {
					t.Errorf("%v\n%s", err, out)
					return
				}
			}
		})
	}
	all.Wait()
}

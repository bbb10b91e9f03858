// Command towpath pulls code all the way into a cluster: it polls application
// repositories, builds what moved, publishes the image and commits its tag to
// the GitOps repository.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// lastMoment is when the process ends after a signal, whatever it is at: files
// of a killed build that are being removed, say. The next start goes on.
const lastMoment = grace + 800*time.Millisecond

func main() {
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if terminal(os.Stderr) {
		signals = append(signals, syscall.SIGHUP) // whoever watched is gone
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// What is in flight has a moment to end well; a second signal ends us at once.
	context.AfterFunc(ctx, func() {
		stop()
		time.AfterFunc(lastMoment, func() {
			fmt.Fprintf(os.Stderr, "towpath: error: what was in flight did not end within %s of the signal\n", lastMoment)
			os.Exit(exitFailed)
		})
	})
	code := execute(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()})
	stop()
	os.Exit(code)
}

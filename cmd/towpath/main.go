// Command towpath pulls code all the way into a cluster: it polls application
// repositories, builds what moved, publishes the image and commits its tag to
// the GitOps repository.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	signals := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if terminal(os.Stderr) {
		signals = append(signals, syscall.SIGHUP) // whoever watched is gone
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	// What is in flight has a moment to end well; a second signal ends us at once.
	context.AfterFunc(ctx, stop)
	code := execute(ctx, os.Args[1:], streams{in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Environ()})
	stop()
	os.Exit(code)
}

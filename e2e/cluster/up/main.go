// Command up runs a Kubernetes node with Flux on this machine until it is told
// to end, for a person to look at.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/cluster"
	"towpath.dev/towpath/e2e/lab"
)

func main() { os.Exit(run()) }

func run() (code int) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	host := lab.NewStandIn(ctx)
	defer host.Close()
	err := host.Run(func(t testing.TB) {
		c := cluster.Up(t)
		registry := c.Registry(t, lab.RegistryOptions{})
		fmt.Printf("export KUBECONFIG=%s\n", c.Kubeconfig)
		fmt.Printf("# pods and Flux reach this machine at %s, and a registry (plain HTTP) at %s; Ctrl-C ends it\n", c.Address, registry.Host)
		<-ctx.Done()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "node: error:", err)
		return 1
	}
	return 0
}

//go:build cluster

package cluster

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"towpath.dev/towpath/e2e/lab"
)

var (
	host   *lab.StandIn // what outlives a test ends with it
	shared *Cluster     // that all tests run on, started before the first
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) (code int) {
	host = lab.NewStandIn(context.Background())
	defer host.Close()
	told := make(chan os.Signal, 1)
	signal.Notify(told, os.Interrupt, unix.SIGTERM)
	go func() {
		<-told // in the middle of a test, which would wait for what ends now
		host.Close()
		os.Exit(1)
	}()
	if os.Getenv(doomedVariable) != "" {
		if err := host.Run(doomed); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		return 1
	}
	started := time.Now()
	if err := host.Run(func(t testing.TB) { shared = Up(t) }); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Printf("cluster: up in %s, its logs will be in %s\n", time.Since(started).Round(100*time.Millisecond), logsKept())
	return m.Run()
}

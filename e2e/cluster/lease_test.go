//go:build cluster

package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestTwoCopiesWithALease: one works and one waits. The one that works is taken
// away while a commit is built, once with a word of warning and once without, and
// the commit arrives once each time.
func TestTwoCopiesWithALease(t *testing.T) {
	i := breakable(t)
	i.scale(t, 2)
	t.Cleanup(func() {
		i.Kubectl(t, "", "-n", towpathNamespace, "scale", "--replicas=1", "deployment/towpath")
		i.rolledOut(t)
	})
	for _, end := range []struct {
		what  string
		limit time.Duration // for somebody to hold the Lease again: less than it takes to run out
		end   func(t *testing.T, leader string)
	}{
		{"told to end", 30 * time.Second, func(t *testing.T, leader string) {
			i.Kubectl(t, "", "-n", towpathNamespace, "delete", "pod", "--wait=false", leader)
		}},
		// Its container is started again, as the same copy: the Lease is still its own.
		{"killed", time.Minute, func(t *testing.T, leader string) {
			if !i.killCopy(t, leader) {
				t.Fatalf("no process of %s is found", leader)
			}
		}},
	} {
		t.Run(strings.ReplaceAll(end.what, " ", "_"), func(t *testing.T) {
			var leader string
			i.until(t, time.Minute, "a copy that runs holds the Lease", func(ctx context.Context) (err error) {
				leader, err = i.leader(ctx)
				return err
			})
			commit, pushed := i.commit(colour("lease-"+end.what)), time.Now()
			i.began(t, commit, "kaniko")
			end.end(t, leader)
			ended := time.Now()
			var next string
			i.until(t, end.limit, "a copy holds the Lease", func(ctx context.Context) (err error) {
				next, err = i.leader(ctx)
				if err == nil && next == leader && end.what == "told to end" {
					err = errors.New("it is still " + leader)
				}
				return err
			})
			took := time.Since(ended)
			if next != leader {
				fmt.Printf("cluster: the copy that works is %s: the other has the Lease after %.2f s\n", end.what, took.Seconds())
			}
			if took > end.limit {
				t.Errorf("it took %s, want at most %s", took, end.limit)
			}
			i.follow(t, commit, pushed)
			i.once(t)
			i.until(t, time.Minute, "two copies run", func(context.Context) error {
				if alive := i.daemons(t); len(alive) != 2 {
					return fmt.Errorf("%d copies run", len(alive))
				}
				return nil
			})
		})
	}
}

// leader is the pod that holds the Lease and runs.
func (i *installation) leader(ctx context.Context) (string, error) {
	lease, err := i.Client.CoordinationV1().Leases(towpathNamespace).Get(ctx, "towpath", metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	if lease.Spec.HolderIdentity == nil || *lease.Spec.HolderIdentity == "" {
		return "", errors.New("nobody holds it")
	}
	holder := *lease.Spec.HolderIdentity
	pods, err := i.Client.CoreV1().Pods(towpathNamespace).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=towpath"})
	if err != nil {
		return "", err
	}
	var names []string
	for _, pod := range pods.Items {
		if pod.Name == holder && pod.DeletionTimestamp == nil {
			return holder, nil
		}
		names = append(names, pod.Name)
	}
	return "", fmt.Errorf("%s holds it, the pods are %v", holder, names)
}

// killCopy kills the daemon of one pod.
func (i *installation) killCopy(t *testing.T, pod string) (found bool) {
	t.Helper()
	return slices.ContainsFunc(i.daemons(t), func(pid int) bool {
		name, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "root/etc/hostname"))
		if err != nil || strings.TrimSpace(string(name)) != pod {
			return false
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return true
	})
}

//go:build cluster

package cluster

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"towpath.dev/towpath/e2e/lab"
)

// doomedVariable makes the test's program one that runs a node until it is
// killed.
const doomedVariable = "TOWPATH_TEST_DOOMED_NODE"

// doomed runs a node with a pod, says where they are, and waits.
func doomed(t testing.TB) {
	n := startNode(t)
	client := kubernetes.NewForConfigOrDie(n.Config)
	namespace := lab.Namespace(t, n.Config, nil)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "pod", Image: pausedImage}}}}
	if _, err := client.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	err := n.programs["kubelet"].running.Ready(ctx, func(ctx context.Context) error {
		pod, err := client.CoreV1().Pods(namespace).Get(ctx, "pod", metav1.GetOptions{})
		if err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("the pod is %s", pod.Status.Phase)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("doomed:", n.dir, n.cgroup, n.device)
	<-t.Context().Done()
}

// TestNodeEndsWithItsProcess kills the process that runs a node.
func TestNodeEndsWithItsProcess(t *testing.T) {
	if shared.Node == nil {
		t.Skip("the cluster was given: no node is started here")
	}
	before := packetFilter(t)
	holder := exec.Command(os.Args[0])
	holder.Env = append(os.Environ(), doomedVariable+"=1")
	var errs bytes.Buffer
	holder.Stderr = &errs
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	var dir, cgroup, device string
	for lines := bufio.NewScanner(out); device == "" && lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "doomed: "); ok {
			if _, err := fmt.Sscan(rest, &dir, &cgroup, &device); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if device == "" {
		t.Fatalf("no node ran:\n%s", &errs)
	}

	left := func() (left []string) {
		for _, path := range append([]string{dir, "/sys/class/net/" + device}, groupsOf(t, cgroup)...) {
			if lab.Exists(path) {
				left = append(left, path)
			}
		}
		processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		for _, process := range processes {
			if line, err := os.ReadFile(process); err == nil && bytes.Contains(line, []byte(dir+"/")) {
				left = append(left, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
			}
		}
		return left
	}
	for limit := time.Now().Add(2 * time.Minute); len(left()) > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("left behind:\n%s", strings.Join(left(), "\n"))
		}
	}
	if after := packetFilter(t); after != before {
		t.Errorf("this machine's packet filter has changed from\n%s\nto\n%s", before, after)
	}
	// Another that runs goes on.
	if _, err := shared.Client.CoreV1().Nodes().Get(t.Context(), nodeName, metav1.GetOptions{}); err != nil {
		t.Errorf("the other node: %v", err)
	}
}

// packetFilter is the rules of this machine's.
func packetFilter(t *testing.T) string {
	t.Helper()
	out, err := exec.Command(lab.Tool(t, "iptables-save")).Output()
	if err != nil {
		t.Fatalf("iptables-save: %v", err)
	}
	var rules []string
	for line := range strings.Lines(string(out)) {
		if !strings.HasPrefix(line, "#") { // the time of day
			rules = append(rules, line)
		}
	}
	return strings.Join(rules, "")
}

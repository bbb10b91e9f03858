package lab

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// TestControlPlaneJudges: what a test relies on when it is told no.
func TestControlPlaneJudges(t *testing.T) {
	config := ControlPlane(t)
	admin := kubernetes.NewForConfigOrDie(config)
	if again := ControlPlane(t); again.Host != config.Host {
		t.Errorf("a second control plane runs at %s beside %s", again.Host, config.Host)
	}

	namespace := Namespace(t, config, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	privileged := true
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "rogue"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "rogue", Image: "rogue", SecurityContext: &corev1.SecurityContext{Privileged: &privileged},
	}}}}
	if _, err := admin.CoreV1().Pods(namespace).Create(t.Context(), pod, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "PodSecurity") {
		t.Errorf("a privileged pod in a restricted namespace: %v", err)
	}

	nobody := kubernetes.NewForConfigOrDie(As(config, "system:serviceaccount:"+namespace+":default", "system:serviceaccounts"))
	if _, err := nobody.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("an account without rights lists secrets: %v", err)
	}
}

// TestControlPlaneEndsWithItsProcess kills a process that has one.
func TestControlPlaneEndsWithItsProcess(t *testing.T) {
	const marker = "TOWPATH_TEST_HOLDS_CONTROL_PLANE"
	if os.Getenv(marker) != "" {
		ControlPlane(t)
		os.Stdout.WriteString("running\n")
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	}
	tmp := t.TempDir()
	holder := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	holder.Env = append(os.Environ(), marker+"=1", "TMPDIR="+tmp)
	if _, err := holder.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	lines, printed := bufio.NewScanner(out), ""
	for lines.Scan() && lines.Text() != "running" {
		printed += lines.Text() + "\n"
	}
	servers := children(t, holder.Process.Pid)
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	if len(servers) < 2 {
		t.Fatalf("it runs %d processes, and should run etcd and an API server\n%s", len(servers), printed)
	}
	for limit := time.Now().Add(2 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		left, err := os.ReadDir(tmp)
		if err != nil {
			t.Fatal(err)
		}
		alive := 0
		for _, pid := range servers {
			if syscall.Kill(pid, 0) == nil {
				alive++
			}
		}
		if alive == 0 && len(left) == 0 {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("left behind: %d processes, files %v", alive, left)
		}
	}
}

// children are the processes that a process started.
func children(t *testing.T, parent int) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			if p, alive := processOf(pid); alive && p.parent == parent {
				pids = append(pids, pid)
			}
		}
	}
	return pids
}

package lab

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestNamespacesHoldEverything: what runs in them sees a machine of its own and
// ends with them, also what got away from its parent.
func TestNamespacesHoldEverything(t *testing.T) {
	dir := t.TempDir()
	n, err := NewNamespaces(t.Context(), dir, "another")
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	out, err := n.Run(exec.Command("sh", "-ec", `hostname; set -- /proc/[0-9]*; echo $#; ls /sys/class/net >/dev/null; ip -o link | wc -l; mount -t tmpfs tmpfs /mnt`))
	if err != nil {
		t.Fatal(err)
	}
	// The first process and the shell, which counts without help: of two programs in a
	// pipe the second may not be there yet.
	if fields := strings.Fields(out); len(fields) != 3 || fields[0] != "another" || fields[1] != "2" || fields[2] != "1" {
		t.Errorf("host name, processes and network devices: %q", fields)
	}
	if mounts, err := exec.Command("cat", "/proc/mounts").Output(); err != nil || strings.Contains(string(mounts), " /mnt tmpfs") {
		t.Errorf("a mount of theirs is ours: %v", err)
	}

	pipe := filepath.Join(dir, "pipe")
	if out, err := exec.Command("mkfifo", pipe).CombinedOutput(); err != nil {
		t.Fatalf("mkfifo: %v\n%s", err, out)
	}
	// An orphan that holds the pipe open for writing for as long as it lives.
	server, err := n.Start(exec.Command("sh", "-c", `(trap '' TERM HUP; exec 9>"$0"; sleep infinity) & exec sleep infinity`, pipe), filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	held := exec.Command("sh", "-c", `exec 9<"$0"; echo open; read -r _ <&9 || true`, pipe)
	opened, err := held.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := held.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := opened.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	n.Close()
	released := make(chan error)
	go func() { released <- held.Wait() }()
	select {
	case <-server.Done():
	case <-time.After(time.Minute):
		t.Fatal("a server outlives its namespaces")
	}
	select {
	case <-released:
	case <-time.After(time.Minute):
		t.Fatal("an orphan outlives its namespaces")
	}
}

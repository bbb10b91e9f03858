package config_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"towpath.dev/towpath/config"
)

// mount writes a generation of a secret as kubelet does: a new directory, and
// then a symlink that is swapped.
func mount(t testing.TB, directory string, generation int, keys map[string]string) {
	t.Helper()
	name := fmt.Sprintf("..2026_%d", generation)
	if err := os.MkdirAll(filepath.Join(directory, name), 0o755); err != nil {
		t.Fatal(err)
	}
	for key, value := range keys {
		if err := os.WriteFile(filepath.Join(directory, name, key), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("..data/"+key, filepath.Join(directory, key)); err != nil && !errors.Is(err, fs.ErrExist) {
			t.Fatal(err)
		}
	}
	before, _ := os.Readlink(filepath.Join(directory, "..data"))
	next := filepath.Join(directory, "..data_tmp")
	if err := os.Symlink(name, next); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, filepath.Join(directory, "..data")); err != nil {
		t.Fatal(err)
	}
	if before != "" {
		if err := os.RemoveAll(filepath.Join(directory, before)); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecretPlain(t *testing.T) {
	t.Parallel()
	directory := write(t, map[string]string{
		"registry/.dockerconfigjson": "{}", "registry/ca.crt": "PEM\n", "registry/.ca.crt.swp": "no", "registry/..x": "no", "registry/below/key": "no",
	})
	got, err := config.Secrets{Dir: directory}.Read("registry")
	want := map[string][]byte{".dockerconfigjson": []byte("{}"), "ca.crt": []byte("PEM\n")}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("error %v (-want +got):\n%s", err, diff)
	}
}

// TestSecretRotation reads while the secret is swapped: every key is of one
// generation.
func TestSecretRotation(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	directory := filepath.Join(root, "git")
	secrets := config.Secrets{Dir: root}
	keys := func(i int) map[string]string {
		return map[string]string{"username": fmt.Sprint(i), "password": fmt.Sprint(i), "ca.crt": fmt.Sprint(i)}
	}
	mount(t, directory, 0, keys(0))
	done := make(chan struct{})
	var rotating sync.WaitGroup
	rotating.Go(func() {
		for i := 1; i < 200; i++ {
			mount(t, directory, i, keys(i))
		}
		close(done)
	})
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		got, err := secrets.Read("git")
		if err != nil {
			if strings.Contains(err.Error(), "changed 5 times") || errors.Is(err, fs.ErrNotExist) {
				continue // five times in a row: it says so and mixes nothing
			}
			t.Fatal(err)
		}
		if len(got) != 3 || !bytes.Equal(got["username"], got["password"]) || !bytes.Equal(got["username"], got["ca.crt"]) {
			t.Fatalf("generations are mixed: %q", got)
		}
	}
	rotating.Wait()
	if got, err := secrets.Read("git"); err != nil || string(got["username"]) != "199" {
		t.Errorf("the last generation: %q, %v", got, err)
	}
}

func TestSecretErrors(t *testing.T) {
	t.Parallel()
	directory := write(t, map[string]string{"large/key": strings.Repeat("hunter2", 1<<18), "file": "hunter2", "pipe/x": "hunter2"})
	if err := syscall.Mkfifo(filepath.Join(directory, "pipe", "identity"), 0o600); err != nil {
		t.Fatal(err)
	}
	for i := range 257 {
		path := filepath.Join(directory, "many", fmt.Sprint(i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"none":   "secret none: no such file or directory",
		"../etc": `secret "../etc": is no name of a secret`,
		"":       `secret "": is no name of a secret`,
		"large":  "secret large: key key: the secret is larger than 1 MiB",
		"file":   "secret file: not a directory",
		"pipe":   "secret pipe: key identity: is no regular file",
		"many":   "secret many: has more than 256 keys",
	} {
		_, err := config.Secrets{Dir: directory}.Read(name)
		var secret *config.SecretError
		if !errors.As(err, &secret) || err.Error() != want {
			t.Errorf("%s: error %v, want %s", name, err, want)
		}
		if name == "none" && (!errors.Is(err, fs.ErrNotExist) || secret.Hint() == "") {
			t.Errorf("%s: no hint that it does not exist", name)
		}
	}
	if got := (config.Secrets{Dir: directory}).Directory("git"); got != filepath.Join(directory, "git") {
		t.Error(got)
	}
}

package lab_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestCanariesAreFound: a search that finds nothing must be able to find.
func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	secret := "s3cret/with+odd=letters"
	var canaries lab.Canaries
	canaries.Plant(t, "the secret", []byte(secret))
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write([]byte("before " + secret + " after")); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	texts := []string{
		secret, "a\n" + secret + "b", url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), packed.String(),
	}
	for _, user := range []string{"", "a", "ab", "abc"} {
		texts = append(texts, base64.StdEncoding.EncodeToString([]byte(user+":"+secret)), base64.URLEncoding.EncodeToString([]byte(user+secret+"tail")))
	}
	for _, text := range texts {
		if len(canaries.In([]byte(text))) == 0 {
			t.Errorf("not found in %q", text)
		}
	}
	if found := canaries.In([]byte("nothing of it here")); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}

// TestAListenerIsSeen: the witness sees the sockets of a child.
func TestAListenerIsSeen(t *testing.T) {
	t.Parallel()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	canaries := &lab.Canaries{}
	canaries.Plant(t, "an argument", []byte("a canary argument"))
	witness := lab.NewWitness(t, canaries, nil)
	cmd := exec.Command(lab.Tool(t, "sh"), "-c", "echo; read line", "a canary argument")
	cmd.ExtraFiles = []*os.File{file}
	cmd.Env = []string{"SECRET=a canary argument"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// A program that has begun has its arguments; one that is started has them soon.
	if _, err := stdout.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	witness.Follow(os.Getpid())
	witness.Look()
	found := strings.Join(witness.Found(), "\n")
	for _, want := range []string{"read line", "listens: tcp ", "the arguments of", "the environment of"} {
		if !strings.Contains(found, want) {
			t.Errorf("no %q in:\n%s", want, found)
		}
	}
	stdin.Close()
	_ = cmd.Wait()
}

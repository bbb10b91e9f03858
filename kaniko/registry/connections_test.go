package registry

import (
	"runtime"
	"testing"
	"time"

	"towpath.dev/towpath/e2e/lab"
)

// TestSharedConnections: clients of one registry with one authority have their
// connections in common, whatever their accounts; another authority has its own;
// and nothing is kept for clients that are gone.
func TestSharedConnections(t *testing.T) {
	server := lab.NewRegistry(t, lab.RegistryOptions{TLS: true, Username: "user", Password: "right"})
	image := server.Push(t, "apps/demo", "1", lab.Busybox(t))
	var shared Connections
	client := func(password string, ca []byte) *Client {
		t.Helper()
		c, err := New(Options{Repository: server.Repository("apps/demo"), Connections: &shared, Attempts: 1, Secret: func() (map[string][]byte, error) {
			return map[string][]byte{"username": []byte("user"), "password": []byte(password), "ca.crt": ca}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	resolve := func(c *Client) error {
		_, err := c.Resolve(t.Context(), "1")
		return err
	}
	func() {
		one, two, wrong := client("right", server.CA), client("right", server.CA), client("wrong", server.CA)
		for _, c := range []*Client{one, two, one} {
			if err := resolve(c); err != nil {
				t.Fatalf("%s: %v", image, err)
			}
		}
		if err := resolve(wrong); err == nil {
			t.Error("what another account may do, a wrong one could")
		}
		if one.current.guard != two.current.guard {
			t.Error("two clients of one registry have a transport each")
		}
		if err := one.Close(); err != nil {
			t.Error(err)
		}
		if err := resolve(two); err != nil {
			t.Errorf("after the other was closed: %v", err)
		}
		stranger := client("right", lab.NewCA(t).PEM)
		if err := resolve(stranger); err == nil {
			t.Error("an authority that is not the registry's was trusted, as if it were another client's")
		}

		if err := two.Close(); err != nil {
			t.Error(err)
		}
	}() // and all of them are gone

	left := func() (n int) {
		shared.mu.Lock()
		defer shared.mu.Unlock()
		for _, line := range shared.lines {
			if line.Value() != nil {
				n++
			}
		}
		return n
	}
	for limit := time.Now().Add(2 * time.Minute); left() > 0; runtime.Gosched() {
		runtime.GC()
		if time.Now().After(limit) {
			t.Fatalf("%d transports are kept for nobody", left())
		}
	}
}

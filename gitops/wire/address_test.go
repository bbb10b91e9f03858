package wire

import (
	"os/exec"
	"strings"
	"testing"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	tests := []struct {
		url, shown, dial, path string // no shown: refused
	}{
		{"https://git.example.com/apps/podinfo.git", "https://git.example.com/apps/podinfo.git", "", "/apps/podinfo.git"},
		{"https://git.example.com/apps/podinfo.git/", "https://git.example.com/apps/podinfo.git", "", "/apps/podinfo.git"},
		{"https://ada:s3cr3t@Git.Example.com:8443/a%20b", "https://git.example.com:8443/a%20b", "", "/a%20b"},
		{"HTTP://[::1]:80/x", "http://[::1]:80/x", "", "/x"},
		{"ssh://git@git.example.com/platform/fleet.git", "ssh://git.example.com/platform/fleet.git", "git.example.com:22", "/platform/fleet.git"},
		{"ssh://git.example.com:2222/~ada/x", "ssh://git.example.com:2222/~ada/x", "git.example.com:2222", "~ada/x"},
		{"ssh://[fe80::1]:22/a%20b", "ssh://[fe80::1]:22/a b", "[fe80::1]:22", "/a b"},
		{"git@GIT.example.com:platform/fleet.git", "ssh://git.example.com/platform/fleet.git", "git.example.com:22", "platform/fleet.git"},
		{"git.example.com:/srv/fleet.git", "ssh://git.example.com/srv/fleet.git", "git.example.com:22", "/srv/fleet.git"},
		{"git@[::1]:fleet.git", "ssh://[::1]/fleet.git", "[::1]:22", "fleet.git"},
		{url: ""},
		{url: "/srv/fleet.git"},
		{url: "./a:b"},
		{url: "file:///srv/fleet.git"},
		{url: "ext::sh -c whoami"},
		{url: "git://git.example.com/x"},
		{url: "https:///x"},
		{url: "https://git.example.com/x?y=s3cr3t"},
		{url: "https://ada:s3cr3t@git.example.com/%zz"},
		{url: "https://git.example.com/x\ny"},
		{url: "ssh://git.example.com"},
		{url: "ssh://git.example.com/"},
		{url: "git@host:-oProxyCommand=x"},
		{url: "-oProxyCommand=x:y"},
		{url: "git@:x"},
		{url: "a@b@c:x"},
		{url: "[::1:x"},
	}
	for _, test := range tests {
		r, err := New(Options{URL: test.url})
		if test.shown == "" {
			if err == nil || strings.Contains(err.Error(), "s3cr3t") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: %v, want a refusal", test.url, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", test.url, err)
			continue
		}
		if r.URL() != test.shown || r.address.path != test.path || test.dial != "" && r.address.dial() != test.dial {
			t.Errorf("%q: %s %s %s", test.url, r.URL(), r.address.dial(), r.address.path)
		}
	}
}

func TestLoopback(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]bool{
		"http://127.0.0.1:80/x": true, "http://127.9.9.9/x": true, "http://[::1]/x": true, "http://localhost:3000/x": true,
		"http://localhost.example.com/x": false, "http://10.0.0.1/x": false, "http://127.0.0.1.example.com/x": false, "http://0.0.0.0/x": false,
	} {
		a, err := parseAddress(url)
		if err != nil || a.loopback() != want {
			t.Errorf("%s: %v %v", url, a.loopback(), err)
		}
	}
}

// Git itself says which names are good.
func TestCheckRef(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"refs/heads/main", "refs/heads/a/b", "refs/towpath/production/podinfo", "refs/heads/-x", "refs/heads/é", "refs/heads/@", "refs/heads/a@b",
		"refs/heads/", "refs/heads", "refs//x", "refs/heads/..", "refs/heads/a..b", "refs/heads/.a", "refs/heads/a.", "refs/heads/a.lock", "refs/a.lock/b",
		"refs/heads/a b", "refs/heads/a~1", "refs/heads/a^", "refs/heads/a:b", "refs/heads/a?", "refs/heads/a*", "refs/heads/[a", `refs/heads/a\b`,
		"refs/heads/a@{1}", "refs/heads/a\x7f", "refs/heads/a\tb", "refs/heads/a/", "/refs/heads/a", "refs/heads/a.b", "refs/heads/{", "refs/heads/a.lockx",
	} {
		good := exec.Command("git", "check-ref-format", name).Run() == nil
		if err := CheckRef(name); (err == nil) != good {
			t.Errorf("%q: %v, git says %v", name, err, good)
		}
	}
	for _, name := range []string{"", "@", "HEAD", "main", "refs/heads/\xff", "refs/heads/" + strings.Repeat("x", 2000)} {
		if CheckRef(name) == nil {
			t.Errorf("%.40q is taken", name)
		}
	}
}

func TestQuote(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/srv/a.git", "it's", "a!b'!'c", "$(touch x)`", "a b\\", `"`} {
		out, err := exec.Command("sh", "-c", "printf %s "+quote(path)).Output()
		if err != nil || string(out) != path {
			t.Errorf("%q becomes %q, %v", path, out, err)
		}
	}
}

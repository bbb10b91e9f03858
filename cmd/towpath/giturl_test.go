package main

import "testing"

// Every way of writing a URL that the config takes is understood.
func TestGitURL(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ address, url, host, place string }{
		{"https://Git.example.com/apps/podinfo.git", "https://Git.example.com/apps/podinfo.git", "Git.example.com:443", "git.example.com/apps/podinfo"},
		{"http://127.0.0.1:3000/podinfo", "http://127.0.0.1:3000/podinfo", "127.0.0.1:3000", "127.0.0.1/podinfo"},
		{"ssh://git@git.example.com:2222/podinfo.git", "ssh://git@git.example.com:2222/podinfo.git", "git.example.com:2222", "git.example.com/podinfo"},
		{"git@git.example.com:apps/podinfo.git", "ssh://git@git.example.com/apps/podinfo.git", "git.example.com:22", "git.example.com/apps/podinfo"},
		{"git.example.com:apps/podinfo.git", "ssh://git.example.com/apps/podinfo.git", "git.example.com:22", "git.example.com/apps/podinfo"},
		{"git@[fd00::1]:apps/podinfo.git", "ssh://git@[fd00::1]/apps/podinfo.git", "[fd00::1]:22", "fd00::1/apps/podinfo"},
	} {
		parsed, err := gitURL(test.address)
		if err != nil {
			t.Errorf("%s: %v", test.address, err)
			continue
		}
		if got := parsed.String(); got != test.url {
			t.Errorf("%s is %s, want %s", test.address, got, test.url)
		}
		if got := gitHost(test.address); got != test.host {
			t.Errorf("%s is reached at %s, want %s", test.address, got, test.host)
		}
		if got := place(test.address); got != test.place {
			t.Errorf("%s is %s, want %s", test.address, got, test.place)
		}
	}
}

package main

import "testing"

// TestUpstream: what nobody but its makers can push is not proposed to be built,
// however it is written; what may be anybody's is.
func TestUpstream(t *testing.T) {
	for image, want := range map[string]bool{
		"redis":                               true,
		"library/redis":                       true,
		"docker.io/redis":                     true,
		"docker.io/library/redis":             true,
		"index.docker.io/library/redis":       true,
		"registry-1.docker.io/library/redis":  true,
		"public.ecr.aws/docker/library/redis": true,
		"mirror.gcr.io/library/redis":         true,
		"docker.io/example/redis":             false,
		"example/redis":                       false,
		"ghcr.io/library/redis":               false,
		"registry.example.com/redis":          false,
		"registry.example.com/library/redis":  false,
		"localhost:5000/library/redis":        false,
		"Not A Name":                          false,
		"":                                    false,
	} {
		if got := upstream(image); got != want {
			t.Errorf("%q: %v, want %v", image, got, want)
		}
	}
}

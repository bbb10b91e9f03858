package lab

import (
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
)

// Towpath is an image like the one of the Dockerfile, with a program that is
// built already.
func Towpath(t testing.TB, binary string) v1.Image {
	t.Helper()
	return withPrograms(t, Static(t), func(config *v1.Config) {
		config.User = "65532:65532"
		config.Entrypoint, config.Cmd = []string{"/usr/local/bin/towpath"}, []string{"run"}
	}, map[string]string{"usr/local/bin/towpath": binary})
}

// Kaniko is an image like kaniko's own: the executor, authorities, and nothing
// else.
func Kaniko(t testing.TB) v1.Image {
	t.Helper()
	authorities, err := os.ReadFile(authoritiesFile())
	if err != nil {
		t.Fatal(err)
	}
	base := assemble(t, v1.Config{
		Env: []string{
			"HOME=/root", "USER=root", "PATH=/usr/local/bin:/kaniko",
			"SSL_CERT_DIR=/kaniko/ssl/certs", "DOCKER_CONFIG=/kaniko/.docker/",
		},
		WorkingDir: "/workspace",
		Entrypoint: []string{"/kaniko/executor"},
	}, newLayer(t, func(a *archive) {
		a.dir("kaniko", 0o777)
		a.dir("kaniko/.docker", 0o777)
		a.dir("kaniko/ssl", 0o755)
		a.dir("kaniko/ssl/certs", 0o755)
		a.file("kaniko/ssl/certs/ca-certificates.crt", authorities)
		a.dir("workspace", 0o755)
	}))
	return withPrograms(t, base, func(*v1.Config) {}, map[string]string{"kaniko/executor": Tool(t, "executor")})
}

// withPrograms adds programs of this machine to an image, by their paths in it.
func withPrograms(t testing.TB, base v1.Image, configure func(*v1.Config), programs map[string]string) v1.Image {
	t.Helper()
	layer := newLayer(t, func(a *archive) {
		for name, path := range programs {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			a.program(name, content)
		}
	})
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	return configured(t, image, configure)
}

// configured is an image with its config changed.
func configured(t testing.TB, image v1.Image, configure func(*v1.Config)) v1.Image {
	t.Helper()
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	file = file.DeepCopy()
	configure(&file.Config)
	if image, err = mutate.ConfigFile(image, file); err != nil {
		t.Fatal(err)
	}
	return image
}

// Pause is an image that waits: it holds a pod's namespaces.
func Pause(t testing.TB) v1.Image {
	t.Helper()
	return configured(t, Busybox(t), func(config *v1.Config) { config.Cmd = []string{"sleep", "infinity"} })
}

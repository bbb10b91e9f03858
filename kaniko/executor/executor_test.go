package executor_test

import (
	"slices"
	"strings"
	"testing"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/executor"
)

func order() kaniko.Order {
	return kaniko.Order{
		Image:      "app",
		Source:     kaniko.Source{Commit: strings.Repeat("8b07d4aa", 5)},
		Dockerfile: "docker/Dockerfile",
		Platform:   "linux/arm64/v8",
	}
}

func TestCheckArguments(t *testing.T) {
	t.Parallel()
	if problems := executor.CheckArguments([]string{"--verbosity=debug", "--single-snapshot", "--registry-mirror=mirror.example.com", "--label=a=b@c"}); len(problems) > 0 {
		t.Errorf("got %v, want no problem", problems)
	}
	for _, arg := range []string{
		"--destination=x", "--no-push=false", "--context=dir:///", "--oci-layout-path=/x", "--tar-path=/x", "--digest-file=/x", "--cache-repo=x", "--build-arg=A=b",
		"--target=x", "--kaniko-dir=/x", "--skip-tls-verify-pull", "--insecure-pull", "--registry-certificate=a=/x", "-d=x", "x", "--", "",
		"--registry-mirror=user:password@mirror.example.com", "--label=a\x00b",
	} {
		problems := executor.CheckArguments([]string{arg})
		if len(problems) != 1 {
			t.Errorf("%q: got %v, want one problem", arg, problems)
		} else if strings.Contains(problems[0].Error(), "password") {
			t.Errorf("the problem of %q tells the credential: %v", arg, problems[0])
		}
	}
}

// TestInsecureCountsForOneRegistry: plain HTTP that is allowed for the
// destination opens no other registry.
func TestInsecureCountsForOneRegistry(t *testing.T) {
	t.Parallel()
	insecure := func(o kaniko.Order) []string {
		return slices.DeleteFunc(executor.Arguments(o, true), func(arg string) bool { return !strings.Contains(arg, "insecure") })
	}
	o := order()
	o.Destination = kaniko.Destination{Repository: "10.1.2.3:5000/apps/app"}
	if got := insecure(o); len(got) > 0 {
		t.Errorf("got %q, want nothing", got)
	}
	o.Destination.Insecure = true
	if got, want := insecure(o), []string{"--insecure-registry=10.1.2.3:5000"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestArgumentsOfAnOrder(t *testing.T) {
	t.Parallel()
	o := order()
	o.Args = map[string]string{"B": "2 x", "A": "1", "TARGETARCH": "mine"}
	o.Target = "release"
	o.KanikoArgs = []string{"--label=a=b"}
	got := executor.Arguments(o, false)
	for _, want := range []string{
		"--no-push", "--context=dir:///kaniko/.context", "--dockerfile=/kaniko/.context/docker/Dockerfile", "--oci-layout-path=/kaniko/.out/image",
		"--custom-platform=linux/arm64/v8", "--target=release", "--build-arg=A=1", "--build-arg=B=2 x", "--build-arg=TARGETARCH=mine", "--build-arg=TARGETOS=linux", "--build-arg=TARGETSTAGE=release",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing in %q", want, got)
		}
	}
	if got[len(got)-1] != "--label=a=b" {
		t.Errorf("the config's own argument is not the last of %q", got)
	}
	if slices.ContainsFunc(got, func(arg string) bool { return strings.HasPrefix(arg, "--cache") }) {
		t.Errorf("a cache without bases: %q", got)
	}
	if !slices.Contains(executor.Arguments(o, true), "--cache-dir=/kaniko/.bases") {
		t.Error("the bases are not looked at")
	}
}

func TestCheckOrder(t *testing.T) {
	t.Parallel()
	if err := executor.CheckOrder(order()); err != nil {
		t.Fatal(err)
	}
	for text, edit := range map[string]func(*kaniko.Order){
		"path \"../Dockerfile\" of the Dockerfile": func(o *kaniko.Order) { o.Dockerfile = "../Dockerfile" },
		"path \"/Dockerfile\" of the Dockerfile":   func(o *kaniko.Order) { o.Dockerfile = "/Dockerfile" },
		"platform \"windows/amd64\"":               func(o *kaniko.Order) { o.Platform = "windows/amd64" },
		"build argument \"A=B\"":                   func(o *kaniko.Order) { o.Args = map[string]string{"A=B": ""} },
		"an order needs an image":                  func(o *kaniko.Order) { o.Image = "" },
		"--destination is not allowed":             func(o *kaniko.Order) { o.KanikoArgs = []string{"--destination=x"} },
	} {
		o := order()
		edit(&o)
		if err := executor.CheckOrder(o); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
}

package e2e

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"towpath.dev/towpath/e2e/lab"
)

// TestStatusWarnsOfAnImageThatIsGone: a registry was cleaned up under the image
// that the markers hold.
func TestStatusWarnsOfAnImageThatIsGone(t *testing.T) {
	t.Parallel()
	w := lab.NewWorld(t, lab.WorldOptions{Binary: binary, Registry: memory})
	w.MustRun("run", "--once")
	for _, command := range []string{"status", "why podinfo"} {
		if out := w.MustRun(strings.Fields(command)...); strings.Contains(out, "no such image") {
			t.Fatalf("%s warns although the image is there:\n%s", command, out)
		}
	}
	var deliveries []struct {
		Gates []struct{ Gate, Detail string }
	}
	if err := json.Unmarshal([]byte(w.MustRun("why", "podinfo", "--output", "json")), &deliveries); err != nil {
		t.Fatal(err)
	}
	var image string
	for _, gate := range deliveries[0].Gates {
		if gate.Gate == "build" {
			image, _, _ = strings.Cut(gate.Detail, ",")
		}
	}
	ref, err := name.NewDigest(image, name.Insecure)
	if err != nil {
		t.Fatalf("%q: %v", image, err)
	}
	if err := remote.Delete(ref, w.Registry.Client(t)...); err != nil {
		t.Fatal(err)
	}

	const want = "the registry has no such image any more"
	for _, command := range []string{"status", "why podinfo", "status --output json"} {
		if out := w.MustRun(strings.Fields(command)...); !strings.Contains(out, want) || !strings.Contains(out, ref.DigestStr()) {
			t.Errorf("%s does not warn of %s:\n%s", command, ref, out)
		}
	}
}

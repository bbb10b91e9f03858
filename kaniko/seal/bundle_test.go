package seal

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/in-toto/attestation/go/predicates/provenance/v1"
	intoto "github.com/in-toto/attestation/go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"google.golang.org/protobuf/encoding/protojson"

	"towpath.dev/towpath/kaniko"
)

const digest = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

// fixedKey is a key for tests alone, the same in each run so that seeds of the
// fuzz target stay good.
func fixedKey(t testing.TB) *Key {
	t.Helper()
	private, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), bytes.Repeat([]byte{0x11}, 32))
	if err != nil {
		t.Fatal(err)
	}
	return &Key{private: private, trusted: []*ecdsa.PublicKey{&private.PublicKey}}
}

func order() kaniko.Order {
	return kaniko.Order{
		Image: "demo",
		Source: kaniko.Source{
			URL: "git@git.example.com:apps/demo.git", Ref: "refs/heads/master", Commit: strings.Repeat("8b07d4aa", 5),
		},
		Path: "services/demo", Dockerfile: "Dockerfile", Target: "release", Args: map[string]string{"B": "2", "A": "1"},
		Platform: "linux/amd64", KanikoArgs: []string{"--label=a=b"}, Executor: "sha256:" + strings.Repeat("e", 64), Policy: "sha256:" + strings.Repeat("f", 64),
		Destination: kaniko.Destination{Repository: "registry.example.com/apps/demo", Tag: "v1"},
	}
}

func statement() *Statement {
	start := time.Date(2026, 3, 4, 5, 6, 7, 8, time.FixedZone("somewhere", 3600))
	return NewStatement(order(), kaniko.Image{Repository: "registry.example.com/apps/demo", Digest: digest}, Run{
		ID: "run-1", Started: start, Finished: start.Add(time.Minute), Versions: map[string]string{"towpath": "v0.1.0"},
	})
}

// TestStatement lets in-toto's own library judge, and pins the bytes that
// others read.
func TestStatement(t *testing.T) {
	t.Parallel()
	raw, err := statement().JSON()
	if err != nil {
		t.Fatal(err)
	}
	var parsed intoto.Statement
	if err := protojson.Unmarshal(raw, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := parsed.Validate(); err != nil {
		t.Error(err)
	}
	predicate, err := protojson.Marshal(parsed.GetPredicate())
	if err != nil {
		t.Fatal(err)
	}
	var provenance v1.Provenance
	if err := protojson.Unmarshal(predicate, &provenance); err != nil {
		t.Fatal(err)
	}
	if err := provenance.Validate(); err != nil {
		t.Error(err)
	}
	var got map[string]any
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"_type":         "https://in-toto.io/Statement/v1",
		"subject":       []any{map[string]any{"name": "registry.example.com/apps/demo", "digest": map[string]any{"sha256": strings.Repeat("a", 64)}}},
		"predicateType": "https://slsa.dev/provenance/v1",
		"predicate": map[string]any{
			"buildDefinition": map[string]any{
				"buildType": "https://towpath.dev/build/v1",
				"externalParameters": map[string]any{
					"source": map[string]any{"url": "git@git.example.com:apps/demo.git", "ref": "refs/heads/master", "commit": strings.Repeat("8b07d4aa", 5)},
					"path":   "services/demo", "dockerfile": "Dockerfile", "target": "release",
					"args": map[string]any{"A": "1", "B": "2"}, "platform": "linux/amd64", "kanikoArgs": []any{"--label=a=b"},
				},
				"internalParameters": map[string]any{
					"image": "demo", "buildKey": string(order().Key()),
					"executor": "sha256:" + strings.Repeat("e", 64), "policy": "sha256:" + strings.Repeat("f", 64),
				},
				"resolvedDependencies": []any{
					map[string]any{"uri": "git+ssh://git@git.example.com/apps/demo.git@refs/heads/master", "digest": map[string]any{"gitCommit": strings.Repeat("8b07d4aa", 5)}},
					map[string]any{"name": "executor", "digest": map[string]any{"sha256": strings.Repeat("e", 64)}},
				},
			},
			"runDetails": map[string]any{
				"builder":  map[string]any{"id": "https://towpath.dev/builder/sandbox/v1", "version": map[string]any{"towpath": "v0.1.0"}},
				"metadata": map[string]any{"invocationId": "run-1", "startedOn": "2026-03-04T04:06:07Z", "finishedOn": "2026-03-04T04:07:07Z"},
			},
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// TestOpenRefuses is what our own key signed and what is no seal all the same.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	key := fixedKey(t)
	forge := func(change func(*Statement)) []byte {
		s := statement()
		change(s)
		bundle, err := key.sealed(s)
		if err != nil {
			t.Fatal(err)
		}
		return bundle
	}
	good := forge(func(*Statement) {})
	if got, err := key.Open(good, digest); err != nil || got.Key() != order().Key() {
		t.Fatalf("our own seal: %v", err)
	}
	edit := func(change func(map[string]any)) []byte {
		var bundle map[string]any
		if err := json.Unmarshal(good, &bundle); err != nil {
			t.Fatal(err)
		}
		change(bundle)
		raw, err := json.Marshal(bundle)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	envelope := func(bundle map[string]any) map[string]any { return bundle["dsseEnvelope"].(map[string]any) }
	tests := map[string][]byte{
		"another image":        forge(func(s *Statement) { s.Subject[0].Digest["sha256"] = strings.Repeat("b", 64) }),
		"two images":           forge(func(s *Statement) { s.Subject = append(s.Subject, s.Subject[0]) }),
		"no image":             forge(func(s *Statement) { s.Subject = nil }),
		"another predicate":    forge(func(s *Statement) { s.PredicateType = "https://sigstore.dev/cosign/sign/v1" }),
		"another build type":   forge(func(s *Statement) { s.Predicate.BuildDefinition.BuildType = "https://example.com/" }),
		"another builder":      forge(func(s *Statement) { s.Predicate.RunDetails.Builder.ID = "https://example.com/" }),
		"another statement":    forge(func(s *Statement) { s.Type = "https://in-toto.io/Statement/v0.1" }),
		"empty":                nil,
		"no JSON":              []byte("x"),
		"another version":      edit(func(b map[string]any) { b["mediaType"] = "application/vnd.dev.sigstore.bundle+json;version=0.1" }),
		"another payload type": edit(func(b map[string]any) { envelope(b)["payloadType"] = "text/plain" }),
		"no signature":         edit(func(b map[string]any) { envelope(b)["signatures"] = []any{} }),
		"two signatures": edit(func(b map[string]any) {
			envelope(b)["signatures"] = append(envelope(b)["signatures"].([]any), envelope(b)["signatures"].([]any)...)
		}),
		"a key twice":         bytes.Replace(good, []byte(`"dsseEnvelope":`), []byte(`"dsseEnvelope":{},"dsseEnvelope":`), 1),
		"a field twice":       bytes.Replace(good, []byte(`"payloadType":`), []byte(`"payloadType":"text/plain","payloadType":`), 1),
		"two kinds at once":   bytes.Replace(good, []byte(`"dsseEnvelope":`), []byte(`"messageSignature":{},"dsseEnvelope":`), 1),
		"something after it":  append(bytes.Clone(good), good...),
		"garbage after it":    append(bytes.Clone(good), 'x'),
		"a million in a list": []byte(`{"verificationMaterial":` + strings.Repeat("[", 1<<20)),
		"nested for ever":     []byte(strings.Repeat(`{"x":`, 1<<18)),
		"flipped payload": edit(func(b map[string]any) {
			envelope(b)["payload"] = strings.Replace(envelope(b)["payload"].(string), "e", "f", 1)
		}),
	}
	for name, bundle := range tests {
		if _, err := key.Open(bundle, digest); !errors.Is(err, ErrNotOurs) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzOpen: whatever is accepted was signed by the key, about the digest.
func FuzzOpen(f *testing.F) {
	key := fixedKey(f)
	f.Fuzz(func(t *testing.T, bundle []byte) {
		opened, err := key.Open(bundle, digest)
		if err != nil {
			if !errors.Is(err, ErrNotOurs) || strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("got %q", err)
			}
			return
		}
		var parsed struct {
			Envelope struct {
				Payload    []byte
				Signatures []struct{ Sig []byte }
			} `json:"dsseEnvelope"`
		}
		if json.Unmarshal(bundle, &parsed) == nil && len(parsed.Envelope.Signatures) == 1 &&
			key.signer(dsse.PAE(payloadType, parsed.Envelope.Payload), parsed.Envelope.Signatures[0].Sig) == nil {
			t.Errorf("accepted without a signature: %s", bundle)
		}
		if !opened.about(digest) {
			t.Errorf("accepted %+v", opened)
		}
	})
}

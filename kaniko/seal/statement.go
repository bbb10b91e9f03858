package seal

import (
	"encoding/json"
	"strings"
	"time"

	"towpath.dev/towpath/kaniko"
)

// What our statements say they are. Others depend on these addresses: they
// stay as they are for as long as the meaning does.
const (
	StatementType = "https://in-toto.io/Statement/v1"
	PredicateType = "https://slsa.dev/provenance/v1"
	BuildType     = "https://towpath.dev/build/v1"

	BuilderSandbox    = "https://towpath.dev/builder/sandbox/v1"
	BuilderKubernetes = "https://towpath.dev/builder/kubernetes/v1"

	builders = "https://towpath.dev/builder/"
)

// Run is one run of a build.
type Run struct {
	ID                string            // unique among runs; it may appear in logs
	Started, Finished time.Time         //
	Builder           string            // BuilderSandbox or BuilderKubernetes; empty: the first
	Versions          map[string]string // of the builder's parts, by name: towpath, kaniko
}

// Statement is an in-toto statement (v1) with SLSA provenance (v1) as its
// predicate. See https://slsa.dev/spec/v1.2/build-provenance for the fields.
type Statement struct {
	Type          string     `json:"_type"`
	Subject       []Resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     Provenance `json:"predicate"`
}

// Resource is in-toto's ResourceDescriptor: something with a digest.
type Resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

// Provenance says what a build was asked for and who ran it.
type Provenance struct {
	BuildDefinition struct {
		BuildType            string     `json:"buildType"`
		ExternalParameters   External   `json:"externalParameters"`
		InternalParameters   Internal   `json:"internalParameters"`
		ResolvedDependencies []Resource `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder struct {
			ID      string            `json:"id"`
			Version map[string]string `json:"version,omitempty"`
		} `json:"builder"`
		Metadata struct {
			InvocationID string     `json:"invocationId,omitempty"`
			StartedOn    *time.Time `json:"startedOn,omitempty"`
			FinishedOn   *time.Time `json:"finishedOn,omitempty"`
		} `json:"metadata"`
	} `json:"runDetails"`
}

// External is every parameter that somebody outside of Towpath can set.
type External struct {
	Source     Source            `json:"source"`
	Path       string            `json:"path"`
	Dockerfile string            `json:"dockerfile"`
	Target     string            `json:"target,omitempty"`
	Args       map[string]string `json:"args,omitempty"`
	Platform   string            `json:"platform"`
	KanikoArgs []string          `json:"kanikoArgs,omitempty"` // in addition to those that Towpath itself gives
}

// Source is the commit that was built.
type Source struct {
	URL    string `json:"url"`
	Ref    string `json:"ref"`
	Commit string `json:"commit"` // 40 hexadecimal digits
}

// Internal is what Towpath itself added.
type Internal struct {
	Image    string     `json:"image"`    // the image's name in the config
	BuildKey kaniko.Key `json:"buildKey"` // of the order
	Executor string     `json:"executor"` // sha256:<hex>
	Policy   string     `json:"policy"`   // sha256:<hex>
}

// NewStatement says that an image came of an order.
func NewStatement(order kaniko.Order, image kaniko.Image, run Run) *Statement {
	s := &Statement{
		Type:          StatementType,
		Subject:       []Resource{{Name: image.Repository, Digest: sha256Digest(image.Digest)}},
		PredicateType: PredicateType,
	}
	definition := &s.Predicate.BuildDefinition
	definition.BuildType = BuildType
	definition.ExternalParameters = External{
		Source:     Source{URL: order.Source.URL, Ref: order.Source.Ref, Commit: order.Source.Commit},
		Path:       order.Path,
		Dockerfile: order.Dockerfile,
		Target:     order.Target,
		Args:       order.Args,
		Platform:   order.Platform,
		KanikoArgs: order.KanikoArgs,
	}
	definition.InternalParameters = Internal{
		Image: order.Image, BuildKey: order.Key(), Executor: order.Executor, Policy: order.Policy,
	}
	definition.ResolvedDependencies = []Resource{
		{URI: gitURI(order.Source), Digest: map[string]string{"gitCommit": order.Source.Commit}},
		{Name: "executor", Digest: sha256Digest(order.Executor)},
	}
	details := &s.Predicate.RunDetails
	details.Builder.ID = run.Builder
	if run.Builder == "" {
		details.Builder.ID = BuilderSandbox
	}
	details.Builder.Version = run.Versions
	details.Metadata.InvocationID = run.ID
	details.Metadata.StartedOn = moment(run.Started)
	details.Metadata.FinishedOn = moment(run.Finished)
	return s
}

// JSON is the statement as it is signed.
func (s *Statement) JSON() ([]byte, error) { return json.Marshal(s) }

// Key is the build key that the statement vouches for.
func (s *Statement) Key() kaniko.Key {
	return s.Predicate.BuildDefinition.InternalParameters.BuildKey
}

// about says whether a statement is one of ours about an image.
func (s *Statement) about(digest string) bool {
	return s.Type == StatementType && s.PredicateType == PredicateType &&
		s.Predicate.BuildDefinition.BuildType == BuildType &&
		strings.HasPrefix(s.Predicate.RunDetails.Builder.ID, builders) &&
		len(s.Subject) == 1 && "sha256:"+s.Subject[0].Digest["sha256"] == digest
}

func sha256Digest(digest string) map[string]string {
	return map[string]string{"sha256": strings.TrimPrefix(digest, "sha256:")}
}

// gitURI is the commit's branch as SPDX names a download location.
func gitURI(source kaniko.Source) string {
	url := source.URL
	if host, path, ok := strings.Cut(url, ":"); ok && !strings.Contains(url, "://") {
		// scp's form has no scheme.
		url = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	return "git+" + url + "@" + source.Ref
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

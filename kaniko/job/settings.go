package job

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Settings say how build Jobs run. What Kubernetes has a type for is passed on
// as it is.
type Settings struct {
	Namespace string // that Jobs run in
	Image     string // Towpath's own, NAME@sha256:<hex>: the steps fetch and publish
	Kaniko    string // NAME@sha256:<hex>; its executor is executor.Program

	Timeout     time.Duration // of the three steps together, from the moment the node takes the pod; 0: 30 minutes
	TTL         time.Duration // how long the Job of a successful build is kept; 0: 1 hour
	Concurrency int           // unfinished Jobs in the namespace, whoever made them; 0: no bound

	Resources corev1.ResourceRequirements // of the step that runs kaniko; without a limit of ephemeral-storage: 20Gi

	HostUsers         *bool // nil: as the cluster has it
	RuntimeClassName  string
	NodeSelector      map[string]string
	Tolerations       []corev1.Toleration
	Affinity          *corev1.Affinity
	PriorityClassName string
	Annotations       map[string]string // of Jobs and pods, besides ours
	CABundle          string            // a ConfigMap whose key ca.crt all three steps trust besides the public authorities
	Proxy             Proxy
	FetchToken        Token
	PublishToken      Token
}

// Proxy is how the three steps reach the network. A RUN step can read it.
type Proxy struct{ HTTP, HTTPS, No string }

// Token is a service account token of another audience than the API server's,
// for a cloud's workload identity.
type Token struct {
	Audience string // empty: none
	Path     string // of its file in the container
}

// The defaults of Settings.
const (
	defaultTimeout = 30 * time.Minute
	defaultTTL     = time.Hour
	defaultStorage = "20Gi"
)

// queueing is how long a Job may wait for a node, in addition to its time.
const queueing = time.Hour

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// Pinned is the digest of an image that is named by one, sha256:<hex>. An image
// that is not is an error.
func Pinned(image string) (string, error) {
	parsed, err := name.NewDigest(image)
	if err != nil || !digest.MatchString(parsed.DigestStr()) {
		return "", fmt.Errorf("image %q: want NAME@sha256:<hex>: what a tag names is for its registry to say", image)
	}
	return parsed.DigestStr(), nil
}

// check refuses settings that no Job can be rendered from.
func (s *Settings) check() error {
	var problems []error
	if s.Namespace == "" {
		problems = append(problems, errors.New("no namespace to build in"))
	}
	if _, err := Pinned(s.Image); err != nil {
		problems = append(problems, fmt.Errorf("towpath's own %w", err))
	}
	if _, err := Pinned(s.Kaniko); err != nil {
		problems = append(problems, fmt.Errorf("kaniko's %w", err))
	}
	for _, proxy := range []string{s.Proxy.HTTP, s.Proxy.HTTPS, s.Proxy.No} {
		if strings.Contains(proxy, "@") {
			problems = append(problems, errors.New("the proxy holds a credential, which every build could read"))
		}
	}
	for key := range s.Annotations {
		if strings.HasPrefix(key, prefix) {
			problems = append(problems, fmt.Errorf("annotation %s is Towpath's own", key))
		}
	}
	return errors.Join(problems...)
}

func (s *Settings) timeout() time.Duration { return or(s.Timeout, defaultTimeout) }
func (s *Settings) ttl() time.Duration     { return or(s.TTL, defaultTTL) }

// resources are those of the step that runs kaniko. A limit of storage there is
// in any case: the limit of a pod is the highest of its containers', and those of
// the other steps are too low for a build.
func (s *Settings) resources() corev1.ResourceRequirements {
	r := *s.Resources.DeepCopy()
	r.Claims = nil
	if r.Limits == nil {
		r.Limits = corev1.ResourceList{}
	}
	if _, limited := r.Limits[corev1.ResourceEphemeralStorage]; !limited {
		r.Limits[corev1.ResourceEphemeralStorage] = resource.MustParse(defaultStorage)
	}
	return r
}

func or[T comparable](value, otherwise T) T {
	var none T
	if value == none {
		return otherwise
	}
	return value
}

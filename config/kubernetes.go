package config

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// Kubernetes says how build Jobs run. What Kubernetes has a type for is of that
// type, so that it can be pasted from a pod's spec.
type Kubernetes struct {
	// Namespace that Jobs run in, a DNS label. It holds nothing else. Default
	// towpath-builds.
	Namespace string `json:"namespace"`
	// Image is Towpath's own, by digest: NAME@sha256:… It is the first and the
	// last step of a Job, fetch and publish.
	Image string `json:"image"`
	// Resources of the step that runs kaniko: cpu, memory and ephemeral-storage,
	// merged with the default, which is half a processor, 1Gi and 2Gi asked for,
	// and at most 4Gi and 20Gi of memory and storage. The steps before and after
	// it have small ones of their own.
	Resources corev1.ResourceRequirements `json:"resources"`
	// TTL is how long the Job of a successful build is kept. That of a failed
	// one stays: it is the record of the failure. 1s to 24h; default 1h.
	TTL time.Duration `json:"ttl"`
	// HostUsers as in a pod's spec: false gives each build a user namespace,
	// where nodes have them. Left out: the cluster's default.
	HostUsers *bool `json:"hostUsers,omitempty"`
	// RuntimeClassName as in a pod's spec: such as gVisor's.
	RuntimeClassName string `json:"runtimeClassName"`
	// NodeSelector as in a pod's spec.
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Tolerations as in a pod's spec.
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// Affinity as in a pod's spec.
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// PriorityClassName as in a pod's spec.
	PriorityClassName string `json:"priorityClassName"`
	// Annotations of Jobs and their pods, besides Towpath's own.
	Annotations map[string]string `json:"annotations,omitempty"`
	// CABundle is trusted besides the public authorities, by all three steps.
	CABundle CABundle `json:"caBundle"`
	// Proxy that all three steps use.
	Proxy Proxy `json:"proxy"`
	// Identity gives single steps a token of the cloud's workload identity.
	Identity Identity `json:"identity"`
}

// CABundle is a ConfigMap with certificate authorities.
type CABundle struct {
	// ConfigMap of the builds' namespace; its key ca.crt holds them, as PEM.
	ConfigMap string `json:"configMap"`
}

// Proxy is how builds reach the network. A build can read it, so it holds no
// credential.
type Proxy struct {
	// HTTP is the proxy's URL for http, the variable HTTP_PROXY.
	HTTP string `json:"http"`
	// HTTPS is the proxy's URL for https, the variable HTTPS_PROXY.
	HTTPS string `json:"https"`
	// No lists, with commas, what is reached without a proxy: NO_PROXY.
	No string `json:"no"`
}

// Identity gives single steps a service account token of another audience than
// the API server's. kaniko has none.
type Identity struct {
	// Fetch is the token of the step that reads the source.
	Fetch Token `json:"fetch,omitzero"`
	// Publish is the token of the step that pushes the image.
	Publish Token `json:"publish,omitzero"`
}

// Token is a projected service account token.
type Token struct {
	// Audience that the token is for, as in sts.amazonaws.com; empty: no token.
	Audience string `json:"audience"`
	// Path of its file, below /var/run/secrets. Default
	// /var/run/secrets/towpath.dev/identity/token.
	Path string `json:"path"`
}

// DefaultTokenPath is Token.Path where none is given.
const DefaultTokenPath = "/var/run/secrets/towpath.dev/identity/token" //nolint:gosec // G101 sees a secret in a file's name

// Flux names the objects of Flux that watch a target's repository.
type Flux struct {
	// GitRepository is asked to pull at once after a bump, where Towpath may
	// patch it. Events are about it, and its namespace is that of
	// .AutomationObject in a messageTemplate.
	GitRepository GitRepository `json:"gitRepository"`
}

// GitRepository names an object of Flux.
type GitRepository struct {
	// Namespace of the object, a DNS label.
	Namespace string `json:"namespace"`
	// Name of the object.
	Name string `json:"name"`
}

package config

import (
	"time"

	flux "github.com/fluxcd/image-automation-controller/api/v1"
)

// APIVersion and Kind are what every file has to begin with.
const (
	APIVersion = "towpath.dev/v1"
	Kind       = "Config"
)

// Config is the file.
type Config struct {
	// APIVersion is towpath.dev/v1.
	APIVersion string `json:"apiVersion"`
	// Kind is Config.
	Kind string `json:"kind"`
	// Include names more files by shell patterns, relative to the directory of
	// this file. They hold `images:` and nothing else, so that each team may
	// have a file. Names that begin with a dot are passed over.
	Include []string `json:"include,omitempty"`
	// Interval is the time between two polls of a source. Each is jittered by
	// a tenth; errors back off to 15 intervals, 15 minutes at most, and less
	// once the same host has answered somebody else. 1s to 24h; default 1m.
	Interval time.Duration `json:"interval"`
	// Suspend is the brake: nothing is built or promoted.
	Suspend bool `json:"suspend"`
	// Secrets is the directory with one directory per secret and in it one
	// file per key, as Kubernetes mounts a Secret. A relative path starts at
	// this file's directory. Default /etc/towpath/secrets.
	Secrets string `json:"secrets"`
	// Cache is a directory that may be deleted at any time: that costs time,
	// never correctness. A relative path starts at this file's directory. With
	// the sandbox it is root's alone to change. Another one takes a restart.
	// Default /var/cache/towpath.
	Cache string `json:"cache"`
	// Credentials say which secret serves where. The longest match wins; a
	// secretRef beside a URL or repository overrides them all.
	Credentials []Credential `json:"credentials,omitempty"`
	// Signing names the keys that vouch for images.
	Signing Signing `json:"signing"`
	// GitOps are the targets: where bumps are committed.
	GitOps []Target `json:"gitops"`
	// Builder says how images are built.
	Builder Builder `json:"builder"`
	// Events are told to Flux's notification-controller.
	Events Events `json:"events"`
	// LeaderElection lets one of several copies in a cluster work.
	LeaderElection LeaderElection `json:"leaderElection"`
	// Defaults hold for every image, key by key: what an image says itself
	// wins, maps are merged, lists are replaced. A name has no default.
	Defaults Image `json:"defaults,omitzero"`
	// Images are what is built and promoted.
	Images []Image `json:"images"`

	// File is where the config was read from, an absolute path. It is no key.
	File string `json:"-"`
}

// SecretRef names a secret: a directory below Config.Secrets.
type SecretRef struct {
	// Name is a DNS label.
	Name string `json:"name"`
}

// Credential is a secret for every URL or repository below a prefix.
type Credential struct {
	// Match is the prefix: a URL for git (https://host/path/, ssh://host/path/,
	// git@host:path/), or host/path for registries. It matches whole path
	// segments: …/apps does not match …/apps-old. Without a user an ssh match
	// serves every user.
	Match string `json:"match"`
	// SecretRef is the secret. For git it holds Flux's keys: identity and
	// known_hosts, username and password, bearerToken, ca.crt, tls.crt,
	// tls.key. For registries .dockerconfigjson, or username and password, and
	// perhaps ca.crt, tls.crt, tls.key.
	SecretRef SecretRef `json:"secretRef"`
}

// Signing names the keys that vouch for images.
type Signing struct {
	// Provenance signs the provenance of every image.
	Provenance Provenance `json:"provenance"`
}

// Provenance names the key that signs provenance.
type Provenance struct {
	// SecretRef is the secret that holds cosign.key (and cosign.password), or
	// key.pem: an ECDSA P-256 key.
	SecretRef SecretRef `json:"secretRef"`
}

// Target is a branch and a path of a GitOps repository.
type Target struct {
	// Name is unique among all Towpaths that write to the repository: a DNS
	// label. It is part of the ledger's refs, so renaming it starts anew.
	Name string `json:"name"`
	// URL of the repository: https, ssh, or git@host:path; http on loopback.
	URL string `json:"url"`
	// SecretRef is the repository's credential; without one Credentials serve.
	SecretRef SecretRef `json:"secretRef,omitzero"`
	// Git is spec.git of Flux's ImageUpdateAutomation. What Towpath needs of
	// it: checkout.ref.branch, commit.author.email and commit.signingKey. It
	// refuses checkout.ref by anything but a branch. push.branch is a branch
	// of the target's own, that no other target reads or proposes on, and not
	// below towpath/TARGET/, which git would take for the ledger.
	Git flux.GitSpec `json:"git"`
	// Update is spec.update of Flux's ImageUpdateAutomation: the strategy
	// Setters and the path below which markers are edited. Targets that read
	// one branch have paths apart, or policies apart: two cannot edit one
	// marker.
	Update flux.UpdateStrategy `json:"update"`
	// Verify says who may commit to this repository.
	Verify Verify `json:"verify"`
	// AfterRevert says what follows when a person takes a bump back. next: the
	// next source commit is promoted again. hold: nothing is, until an accept
	// says so. Default next.
	AfterRevert string `json:"afterRevert"`
	// Flux names the object of Flux that watches this repository. Left out: Flux
	// finds a bump when it polls next, and nobody is told of this target's events.
	Flux *Flux `json:"flux,omitempty"`
}

// The values of Target.AfterRevert.
const (
	RevertNext = "next"
	RevertHold = "hold"
)

// Verify says whose commits count.
type Verify struct {
	// Mode is none in this version: whatever is on the branch, as long as it
	// descends from what was promoted.
	Mode string `json:"mode"`
}

// VerifyNone is the one Verify.Mode of this version.
const VerifyNone = "none"

// Builder says how images are built.
type Builder struct {
	// Type is kubernetes: a Job for each build, in the cluster that Towpath runs
	// in; or sandbox: kaniko in an OCI runtime, on this machine. Default sandbox,
	// since build Jobs need images to be named first. The settings of the other
	// type may stay in the file.
	Type string `json:"type"`
	// Concurrency is how many builds run at once. 1 to 256; default 2. Of Jobs,
	// all that are at work in the namespace count, whoever made them.
	Concurrency int `json:"concurrency"`
	// Timeout ends a build: any of its three steps in the sandbox, the three
	// together in a Job, from when a node takes it. 1s to 24h; default 30m.
	Timeout time.Duration `json:"timeout"`
	// Egress names what build Jobs may reach besides public addresses: host:port,
	// as in git.internal:443, or a network or address, as in 10.1.2.0/24. The
	// link-local and metadata addresses are never among it. The NetworkPolicy
	// that `towpath init` writes is made of it.
	Egress []string `json:"egress,omitempty"`
	// Kaniko is the program that builds.
	Kaniko Kaniko `json:"kaniko"`
	// Sandbox bounds a build on this machine.
	Sandbox Sandbox `json:"sandbox"`
	// Kubernetes says how build Jobs run.
	Kubernetes Kubernetes `json:"kubernetes"`
	// Cache of layers, one per image.
	Cache LayerCache `json:"cache"`
}

// The values of Builder.Type.
const (
	BuilderSandbox    = "sandbox"
	BuilderKubernetes = "kubernetes"
)

// Kaniko is the program that builds.
type Kaniko struct {
	// Image is kaniko's in build Jobs, by digest: NAME@sha256:… Its executor is
	// /kaniko/executor.
	Image string `json:"image"`
	// Executor is the path of the sandbox's kaniko executor, a static program. A
	// relative path starts at this file's directory; a bare name is looked up in
	// PATH. Default executor.
	Executor string `json:"executor"`
	// Args are more arguments, each written --flag or --flag=value: such as
	// change neither where the image goes nor what is read. They are part of the
	// build key and of the provenance.
	Args []string `json:"args,omitempty"`
}

// Sandbox bounds a build on this machine.
type Sandbox struct {
	// Runtime is the OCI runtime: a path, or a name to look up in PATH.
	// Default runc.
	Runtime string `json:"runtime"`
	// Memory that a build may use, in bytes; written as 4Gi, 512M. At least
	// 64Mi; default 4Gi.
	Memory Bytes `json:"memory"`
	// PIDs is how many processes and threads a build may have. 16 to 4194304;
	// default 4096.
	PIDs int64 `json:"pids"`
	// Allow names what builds may reach in private ranges, which are otherwise
	// unreachable: host:port, as in registry.internal:5000, or a network or address,
	// as in 10.1.2.0/24; IPv4 alone.
	Allow []string `json:"allow,omitempty"`
}

// Bytes is a size in bytes, written as a Kubernetes quantity: 4Gi, 512M.
type Bytes int64

// LayerCache is the cache of layers.
type LayerCache struct {
	// Enabled is false in this version.
	Enabled bool `json:"enabled"`
}

// Image is one image: where its source is, how it is built, where it goes.
type Image struct {
	// Name is unique, a DNS label. It is part of the ledger's refs.
	Name string `json:"name"`
	// Source is what it is built from.
	Source Source `json:"source"`
	// Build says how.
	Build Build `json:"build"`
	// Destination is the registry's repository that it is pushed to.
	Destination Destination `json:"destination"`
	// TagTemplate makes the tag: a Go template over .Branch (made safe for a
	// tag), .Commit, .ShortCommit (12 digits), .CommitTime (UTC) and .Image.
	// It has no loops and must contain the commit. Default
	// {{ .Branch }}-{{ .ShortCommit }}-{{ .CommitTime.Unix }}.
	TagTemplate string `json:"tag"`
	// Policy is namespace:name, the marker that it edits:
	// # {"$imagepolicy": "namespace:name"}
	Policy string `json:"policy"`
	// Pin says what full markers hold. digest: name:tag@digest; tag: name:tag.
	// Default digest.
	Pin string `json:"pin"`
	// GitOps names the targets it goes to; default: every one.
	GitOps []string `json:"gitops"`
	// Start says what the first round does. build: promote what is there;
	// observe: note what is there, promote from the next change on. Default
	// build.
	Start string `json:"start"`
	// Suspend leaves this image alone.
	Suspend bool `json:"suspend"`
}

// The values of Image.Pin and Image.Start.
const (
	PinDigest    = "digest"
	PinTag       = "tag"
	StartBuild   = "build"
	StartObserve = "observe"
)

// Source is what an image is built from.
type Source struct {
	// URL of the repository: https, ssh, or git@host:path; http on loopback.
	URL string `json:"url"`
	// SecretRef is the repository's credential; without one Config.Credentials
	// serve.
	SecretRef SecretRef `json:"secretRef,omitzero"`
	// Branch that is followed. Default master.
	Branch string `json:"branch"`
	// Path is the build context inside the repository. Default ".", its root.
	Path string `json:"path"`
	// Watch says which paths, changed, ask for a new image: gitignore's
	// patterns from the repository's root, the last match wins, "/" is
	// everything. Default: the path, which has the Dockerfile and
	// .dockerignore in it.
	Watch []string `json:"watch"`
	// Verify says whose commits may be built.
	Verify Verify `json:"verify"`
	// Accept is a person's word for single commits: they pass the descent
	// check, are promoted once more if they were held, and are promoted first
	// where a long history does not say whether anything was before. It counts
	// once for a commit and a target, whatever is promoted later.
	Accept []Accept `json:"accept,omitempty"`
}

// Accept is a person's word for one commit.
type Accept struct {
	// Commit is its full hash: 40 hexadecimal digits.
	Commit string `json:"commit"`
	// Reason goes into the bump: one line.
	Reason string `json:"reason"`
}

// Build says how an image is built.
type Build struct {
	// Dockerfile, relative to the context. Default Dockerfile.
	Dockerfile string `json:"dockerfile"`
	// Target is the stage to build; empty: the last.
	Target string `json:"target"`
	// Args are build arguments. They end up in the image's provenance: no
	// place for secrets.
	Args map[string]string `json:"args,omitempty"`
	// Platforms to build for: one in this version. Default [linux/amd64].
	Platforms []string `json:"platforms"`
	// Pull lets base images be pulled that need a credential.
	Pull Pull `json:"pull,omitzero"`
}

// Pull lets a trusted step pull digest-pinned base images before the build,
// which itself never sees the credential.
type Pull struct {
	// SecretRef is a registry credential of its own, never the one that
	// pushes; empty: anonymous.
	SecretRef SecretRef `json:"secretRef,omitzero"`
	// Allow lists the repositories, host[:port]/path, that may be pulled. No
	// other is.
	Allow []string `json:"allow,omitempty"`
}

// Destination is a registry's repository.
type Destination struct {
	// Repository is host[:port]/path, without scheme and tag.
	Repository string `json:"repository"`
	// SecretRef is the registry's credential; without one Config.Credentials
	// serve, and then the standard keychains.
	SecretRef SecretRef `json:"secretRef,omitzero"`
	// Insecure allows plain HTTP with this registry, for base images from it
	// too; with any other, plain HTTP is for loopback alone.
	Insecure bool `json:"insecure"`
}

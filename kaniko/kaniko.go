// Package kaniko holds the nouns of building that every package below it
// shares: the order for a build, the key that tells two orders apart, the
// image that came of it, and what the three steps of a build are told.
//
// It and the packages below it know images and nothing of git: a commit is a
// name in an order.
package kaniko

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
)

// Order is everything that one build of one image depends on. It holds no
// secret and is written as JSON into build Jobs and build directories.
type Order struct {
	Image       string            `json:"image"`                // the image's name in the config, a DNS label
	Source      Source            `json:"source"`               // the commit that is built
	Path        string            `json:"path"`                 // the build context inside the repository; "." is its root
	Dockerfile  string            `json:"dockerfile"`           // relative to Path
	Target      string            `json:"target,omitempty"`     // the stage to build; empty: the last
	Args        map[string]string `json:"args,omitempty"`       // build arguments
	Platform    string            `json:"platform"`             // os/arch[/variant], as in linux/amd64
	KanikoArgs  []string          `json:"kanikoArgs,omitempty"` // further arguments of kaniko, see executor.CheckArguments
	Executor    string            `json:"executor"`             // digest of the kaniko executor or of its image, sha256:<hex>
	Policy      string            `json:"policy"`               // digest of the rules that the commit passed, sha256:<hex>
	Destination Destination       `json:"destination"`          // where the image goes
	Pull        Pull              `json:"pull,omitzero"`        // base images behind a credential
}

// Source says which commit is built.
type Source struct {
	URL    string    `json:"url"`    // without credentials
	Ref    string    `json:"ref"`    // the full ref the commit was read from
	Commit string    `json:"commit"` // 40 hexadecimal digits
	Time   time.Time `json:"time"`   // the commit's own committer time, not before 1970: the mtime of every file and the image's "created", where it can be true
}

// Destination says where an image goes.
type Destination struct {
	Repository string `json:"repository"`         // host[:port]/path, without tag
	Insecure   bool   `json:"insecure,omitempty"` // plain HTTP is allowed with this one registry
	Tag        string `json:"tag"`                // contains the commit
}

// Host is the registry that the repository is in: host[:port].
func (d Destination) Host() string {
	host, _, _ := strings.Cut(d.Repository, "/")
	return host
}

// Pull names the private base images that the trusted step before a build may
// fetch, by digest, with a credential of their own.
type Pull struct {
	Secret string   `json:"secret,omitempty"` // the secret's name, never its content
	Allow  []string `json:"allow,omitempty"`  // repositories: host[:port]/path
}

// Key identifies what is built: two orders with one key ask for the same
// image, wherever it goes and whatever it is called. 64 hexadecimal digits.
type Key string

// Key is the SHA-256 of the order's inputs, as canonical JSON (fields in the
// order of the declaration, map keys sorted). Where the image goes, its tag and
// the config's name for it are no part of it. Version is raised whenever the same
// inputs come to make another image, so that what was sealed before is not adopted.
// Version 1 had no arguments of kaniko.
func (o Order) Key() Key {
	inputs := struct {
		Version    int
		URL        string
		Commit     string
		Path       string
		Dockerfile string
		Target     string
		Args       map[string]string
		Platform   string
		KanikoArgs []string
		Executor   string
		Policy     string
	}{2, o.Source.URL, o.Source.Commit, o.Path, o.Dockerfile, o.Target, o.Args, o.Platform, o.KanikoArgs, o.Executor, o.Policy}
	if len(inputs.Args) == 0 {
		inputs.Args = nil
	}
	if len(inputs.KanikoArgs) == 0 {
		inputs.KanikoArgs = nil
	}
	encoded, err := json.Marshal(inputs)
	if err != nil {
		panic(fmt.Sprintf("kaniko: strings and maps of strings always encode: %v", err))
	}
	sum := sha256.Sum256(encoded)
	return Key(hex.EncodeToString(sum[:]))
}

// Image is an image in a registry, named by what cannot change.
type Image struct {
	Repository string // host[:port]/path
	Tag        string // the tag that names it; empty before it is sealed
	Digest     string // of its manifest, sha256:<hex>
	Provenance string // digest of the manifest that carries our provenance, sha256:<hex>; empty before it is sealed
	Size       int64  // compressed bytes: manifest, config and layers
}

// Ref is the image as a bump records it: repository:tag@digest.
func (i Image) Ref() string { return i.Repository + ":" + i.Tag + "@" + i.Digest }

// Result is an image and how it came about.
type Result struct {
	Image
	Started  time.Time // of the build; zero where the image was found
	Finished time.Time
	Run      string   // names the run of the build where it has a name: a Job and its UID
	Notices  []string // what a person should know: warnings of the Dockerfile, somebody else's image under our tag
}

// Fetch is what the first step of a build is told, as JSON in a file. The step
// holds the git credential and, where Pull is set, that of the base images.
type Fetch struct {
	Order      Order  `json:"order"`
	Context    string `json:"context"`              // directory to fill with the commit's files
	Bases      string `json:"bases"`                // directory for base images pulled by digest: kaniko's --cache-dir
	GitSecret  string `json:"gitSecret,omitempty"`  // directory of the git credential: a file per key
	PullSecret string `json:"pullSecret,omitempty"` // directory of the base images' credential
	Network    string `json:"network,omitempty"`    // directory for copies of the files that say how names are looked up; empty: none are made
	Reporting
}

// Publish is what the last step of a build is told, as JSON in a file. The
// step holds the registry credential and starts when nothing of the build runs.
type Publish struct {
	Order  Order  `json:"order"`
	Layout string `json:"layout"`           // directory of the OCI layout, written by the build: hostile
	Secret string `json:"secret,omitempty"` // directory of the registry credential
	Reporting
}

// Reporting says where a step writes its Report, as JSON.
type Reporting struct {
	Report      string `json:"report"`                // file
	ReportLimit int    `json:"reportLimit,omitempty"` // bytes that a reader takes; 0: no limit
}

// Report is what a step says at its end.
type Report struct {
	Order    string   `json:"order,omitempty"`    // digest of the order's file that it carried out, sha256:<hex>
	Digest   string   `json:"digest,omitempty"`   // publish: of the manifest it pushed, sha256:<hex>
	Size     int64    `json:"size,omitempty"`     // publish: compressed bytes
	Warnings []string `json:"warnings,omitempty"` // fetch: of the Dockerfile
	Error    string   `json:"error,omitempty"`    // why it failed, without secrets
	Hint     string   `json:"hint,omitempty"`     // what a person can do about it
	Fault    bool     `json:"fault,omitempty"`    // the failure is the commit's own: the same commit fails again
}

// Encode is the report as JSON of at most limit bytes (0: of any size; at least
// 1024). What does not fit is cut from the words, never from the digests.
func (r Report) Encode(limit int) ([]byte, error) {
	for {
		encoded, err := json.Marshal(r)
		over := len(encoded) - limit
		if err != nil || limit == 0 || over <= 0 {
			return encoded, err
		}
		longest := &r.Error
		if len(r.Hint) > len(r.Error) {
			longest = &r.Hint
		}
		switch {
		case len(r.Warnings) > 0:
			r.Warnings = r.Warnings[:len(r.Warnings)-1]
		case *longest == "":
			return nil, fmt.Errorf("a report of %d bytes cannot be cut to %d", len(encoded), limit)
		default:
			// JSON writes a byte as six at most, so this takes some rounds and cuts no
			// more than it must.
			keep := max(len(*longest)-max(over/6, 16), 0)
			for keep > 0 && !utf8.RuneStart((*longest)[keep]) {
				keep--
			}
			*longest = (*longest)[:keep]
		}
	}
}

// BuildError is a build that failed by its own fault: the same commit with the
// same config will fail again, so it waits for either to change.
type BuildError struct {
	Step string // fetch, build or publish
	Log  string // file that holds the whole output; empty if none was written
	Tail string // the last lines that tell why, cleaned
	Kept bool   // the builder itself remembers this failure, and returns it again when it is asked for the same build
	Err  error
}

func (e *BuildError) Error() string {
	text := e.Step + ": " + e.Err.Error()
	if e.Tail != "" {
		text += ": " + e.Tail
	}
	return text
}

func (e *BuildError) Unwrap() error { return e.Err }

// Hint says what to do, where the fault is known well enough, or where to read
// more.
func (e *BuildError) Hint() string {
	var own interface{ Hint() string }
	if errors.As(e.Err, &own) && own.Hint() != "" {
		return own.Hint()
	}
	switch {
	case e.Log != "":
		return "push a commit that builds, and nothing else is to be done; the whole output is in " + e.Log
	case e.Kept:
		return "push a commit that builds, and nothing else is to be done; towpath logs IMAGE prints the whole output, towpath retry IMAGE has this commit built again"
	default:
		return "mend the commit or its config: the same commit is not built again"
	}
}

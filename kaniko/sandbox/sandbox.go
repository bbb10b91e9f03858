// Package sandbox builds an image on one Linux machine without trusting what it
// builds. A build is three processes, one after the other: `towpath fetch` with
// the git credential, kaniko with nothing, `towpath publish` with the registry
// credential.
//
// What always holds: kaniko and the RUN steps it starts see no secret, in no
// file, variable, argument, keyring or socket; outside they are users that
// nobody else is, have their own processes, network and root directory, a handful
// of capabilities over those alone, and a filter over system calls; they reach
// public addresses only, and what Allow names. Their memory, processes, disk and
// time are bounded. When Run returns, whatever the outcome, nothing of the build
// is left but its log. Where a piece of that is missing, the build is refused.
//
// The package knows no git and no registry: both are the other two steps'.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/executor"
)

// Builder runs builds. Its exported fields must not change once it is used. It is
// safe for concurrent use, also by several processes that share Dir.
type Builder struct {
	Self     string // the towpath executable: runs `fetch` and `publish`
	Executor string // the kaniko executor: one static program
	Runtime  string // runc; empty: found in PATH
	Slirp    string // slirp4netns; empty: found in PATH

	Dir string // work and logs, disposable; made if missing, for root alone

	Memory  int64         // bytes of a build, without swap; 0: 4 GiB
	Disk    int64         // bytes that the files of a build may take; 0: 20 GiB
	Pids    int64         // processes and threads of a build; 0: 4096
	Timeout time.Duration // of each of the three steps; 0: 30 minutes

	// FirstID is where 256 ranges of 65536 user and group ids each begin. A build takes
	// one that no other build on this machine has. 0: 0x70000000.
	FirstID uint32
	Allow   []string // private addresses that builds may reach: host:port, address or CIDR

	Log      *slog.Logger      // what happens, not what builds print; nil: nowhere
	Progress func(line string) // called with each line that a build prints, cleaned; may be nil

	mu        sync.Mutex
	executor  executorFile
	installed executorFile // the copy in Dir, when it was last looked into
}

// Job is one build. The directories of secrets hold a file per key; they are
// named to the step that needs them and to no other.
type Job struct {
	Order      kaniko.Order
	GitSecret  string // empty: none
	PullSecret string // of base images; empty: none
	PushSecret string // empty: the standard keychains
}

// Built is an image that was pushed by its digest; nothing names it yet.
type Built struct {
	Digest   string   // of its manifest, sha256:<hex>
	Size     int64    // compressed bytes
	Warnings []string // of the Dockerfile
	Log      string   // file with all that the steps printed
	Times    Times
}

// Times says how long each step took.
type Times struct{ Fetch, Build, Publish time.Duration }

// Run fetches, builds and publishes. A build that failed by its own fault is a
// *kaniko.BuildError; any other error is the machinery's, and the same order may
// do better later. When the context is done, Run ends within seconds.
func (b *Builder) Run(ctx context.Context, job Job) (Built, error) {
	if err := b.ready(job); err != nil {
		return Built{}, err
	}
	p, err := b.claim()
	if err != nil {
		return Built{}, err
	}
	out, err := b.openOutput(job.Order)
	if err != nil {
		return Built{}, errors.Join(err, p.release())
	}
	log := b.log().With("image", job.Order.Image, "commit", job.Order.Source.Commit, "place", p.number)
	log.Info("build begins", "log", out.path())
	built, err := b.run(ctx, p, job, out)
	built.Log = out.path()
	if gone := p.removed(); gone != "" && err != nil && ctx.Err() == nil {
		err = hinted{
			fmt.Errorf("%s was removed while the build was at work: %s", gone, afterItsOutput(err)),
			"it is built again; the cache may be deleted at any time, at the price of the builds at work",
		}
	}
	if err != nil {
		out.say("towpath: %s", afterItsOutput(err))
	}
	if closeErr := out.close(); closeErr != nil {
		log.Warn("close build log", "error", closeErr)
	}
	if releaseErr := p.release(); releaseErr != nil {
		// The image is published: nothing is gained by failing now, and the next
		// build in this place clears it first.
		log.Error("clear build directory", "error", releaseErr)
	}
	return built, err
}

// afterItsOutput is what the build's log ends with: the error without the last lines
// of output, which stand right above it there.
func afterItsOutput(err error) string {
	var fault *kaniko.BuildError
	if errors.As(err, &fault) && fault.Tail != "" {
		return strings.TrimSuffix(err.Error(), ": "+fault.Tail)
	}
	return err.Error()
}

// run is the story. Dying between any two steps leaves a place for the next
// claim or Sweep to clear, and after the third an image that nothing names.
func (b *Builder) run(ctx context.Context, p *place, job Job, out *output) (Built, error) {
	var built Built
	began := time.Now()
	fetched, err := b.fetch(ctx, p, job, out)
	built.Warnings = fetched.Warnings
	built.Times.Fetch = time.Since(began)
	if err != nil {
		return built, err
	}
	began = time.Now()
	err = b.build(ctx, p, job, out)
	built.Times.Build = time.Since(began)
	if err != nil {
		return built, err
	}
	began = time.Now()
	published, err := b.publish(ctx, p, job, out)
	built.Digest, built.Size = published.Digest, published.Size
	built.Times.Publish = time.Since(began)
	return built, err
}

// fetch fills the context, and the bases where some are behind a credential.
func (b *Builder) fetch(ctx context.Context, p *place, job Job, out *output) (kaniko.Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout(), fmt.Errorf("not done within %s", b.timeout()))
	defer cancel()
	order := kaniko.Fetch{
		Order:      job.Order,
		Context:    p.path("box", "context"),
		Bases:      p.path("box", "bases"),
		GitSecret:  job.GitSecret,
		PullSecret: job.PullSecret,
		Reporting:  kaniko.Reporting{Report: p.path("private", "fetched.json")},
	}
	return b.step(ctx, p, "fetch", order, order.Report, out)
}

// publish pushes what the build left. No process of the build is alive.
func (b *Builder) publish(ctx context.Context, p *place, job Job, out *output) (kaniko.Report, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout(), fmt.Errorf("not done within %s", b.timeout()))
	defer cancel()
	order := kaniko.Publish{
		Order:     job.Order,
		Layout:    p.path("box", "out", "image"),
		Secret:    job.PushSecret,
		Reporting: kaniko.Reporting{Report: p.path("private", "published.json")},
	}
	report, err := b.step(ctx, p, "publish", order, order.Report, out)
	if err == nil && !strings.HasPrefix(report.Digest, "sha256:") {
		return report, errors.New("publish: its report names no digest")
	}
	return report, err
}

// ready refuses what can be refused before anything is done.
func (b *Builder) ready(job Job) error {
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	if err := executor.CheckOrder(job.Order); err != nil {
		return err
	}
	if err := b.checkIDs(); err != nil {
		return err
	}
	digest, err := b.ExecutorDigest()
	if err != nil {
		return err
	}
	if job.Order.Executor != "" && job.Order.Executor != digest {
		return fmt.Errorf("the order is for executor %s, and this machine has %s", job.Order.Executor, digest)
	}
	return nil
}

func (b *Builder) runtime() string { return or(b.Runtime, "runc") }
func (b *Builder) slirp() string   { return or(b.Slirp, "slirp4netns") }

func (b *Builder) memory() int64          { return or(b.Memory, 4<<30) }
func (b *Builder) disk() int64            { return or(b.Disk, 20<<30) }
func (b *Builder) pids() int64            { return or(b.Pids, 4096) }
func (b *Builder) timeout() time.Duration { return or(b.Timeout, 30*time.Minute) }
func (b *Builder) firstID() uint32        { return or(b.FirstID, firstID) }

func or[T comparable](value, otherwise T) T {
	var none T
	if value == none {
		return otherwise
	}
	return value
}

func (b *Builder) log() *slog.Logger {
	if b.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return b.Log
}

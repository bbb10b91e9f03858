package config

import (
	"net/url"
	"slices"
	"strings"
)

// Events are what Flux's notification-controller is told of images that go to
// targets with a Target.Flux: built, promoted, refused, failed. It is read when
// Towpath starts.
type Events struct {
	// Address of notification-controller, a URL. Default, in a cluster:
	// http://notification-controller.flux-system.svc.cluster.local./, and
	// elsewhere none.
	Address string `json:"address"`
}

// LeaderElection lets one of several copies of Towpath in a cluster work, while
// the others wait. It saves work and nothing more: the ledger sees to it that
// each commit is promoted once, however many copies work. It is read when
// Towpath starts.
type LeaderElection struct {
	// Enabled asks for the Lease "towpath" in the namespace that Towpath runs
	// in: true waits until it is held; false does without. Left out: true in a
	// pod whose service account may have the Lease, else false.
	Enabled *bool `json:"enabled,omitempty"`
}

// events checks where events go. What is told there is for everybody who may
// read alerts, and the address may be logged.
func (l *loader) events(at place, address string) {
	if address == "" {
		return
	}
	parsed, err := url.Parse(address)
	switch {
	case strings.Contains(address, "@"):
		l.flag(at, "holds a credential, which notification-controller does not ask for", "")
	case err != nil, parsed.Hostname() == "", parsed.RawQuery != "", parsed.Fragment != "",
		!slices.Contains([]string{"http", "https"}, parsed.Scheme):
		l.flag(at, "is no URL of a service", "as in http://notification-controller.flux-system.svc.cluster.local./")
	}
}

package job

import (
	"time"

	"k8s.io/client-go/tools/cache"
)

// What the tests look at from outside.
var (
	JobDiffers  = jobDiffers
	PodDiffers  = podDiffers
	OrderDigest = orderDigest
)

// Hurry gives builds less time to start than users have.
func (b *Builder) Hurry(patience time.Duration) { b.patience = patience }

// Glance has the events of a build that does not begin read sooner.
func (b *Builder) Glance(after time.Duration) { b.glance = after }

// Steady is how a builder asks what it watches.
func Steady(listWatch *cache.ListWatch) cache.ListerWatcher {
	return steady{listWatch, func(error) {}}
}

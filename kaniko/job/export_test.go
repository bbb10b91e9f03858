package job

import "time"

// What the tests look at from outside.
var (
	JobDiffers  = jobDiffers
	PodDiffers  = podDiffers
	OrderDigest = orderDigest
)

// Hurry gives builds less time to start than users have.
func (b *Builder) Hurry(patience time.Duration) { b.patience = patience }

package job

// What the tests look at from outside.
var (
	JobDiffers  = jobDiffers
	PodDiffers  = podDiffers
	OrderDigest = orderDigest
)

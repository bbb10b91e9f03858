package console

import "regexp"

// What kaniko says in its last line where it could not have an image that the
// Dockerfile starts from or copies out of.
var (
	onLoopback  = regexp.MustCompile(`\bdial tcp (127\.[0-9.]+|\[::1\]):`)
	unreachable = regexp.MustCompile(`no route to host|host is unreachable`)
	plainHTTP   = regexp.MustCompile(`server gave HTTP response to HTTPS client`)
	// Its own codes, or what a registry gives without any.
	unauthorised = regexp.MustCompile(`\b(UNAUTHORIZED|DENIED): |unexpected status code 40[13]\b`)
)

// Advice is what a person can do about kaniko's last line; empty: unknown. opener
// is the setting that lets builds reach a private address.
func Advice(verdict, opener string) string {
	const beforehand = "an image that build.pull.allow lists, pinned by digest in the Dockerfile, is fetched before the build"
	switch {
	case onLoopback.MatchString(verdict):
		return "a build has a loopback of its own and does not reach this machine's: " + beforehand
	case unreachable.MatchString(verdict):
		return "a build reaches no private address: " + opener + " opens one; or " + beforehand
	case unauthorised.MatchString(verdict):
		return "a build holds no credential: " + beforehand + ", with the credential of build.pull.secretRef"
	case plainHTTP.MatchString(verdict):
		return "base images come over HTTPS: plain HTTP is for the destination's own registry, with insecure: true"
	}
	return ""
}

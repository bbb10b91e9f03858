package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

var digestPattern = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// WriteBase puts an image into a directory of base images where kaniko finds it
// when a FROM is pinned by this digest: as a Docker archive named by the digest,
// which is the form that every release reads. The digest may be that of an index;
// the image is then the one of the platform that is built for.
func WriteBase(dir, digest string, image v1.Image) error {
	if !digestPattern.MatchString(digest) {
		return fmt.Errorf("base image: %q is not a digest", digest)
	}
	path := filepath.Join(dir, digest)
	// kaniko looks at the file's name and never at the tag inside.
	tag, err := name.NewTag("towpath.invalid/base:pinned")
	if err != nil {
		return err
	}
	if err := tarball.WriteToFile(path, tag, image); err != nil {
		_ = os.Remove(path) // half an image
		return fmt.Errorf("write base image %s: %w", digest, err)
	}
	return nil
}

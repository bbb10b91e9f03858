package dockerfile

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// Base is an image that kaniko will ask for.
type Base struct {
	Image    string // as the Dockerfile names it, variables replaced
	Digest   string // sha256:<hex> where it is pinned; empty otherwise
	CopyFrom bool   // named by COPY --from: kaniko pulls it from the registry and never looks into its cache directory
	Line     int    // of the instruction that asks first
}

// Bases returns the images that building the target asks for, each once, in the
// order of the Dockerfile: every FROM up to the target's, and every COPY --from
// that names an image. scratch and the names of stages are none.
func Bases(src []byte, build Build) ([]Base, error) {
	d, err := parse(src, build.Target)
	if err != nil {
		return nil, err
	}
	vars, err := d.variables(build)
	if err != nil {
		return nil, err
	}
	var bases []Base
	seen := map[string]bool{}
	add := func(image string, copyFrom bool, line int) error {
		ref, err := name.ParseReference(image, name.WeakValidation)
		if err != nil {
			return &SyntaxError{Line: line, Err: fmt.Errorf("base image %q: %w", image, err)}
		}
		key := fmt.Sprint(copyFrom, image)
		if seen[key] {
			return nil
		}
		seen[key] = true
		base := Base{Image: image, CopyFrom: copyFrom, Line: line}
		if pinned, ok := ref.(name.Digest); ok {
			base.Digest = pinned.DigestStr()
		}
		bases = append(bases, base)
		return nil
	}
	for i, s := range d.stages {
		image, err := expand(s.BaseName, vars)
		if err != nil {
			return nil, &SyntaxError{Line: line(s.Location), Err: fmt.Errorf("base image %q: %w", s.BaseName, err)}
		}
		if image == "" {
			return nil, &SyntaxError{Line: line(s.Location), Err: fmt.Errorf("base image %q is empty: a build argument is missing", s.BaseName)}
		}
		if image != "scratch" && !d.isStage(image, i) {
			if err := add(image, false, line(s.Location)); err != nil {
				return nil, err
			}
		}
		for _, command := range s.Commands {
			c, ok := command.(*instructions.CopyCommand)
			if !ok || c.From == "" || d.isStage(c.From, i) {
				continue
			}
			if index, err := strconv.Atoi(c.From); err == nil && index >= 0 && index < i {
				continue
			}
			if err := add(c.From, true, line(c.Location())); err != nil {
				return nil, err
			}
		}
	}
	return bases, nil
}

// isStage says whether a name is that of a stage before stage number i.
func (d *source) isStage(stageName string, i int) bool {
	for _, earlier := range d.stages[:i] {
		if earlier.Name != "" && earlier.Name == strings.ToLower(stageName) {
			return true
		}
	}
	return false
}

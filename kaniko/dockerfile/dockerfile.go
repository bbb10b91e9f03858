// Package dockerfile reads a Dockerfile before kaniko does: what kaniko would
// skip in silence although the image would differ, and which base images it
// will ask for.
//
// It runs nothing and reaches no network. Where kaniko and the Dockerfile
// reference disagree it says what kaniko does, because kaniko does the build.
// What it says holds for the releases up to Chainguard's 1.25 and for the
// fork that followed it: where they differ, for the one that does less.
package dockerfile

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// Build is what a Dockerfile is built with.
type Build struct {
	Args     map[string]string // build arguments
	Target   string            // the stage to build; empty: the last
	Platform string            // os/arch[/variant]; empty: nothing is said about platforms
}

// SyntaxError is a Dockerfile that cannot be built whatever it is built with:
// it does not parse, or has no stage of the target's name.
type SyntaxError struct {
	Line int // first line of the instruction; 0: of none in particular
	Err  error
}

func (e *SyntaxError) Error() string {
	if e.Line == 0 {
		return "Dockerfile: " + e.Err.Error()
	}
	return fmt.Sprintf("Dockerfile line %d: %v", e.Line, e.Err)
}

func (e *SyntaxError) Unwrap() error { return e.Err }

// PlatformArgs are the build arguments that the Dockerfile reference promises
// for every build, and TARGETSTAGE, by which BuildKit says which stage is asked
// for ("default" if none is): a stage that is not needed can leave its work out,
// since kaniko runs them all. kaniko sets none of them, so whoever starts kaniko
// passes these; an argument of the same name in the order wins.
func PlatformArgs(platform, target string) map[string]string {
	system, rest, _ := strings.Cut(platform, "/")
	architecture, variant, _ := strings.Cut(rest, "/")
	if system == "" || architecture == "" {
		return nil
	}
	args := map[string]string{"TARGETSTAGE": cmp.Or(target, "default")}
	for _, prefix := range []string{"TARGET", "BUILD"} {
		args[prefix+"PLATFORM"] = platform
		args[prefix+"OS"] = system
		args[prefix+"ARCH"] = architecture
		args[prefix+"VARIANT"] = variant
	}
	return args
}

// source is a parsed Dockerfile, cut after the stage that is built: kaniko runs
// every stage up to the target, needed or not, and none behind it.
type source struct {
	args   []instructions.ArgCommand // before the first FROM
	stages []stage
	escape rune
}

type stage struct {
	instructions.Stage
	nodes []*parser.Node // its instructions, FROM first
}

// MaxSize is how many bytes a Dockerfile may have: ten times what the largest of
// them have. Parsers, kaniko's among them, take time by the square of its size.
const MaxSize = 256 << 10

// maxInstructions bounds what is compared with each other: stages, above all.
const maxInstructions = 5_000

func parse(src []byte, target string) (*source, error) {
	if len(src) > MaxSize {
		return nil, &SyntaxError{Err: fmt.Errorf("it is larger than %d KiB", MaxSize>>10)}
	}
	parsed, err := parser.Parse(bytes.NewReader(src))
	if err != nil {
		return nil, syntaxError(err)
	}
	if n := len(parsed.AST.Children); n > maxInstructions {
		return nil, &SyntaxError{Err: fmt.Errorf("it has %d instructions, at most %d are read", n, maxInstructions)}
	}
	stages, args, err := instructions.Parse(parsed.AST, &linter.Linter{})
	if err != nil {
		return nil, syntaxError(err)
	}
	if len(stages) == 0 {
		return nil, &SyntaxError{Err: errors.New("there is no FROM")}
	}
	d := &source{args: args, escape: parsed.EscapeToken}
	for _, node := range parsed.AST.Children {
		if strings.EqualFold(node.Value, "from") {
			d.stages = append(d.stages, stage{Stage: stages[len(d.stages)]})
		}
		if n := len(d.stages); n > 0 {
			d.stages[n-1].nodes = append(d.stages[n-1].nodes, node)
		}
	}
	last := len(d.stages) - 1
	if target != "" {
		last = -1
		for i, s := range d.stages {
			// kaniko takes the first of that name.
			if strings.EqualFold(s.Name, target) {
				last = i
				break
			}
		}
		if last < 0 {
			return nil, &SyntaxError{Err: fmt.Errorf("there is no stage called %q", target)}
		}
	}
	d.stages = d.stages[:last+1]
	return d, nil
}

func syntaxError(err error) error {
	line := 0
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = located.Locations[0][0].Start.Line
	}
	// The parser's own prefix would name the line twice.
	text := err.Error()
	if _, rest, found := strings.Cut(text, "dockerfile parse error on line "); found {
		if _, rest, found = strings.Cut(rest, ": "); found {
			text = rest
		}
	}
	return &SyntaxError{Line: line, Err: errors.New(text)}
}

// variables are what kaniko expands FROM with: the defaults of the ARGs before
// the first FROM, then the build arguments, an empty one counting as none.
func (d *source) variables(build Build) (values, error) {
	given := values(PlatformArgs(build.Platform, build.Target))
	if given == nil {
		given = values{}
	}
	for name, value := range build.Args {
		given[name] = value
	}
	vars := values{}
	for _, command := range d.args {
		for _, arg := range command.Args {
			if arg.Value == nil {
				continue
			}
			value, err := unquote(*arg.Value)
			if err != nil {
				return nil, &SyntaxError{Line: line(command.Location()), Err: fmt.Errorf("ARG %s: %w", arg.Key, err)}
			}
			if value, err = expand(value, layered{above: given, below: vars}); err != nil {
				return nil, &SyntaxError{Line: line(command.Location()), Err: fmt.Errorf("ARG %s: %w", arg.Key, err)}
			}
			vars[arg.Key] = value
		}
	}
	for name, value := range given {
		if value != "" {
			vars[name] = value
		}
	}
	return vars, nil
}

// unquote takes one pair of quotes off, as kaniko does with a default.
func unquote(value string) (string, error) {
	if len(value) < 2 {
		return value, nil
	}
	first, last := value[0], value[len(value)-1]
	quoted := first == '"' || first == '\''
	switch {
	case quoted && last == first:
		return value[1 : len(value)-1], nil
	case quoted || last == '"' || last == '\'':
		return "", errors.New("quotes around the value must match")
	}
	return value, nil
}

// Bounds of what variables expand to: a few lines in which each doubles the one
// before it would otherwise take all memory there is.
const (
	maxExpanded  = 64 << 10 // bytes of a value, as of a line
	maxExpanding = 64 << 20 // bytes that it may come to on the way
)

// expand replaces variables as kaniko does: always with the default escape.
func expand(word string, vars env) (string, error) {
	tooLong := fmt.Errorf("it expands to more than %d bytes", maxExpanded)
	if expanding(word, vars) > maxExpanding {
		return "", tooLong
	}
	expanded, _, err := shell.NewLex(parser.DefaultEscapeToken).ProcessWord(word, vars)
	if err == nil && len(expanded) > maxExpanded {
		return "", tooLong
	}
	return expanded, err
}

// env looks variables up where they are: a file may have as many as it has words,
// and copying them for each takes the square of that.
type env interface{ shell.EnvGetter }

// values is an env of its own.
type values map[string]string

func (v values) Get(name string) (string, bool) {
	value, found := v[name]
	return value, found
}

func (v values) Keys() []string { return slices.Collect(maps.Keys(v)) }

// layered is one env over another.
type layered struct{ above, below values }

func (l layered) Get(name string) (string, bool) {
	if value, found := l.above[name]; found {
		return value, true
	}
	return l.below.Get(name)
}

func (l layered) Keys() []string { return append(l.above.Keys(), l.below.Keys()...) }

// reference is how a word names a variable: kaniko's names have letters of every
// script, and one that begins with a digit is digits alone.
var reference = regexp.MustCompile(`\$\{?(\p{Nd}+|[\pL\p{Nd}_]+)`)

// expanding is about how many bytes a word comes to at most while it is expanded.
func expanding(word string, vars env) float64 {
	longest := 0
	for _, name := range reference.FindAllStringSubmatch(word, -1) {
		value, _ := vars.Get(name[1])
		longest = max(longest, len(value))
	}
	references := float64(strings.Count(word, "$"))
	if _, braced, found := strings.Cut(word, "${"); found && strings.Contains(braced, "/") {
		// ${name//pattern/replacement}, where the replacement may hold such again.
		return math.Pow(float64(longest+len(word)), references)
	}
	return references*float64(longest) + float64(len(word))
}

func line(location []parser.Range) int {
	if len(location) == 0 {
		return 0
	}
	return location[0].Start.Line
}

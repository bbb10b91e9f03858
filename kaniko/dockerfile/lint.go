package dockerfile

import (
	"bytes"
	"fmt"
	"regexp"
	"sort"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Finding is an instruction that kaniko does not carry out as written.
type Finding struct {
	Line   int    // first line of the instruction
	Text   string // what kaniko does with it, and what to write instead
	Refuse bool   // the image would differ: it must not be built. Otherwise a warning
}

func (f Finding) String() string { return fmt.Sprintf("line %d: %s", f.Line, f.Text) }

// Lint returns what kaniko would skip in silence in the stages that it runs to
// build the target, by line. A flag that is not known to work is refused. The
// error is a SyntaxError.
//
// ONBUILD is looked into; the triggers of a base image are not in the
// Dockerfile and are not seen.
func Lint(src []byte, build Build) ([]Finding, error) {
	d, err := parse(src, build.Target)
	if err != nil {
		return nil, err
	}
	vars, err := d.variables(build)
	if err != nil {
		return nil, err
	}
	findings := directives(src, d.escape)
	result := d.result(vars)
	for i, s := range d.stages {
		l := stageLint{build: build, final: result[i], vars: vars, known: values{}}
		for _, node := range s.nodes {
			l.node(node)
		}
		findings = append(findings, l.findings...)
	}
	sort.SliceStable(findings, func(i, j int) bool { return findings[i].Line < findings[j].Line })
	return findings, nil
}

// directives looks at the comments before the first instruction.
func directives(src []byte, escape rune) []Finding {
	var directive parser.DirectiveParser
	found, err := directive.ParseAll(bytes.TrimPrefix(src, []byte("\ufeff")))
	if err != nil {
		return nil // the parser proper has already refused it
	}
	var findings []Finding
	for _, d := range found {
		line := d.Location[0].Start.Line
		switch d.Name {
		case "syntax":
			findings = append(findings, Finding{Line: line, Text: "# syntax= names a BuildKit frontend: kaniko has a parser of its own"})
		case "check":
			findings = append(findings, Finding{Line: line, Text: "# check= is for BuildKit: kaniko has no build checks"})
		case "escape":
			if escape != parser.DefaultEscapeToken {
				findings = append(findings, Finding{Line: line, Refuse: true, Text: "# escape= is honoured by kaniko's parser but not where it replaces variables: use the backslash"})
			}
		}
	}
	return findings
}

// result tells the stages whose files end up in the image: the one that is
// built and those it derives from.
func (d *source) result(vars values) map[int]bool {
	result := map[int]bool{}
	for at := len(d.stages) - 1; at >= 0; {
		result[at] = true
		base, err := expand(d.stages[at].BaseName, vars)
		if err != nil {
			break
		}
		next := -1
		for i, earlier := range d.stages[:at] {
			if earlier.Name != "" && earlier.Name == strings.ToLower(base) {
				next = i
				break
			}
		}
		at = next
	}
	return result
}

// stageLint goes through the instructions of one stage.
type stageLint struct {
	build    Build
	final    bool   // what the stage writes is in the image
	vars     values // for FROM, and for an ARG that repeats one of them
	known    values // ARG and ENV so far
	findings []Finding
}

func (l *stageLint) refuse(node *parser.Node, format string, args ...any) {
	l.findings = append(l.findings, Finding{Line: node.StartLine, Text: fmt.Sprintf(format, args...), Refuse: true})
}

func (l *stageLint) warn(node *parser.Node, format string, args ...any) {
	l.findings = append(l.findings, Finding{Line: node.StartLine, Text: fmt.Sprintf(format, args...)})
}

func (l *stageLint) node(node *parser.Node) {
	instruction := strings.ToUpper(node.Value)
	if instruction == "ONBUILD" && node.Next != nil && len(node.Next.Children) == 1 {
		inner := *node.Next.Children[0]
		inner.StartLine = node.StartLine
		if len(inner.Flags) == 0 {
			// The parser leaves the flags of the inner instruction with the outer one.
			inner.Flags = node.Flags
		}
		l.node(&inner)
		return
	}
	if len(node.Heredocs) > 0 {
		l.refuse(node, "%s with a here-document: kaniko runs it as an empty command or drops it; put the text into a file of the repository", instruction)
	}
	for _, flag := range node.Flags {
		flagName, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		l.flag(node, instruction, strings.ToLower(flagName), value)
	}
	switch instruction {
	case "ADD":
		l.add(node)
	case "ARG", "ENV":
		l.remember(node)
	case "MAINTAINER":
		l.warn(node, "MAINTAINER is skipped by kaniko: use LABEL org.opencontainers.image.authors")
	}
}

func (l *stageLint) flag(node *parser.Node, instruction, flag, value string) {
	switch instruction + " --" + flag {
	case "FROM --platform":
		l.platform(node, value)
	case "COPY --from", "COPY --chown", "COPY --chmod", "ADD --chown", "ADD --chmod",
		"HEALTHCHECK --interval", "HEALTHCHECK --timeout", "HEALTHCHECK --start-period", "HEALTHCHECK --retries":
	case "COPY --link", "ADD --link":
		l.warn(node, "%s --link changes nothing: kaniko has no such cache", instruction)
	case "ADD --checksum":
		l.refuse(node, "ADD --checksum is not checked by kaniko: fetch and check the file in a RUN step")
	case "COPY --exclude", "ADD --exclude":
		l.refuse(node, "%s --exclude is ignored by kaniko, which would copy everything: name the files or use .dockerignore", instruction)
	case "COPY --parents":
		l.refuse(node, "COPY --parents is ignored by kaniko, which would flatten the directories: copy each directory to its place")
	case "ADD --keep-git-dir":
		l.refuse(node, "ADD --keep-git-dir is for git repositories, which kaniko does not add")
	case "ADD --unpack":
		l.refuse(node, "ADD --unpack is ignored by kaniko: it unpacks local archives and no others")
	case "RUN --network":
		if value != "default" {
			l.refuse(node, "RUN --network=%s is ignored by kaniko: the step would run with the network of the build", value)
		}
	case "RUN --security":
		if value != "sandbox" {
			l.refuse(node, "RUN --security=%s is ignored by kaniko and would not be granted", value)
		}
	case "RUN --device":
		l.refuse(node, "RUN --device is ignored by kaniko: a build gets no device")
	case "RUN --mount":
		l.mount(node, value)
	case "HEALTHCHECK --start-interval":
		l.refuse(node, "HEALTHCHECK --start-interval is dropped by kaniko")
	default:
		l.refuse(node, "%s --%s is not known to work with kaniko", instruction, flag)
	}
}

// mount judges one --mount of a RUN. The oldest of the executors does none of
// them: the step runs as if the flag were not there.
func (l *stageLint) mount(node *parser.Node, value string) {
	kind := "bind"
	for _, field := range strings.Split(value, ",") {
		if key, v, _ := strings.Cut(field, "="); strings.EqualFold(strings.Trim(key, `" `), "type") {
			kind = strings.ToLower(strings.Trim(v, `" `))
		}
	}
	switch {
	case kind == "cache" && !l.final:
		l.warn(node, "RUN --mount=type=cache keeps no cache here: the step starts from nothing each time")
	case kind == "cache":
		l.refuse(node, "RUN --mount=type=cache is ignored by kaniko: what the step caches would be left in the image; do it in a stage of its own, or remove the files in the same step")
	case kind == "bind":
		l.refuse(node, "RUN --mount=type=bind is ignored by kaniko: use COPY")
	case kind == "tmpfs":
		l.refuse(node, "RUN --mount=type=tmpfs is ignored by kaniko: what the step writes there would be left in the image")
	case kind == "secret" || kind == "ssh":
		l.refuse(node, "RUN --mount=type=%s: a build has no secrets here", kind)
	default:
		l.refuse(node, "RUN --mount=type=%s is not known to work with kaniko", kind)
	}
}

func (l *stageLint) platform(node *parser.Node, value string) {
	platform, err := expand(value, l.vars)
	if err != nil {
		l.refuse(node, "FROM --platform=%s: %v", value, err)
		return
	}
	if l.build.Platform != "" && platform != l.build.Platform {
		l.refuse(node, "FROM --platform=%s is ignored by kaniko, which takes every base for %s", platform, l.build.Platform)
	}
}

// add looks for sources that are git repositories. Variables are replaced as
// far as they are known before the build.
func (l *stageLint) add(node *parser.Node) {
	var words []string
	for word := node.Next; word != nil; word = word.Next {
		words = append(words, word.Value)
	}
	for _, word := range words[:max(len(words)-1, 0)] {
		expanded, err := expand(word, l.known)
		if err != nil {
			expanded = word
		}
		if gitURL.MatchString(word) || gitURL.MatchString(expanded) {
			l.refuse(node, "ADD of a git repository (%s) is not done by kaniko: clone it in a RUN step at a fixed commit", strconv.QuoteToASCII(redact(word)))
		}
	}
}

// gitURL matches what BuildKit takes for a git repository: a scheme of git's,
// user@host:path, or a web address whose path ends in .git.
var gitURL = regexp.MustCompile(`(?i)^(?:(?:git|ssh|git\+[a-z]+)://|[a-z0-9_.-]+@[a-z0-9_.-]+:|https?://[^#?]*\.git/?(?:[#?].*)?$)`)

// redact drops what stands between scheme and host.
func redact(word string) string {
	scheme, rest, found := strings.Cut(word, "://")
	if !found {
		return word
	}
	if _, host, found := strings.Cut(rest, "@"); found {
		return scheme + "://" + host
	}
	return word
}

// remember keeps the value of an ARG or ENV for the instructions behind it.
func (l *stageLint) remember(node *parser.Node) {
	command, err := instructions.ParseCommand(node)
	if err != nil {
		return
	}
	set := func(key, value string) {
		if expanded, err := expand(value, l.known); err == nil {
			l.known[key] = expanded
		}
	}
	switch c := command.(type) {
	case *instructions.EnvCommand:
		for _, pair := range c.Env {
			set(pair.Key, pair.Value)
		}
	case *instructions.ArgCommand:
		for _, arg := range c.Args {
			given, ok := l.build.Args[arg.Key]
			switch {
			case ok:
				l.known[arg.Key] = given
			case arg.Value != nil:
				set(arg.Key, *arg.Value)
			default:
				l.known[arg.Key] = l.vars[arg.Key]
			}
		}
	}
}

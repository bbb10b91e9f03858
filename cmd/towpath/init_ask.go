package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/term"

	"towpath.dev/towpath/config"
)

// question is something that init must know.
type question struct {
	flag, asks string
	into       *string
}

// ask asks for what is missing, on a terminal; elsewhere it names every flag that
// is missing at once.
func (s *setup) ask() error {
	questions := []question{
		{"url", "URL of the GitOps repository", &s.url},
		{"email", "address that bumps are committed as", &s.email},
		{"towpath-image", "Towpath's own image, NAME@sha256:…", &s.towpath},
		{"kaniko-image", "kaniko's image, NAME@sha256:…", &s.kaniko},
	}
	file, ok := s.in.(*os.File)
	if !ok || !term.IsTerminal(int(file.Fd())) {
		var missing []string
		for _, q := range questions {
			if *q.into == "" {
				missing = append(missing, "--"+q.flag)
			}
		}
		if len(missing) > 0 {
			return usageError{errors.New(strings.Join(missing, ", ") + " is missing"), "on a terminal init asks for it; see towpath init --help"}
		}
		return nil
	}
	lines := bufio.NewScanner(file)
	for {
		if err := s.askAll(lines, questions); err != nil {
			return err
		}
		again, err := s.reject()
		if err != nil || !again {
			return err
		}
	}
}

// askAll asks for everything that has no answer.
func (s *setup) askAll(lines *bufio.Scanner, questions []question) error {
	for _, q := range questions {
		if err := s.askOne(lines, q); err != nil {
			return err
		}
	}
	for s.flux == "" && !s.noFlux {
		fmt.Fprint(s.err, "GitRepository of Flux that is asked to pull after a bump, NAMESPACE/NAME (empty: none): ")
		if lines.Scan() {
			s.flux = strings.TrimSpace(lines.Text())
		}
		s.noFlux = s.flux == ""
		if err := s.checkFlux(); err != nil {
			printLine(s.err, err.Error(), "")
			s.flux = ""
		}
	}
	for i := range s.images {
		image := &s.images[i]
		if image.source == "" && !image.unknown {
			fmt.Fprintf(s.err, "URL of the source of %s (empty: not now): ", image.name)
			if lines.Scan() {
				image.source = strings.TrimSpace(lines.Text())
			}
			image.unknown = image.source == ""
		}
	}
	if len(s.images) == 0 {
		s.images, s.first = append(s.images, proposal{branch: "master"}), true
	}
	if !s.first {
		return nil
	}
	image := &s.images[0]
	for _, q := range []question{
		{"image", "name of the first image", &image.name},
		{"image", "URL of its source", &image.source},
		{"image", "repository that it is pushed to, host/path", &image.repository},
	} {
		if err := s.askOne(lines, q); err != nil {
			return err
		}
	}
	image.policy = "flux-system:" + image.name
	return nil
}

// checkFlux tells whether the GitRepository has a namespace and a name.
func (s *setup) checkFlux() error {
	namespace, name, _ := strings.Cut(s.flux, "/")
	if s.flux != "" && (namespace == "" || name == "") {
		return usageError{fmt.Errorf("--flux-source: %q is not NAMESPACE/NAME", s.flux), "as in flux-system/flux-system"}
	}
	return nil
}

func (s *setup) askOne(lines *bufio.Scanner, q question) error {
	for *q.into == "" {
		fmt.Fprintf(s.err, "%s: ", q.asks)
		if !lines.Scan() {
			fmt.Fprintln(s.err)
			return usageError{fmt.Errorf("--%s is missing", q.flag), "see towpath init --help"}
		}
		*q.into = strings.TrimSpace(lines.Text())
	}
	return nil
}

// reject takes back the answers that no config may have, and says why.
func (s *setup) reject() (again bool, err error) {
	dir, err := os.MkdirTemp("", "towpath-init-")
	if err != nil {
		return false, fmt.Errorf("init: %w", err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "towpath.yaml")
	if err := writeFile(file, s.configText()); err != nil {
		return false, err
	}
	var problems config.Problems
	if _, err := config.Load(config.Options{File: file}); !errors.As(err, &problems) {
		return false, err
	}
	var wrong []*string
	for _, p := range problems {
		// What is not asked for is told when all is written.
		if flag, into := s.answer(p.Path); into != nil && *into != "" && s.asks(into) {
			printLine(s.err, flag+": "+p.Text, p.Hint)
			wrong = append(wrong, into)
		}
	}
	for _, into := range wrong {
		*into = ""
	}
	return len(wrong) > 0, nil
}

// asks tells whether ask asks for this.
func (s *setup) asks(into *string) bool {
	asked := []*string{&s.url, &s.email, &s.towpath, &s.kaniko, &s.flux}
	for i := range s.images {
		asked = append(asked, &s.images[i].source)
		if s.first {
			asked = append(asked, &s.images[i].name, &s.images[i].repository)
		}
	}
	return slices.Contains(asked, into)
}

// wrongAnswers says what is wrong with the config that was not written, by the
// flags that said it.
func (s *setup) wrongAnswers(err error) error {
	var problems config.Problems
	if !errors.As(err, &problems) {
		return err
	}
	var all several
	for _, p := range problems {
		p.File, p.Line = "", 0
		if flag, into := s.answer(p.Path); into != nil {
			all = append(all, usageError{errors.New(flag + ": " + p.Text), p.Hint})
		} else {
			all = append(all, hinted{fmt.Errorf("init: %w", p), p.Hint})
		}
	}
	return all
}

// answer is where a key of the config was answered.
func (s *setup) answer(path string) (flag string, into *string) {
	switch path {
	case "gitops[0].name":
		return "--target", &s.target
	case "gitops[0].url":
		return "--url", &s.url
	case "gitops[0].git.checkout.ref.branch":
		return "--branch", &s.branch
	case "gitops[0].git.commit.author.email":
		return "--email", &s.email
	case "gitops[0].update.path":
		return "--path", &s.path
	case "gitops[0].flux.gitRepository.namespace", "gitops[0].flux.gitRepository.name":
		return "--flux-source", &s.flux
	case "builder.kubernetes.image":
		return "--towpath-image", &s.towpath
	case "builder.kaniko.image":
		return "--kaniko-image", &s.kaniko
	}
	known := 0
	for i := range s.images {
		image := &s.images[i]
		if image.source == "" {
			continue // a comment
		}
		for key, into := range map[string]*string{
			"name": &image.name, "source.url": &image.source, "source.branch": &image.branch,
			"destination.repository": &image.repository, "policy": &image.policy,
		} {
			if path == fmt.Sprintf("images[%d].%s", known, key) {
				return fmt.Sprintf("--image %s: %s", image.name, key), into
			}
		}
		known++
	}
	return "", nil
}

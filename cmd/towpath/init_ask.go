package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/term"
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
	for _, q := range questions {
		if err := s.askOne(lines, q); err != nil {
			return err
		}
	}
	for i := range s.images {
		image := &s.images[i]
		if image.source == "" {
			fmt.Fprintf(s.err, "URL of the source of %s (empty: not now): ", image.name)
			if lines.Scan() {
				image.source = strings.TrimSpace(lines.Text())
			}
		}
	}
	if len(s.images) > 0 {
		return nil
	}
	image := proposal{branch: "master"}
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
	s.images = append(s.images, image)
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

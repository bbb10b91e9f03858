package main

import (
	"errors"
	"fmt"
	"io"

	"towpath.dev/towpath/config"
)

// Exit codes, as documented in the README.
const (
	exitOK     = 0 // all well
	exitFailed = 1 // something failed, was refused, or is broken
	exitUsage  = 2 // a mistake in the command line or the config
)

// exitCode is the code that an error ends the program with.
func exitCode(err error) int {
	var usage usageError
	var problems config.Problems
	if errors.As(err, &usage) || errors.As(err, &problems) {
		return exitUsage
	}
	return exitFailed
}

// usageError is a mistake in the command line, with what was probably meant.
type usageError struct {
	error
	hint string
}

func (e usageError) Hint() string  { return e.hint }
func (e usageError) Unwrap() error { return e.error }

// hinted is any other error that a person can act upon, with the next step.
type hinted struct {
	error
	hint string
}

func (h hinted) Hint() string  { return h.hint }
func (h hinted) Unwrap() error { return h.error }

// hintOf is what an error, of whatever package, says that a person can do; empty:
// it says nothing.
func hintOf(err error) string {
	var own interface{ Hint() string }
	if errors.As(err, &own) {
		return own.Hint()
	}
	return ""
}

// several are errors that each deserve a line of their own.
type several []error

func (s several) Error() string   { return errors.Join(s...).Error() }
func (s several) Unwrap() []error { return s }

// printError prints an error as its line and, where a person can act, its hint.
// Several errors, and the problems of a config, get a line and a hint each.
func printError(w io.Writer, err error) {
	var problems config.Problems
	if errors.As(err, &problems) {
		for _, problem := range problems {
			printLine(w, problem.Error(), problem.Hint)
		}
		return
	}
	var many several
	if errors.As(err, &many) {
		for _, one := range many {
			printError(w, one)
		}
		return
	}
	printLine(w, err.Error(), hintOf(err))
}

func printLine(w io.Writer, text, hint string) {
	fmt.Fprintf(w, "towpath: error: %s\n", oneLine(text))
	if hint != "" {
		fmt.Fprintf(w, "towpath: hint: %s\n", oneLine(hint))
	}
}

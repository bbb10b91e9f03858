package main

import (
	"errors"

	"towpath.dev/towpath/config"
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

//go:build !race

package e2e

import "testing"

func daemonBinary(*testing.T) string { return binary }

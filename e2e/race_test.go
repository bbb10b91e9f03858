//go:build race

package e2e

// raceFlags build the towpath under test as the test itself was built.
var raceFlags = []string{"-race"}

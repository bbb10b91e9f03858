package main

import (
	"encoding/json"
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"
)

// Set by the linker; see the Makefile.
var (
	version  = "unknown"
	revision = "unknown"
)

func newVersion(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print version, revision and Go version", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			return g.print(struct {
				Version  string `json:"version"`
				Revision string `json:"revision"`
				Go       string `json:"go"`
			}{version, revision, runtime.Version()}, func(w io.Writer) {
				fmt.Fprintf(w, "towpath %s (revision %s, %s)\n", version, revision, runtime.Version())
			})
		},
	}
}

// print writes a result to stdout in the form that --output asks for.
func (g *globals) print(result any, text func(io.Writer)) error {
	if g.output == "text" {
		text(g.out)
		return nil
	}
	encoder := json.NewEncoder(g.out)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(result)
}

// noArguments refuses arguments as a mistake in the command line.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usageError{fmt.Errorf("%s takes no argument, and got %q", cmd.CommandPath(), args[0]), "see " + cmd.CommandPath() + " --help"}
	}
	return nil
}

package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// samples are what several runs measured, in bytes or seconds.
type samples []float64

func (m samples) median() float64 {
	sorted := slices.Sorted(slices.Values(m))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// row is one line of the table.
type row struct {
	what    string
	ours    samples
	theirs  samples // nil: there is nothing to compare with
	against string
	unit    func(float64) string
	words   string // in place of ours, where that is no number
	others  string // in place of theirs
	goal    string // empty: told for what it is worth
	reached verdict
}

// verdict is whether a goal was reached.
type verdict string

func reached(yes bool) verdict {
	if yes {
		return "yes"
	}
	return "no"
}

func byteSize(n float64) string {
	switch {
	case n < 1<<10:
		return fmt.Sprintf("%.0f B", n)
	case n < 1<<20:
		return fmt.Sprintf("%.1f KiB", n/(1<<10))
	}
	return fmt.Sprintf("%.1f MiB", n/(1<<20))
}

func seconds(n float64) string {
	switch {
	case n < 1e-3:
		return fmt.Sprintf("%.0f µs", n*1e6)
	case n < 1e-1:
		return fmt.Sprintf("%.1f ms", n*1e3)
	case n < 1:
		return fmt.Sprintf("%.0f ms", n*1e3)
	}
	return fmt.Sprintf("%.2f s", n)
}

func number(n float64) string { return fmt.Sprintf("%.0f", n) }

func most(m samples) float64 { return slices.Max(m) }

// cells are a row's columns: what, Towpath's figure, what it is compared with
// and its figure, how many times as much that is, goal, reached.
func (r row) cells() []string {
	ours, theirs, ratio := r.words, r.others, ""
	if r.ours != nil {
		ours = r.figure(r.ours)
	}
	if r.theirs != nil {
		theirs = r.figure(r.theirs)
	}
	if r.ours != nil && r.theirs != nil {
		ratio = times(r.theirs.median() / r.ours.median())
	}
	if theirs != "" && r.against != "" {
		theirs = r.against + ": " + theirs
	}
	return []string{r.what, ours, theirs, ratio, r.goal, string(r.reached)}
}

// figure is the median, and the least and the greatest where they differ.
func (r row) figure(m samples) string {
	text, least, most := r.unit(m.median()), r.unit(slices.Min(m)), r.unit(slices.Max(m))
	if least != text || most != text {
		text += " (" + least + "–" + most + ")"
	}
	return text
}

func times(ratio float64) string {
	switch {
	case math.IsInf(ratio, 0) || math.IsNaN(ratio):
		return ""
	case ratio < 1:
		return "1/" + strings.TrimSuffix(times(1/ratio), "×")
	case ratio < 10:
		return fmt.Sprintf("%.1f×", ratio)
	}
	return fmt.Sprintf("%.0f×", ratio)
}

func heading() []string {
	return []string{"what", "towpath", "against", "ratio", "goal", "reached"}
}

// table is what was measured in one setting.
type table struct {
	title string
	rows  []row
}

func printText(out io.Writer, m machine, tables []table) {
	fmt.Fprintf(out, "%s, %s\n", m, time.Now().UTC().Format(time.DateOnly))
	for _, t := range tables {
		fmt.Fprintf(out, "\n%s\n\n", t.title)
		lines := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(lines, strings.ToUpper(strings.Join(heading(), "\t")))
		for _, r := range t.rows {
			fmt.Fprintln(lines, strings.Join(r.cells(), "\t"))
		}
		lines.Flush()
	}
	fmt.Fprintln(out, "\nFigures are medians, with the least and the greatest in brackets. Ratio: how many times as much the other needs.")
}

func printMarkdown(out io.Writer, m machine, tables []table) {
	for _, t := range tables {
		fmt.Fprintf(out, "%s:\n\n| %s |\n|---|---|---|---|---|---|\n", t.title, strings.Join(heading(), " | "))
		for _, r := range t.rows {
			fmt.Fprintf(out, "| %s |\n", strings.Join(r.cells(), " | "))
		}
		fmt.Fprintln(out)
	}
	fmt.Fprintf(out, "Medians of several runs side by side (least–greatest), %s, on %s.\n", time.Now().UTC().Format(time.DateOnly), m)
}

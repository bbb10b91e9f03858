package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestRunbookSaysWhatIsTried: the commands by which docs/runbook.md finds a
// thief's bumps are those that restart_key_stolen runs.
func TestRunbookSaysWhatIsTried(t *testing.T) {
	read := func(path string) string {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	_, after, found := strings.Cut(read("../docs/runbook.md"), "   ```sh\n   for bump in")
	block, _, ended := strings.Cut(after, "   ```\n")
	if !found || !ended {
		t.Fatal("the runbook has no such commands")
	}
	var commands strings.Builder
	for line := range strings.Lines("   for bump in" + block) {
		commands.WriteString(strings.TrimPrefix(line, "   "))
	}
	if want := strings.Replace(commands.String(), "cosign verify", `"$COSIGN" verify`, 1); !strings.Contains(read("testdata/script/restart_key_stolen.txtar"), want) {
		t.Errorf("the script does not run these:\n%s", want)
	}
}

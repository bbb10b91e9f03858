package config_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"towpath.dev/towpath/config"
)

// TestReadmeConfigsLoad: whoever pastes a config from the documents gets one
// that loads.
func TestReadmeConfigsLoad(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	configs := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		if !strings.HasPrefix(block[1], "apiVersion: towpath.dev/v1") {
			continue
		}
		configs++
		file := filepath.Join(t.TempDir(), "towpath.yaml")
		if err := os.WriteFile(file, []byte(block[1]), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := config.Load(config.Options{File: file}); err != nil {
			t.Errorf("a config in README.md does not load:\n%v", err)
		}
	}
	if configs == 0 {
		t.Error("README.md shows no config")
	}
}

package config

import (
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/viper"
	"go.yaml.in/yaml/v3"
)

const envPrefix = "TOWPATH"

// overlay lays the TOWPATH_ variables over what the files say: viper finds the
// variable of each setting, and its text is decoded as strictly as the file's.
// An empty variable says nothing. A variable that is no setting is a mistake,
// since whoever set it believes that it does something.
func (l *loader) overlay() {
	env := viper.New()
	env.SetEnvPrefix(envPrefix)
	env.SetEnvKeyReplacer(strings.NewReplacer(".", "_"))
	known := []string{envPrefix + "_TOOLS"} // where the Makefile and the tests find their tools
	for _, setting := range settings() {
		known = append(known, setting.variable)
		key := strings.Join(setting.keys, ".")
		env.MustBindEnv(key)
		if text := env.GetString(key); text != "" {
			l.set(setting, text)
		}
	}
	for _, entry := range os.Environ() {
		name, _, _ := strings.Cut(entry, "=")
		if strings.HasPrefix(name, envPrefix+"_") && !slices.Contains(known, name) && !serviceLink(name) {
			l.report.problems = append(l.report.problems, Problem{File: name, Text: "is no variable that Towpath reads", Hint: similar(name, known)})
		}
	}
}

// set decodes a variable's text into its setting, and has later problems with
// the setting name the variable.
func (l *loader) set(s setting, text string) {
	into := reflect.ValueOf(&l.config).Elem()
	for _, key := range s.keys {
		for _, field := range fieldsOf(into.Type()) {
			if field.key == key {
				into = into.Field(field.index)
				break
			}
		}
	}
	node := &yaml.Node{Kind: yaml.ScalarNode, Value: text}
	if into.Kind() == reflect.String {
		node.Style = yaml.DoubleQuotedStyle // it is text, whatever it looks like
	}
	path := strings.Join(s.keys, ".")
	d := &decoder{report: l.report, file: s.variable, visits: &l.visits}
	d.note(path, 0)
	d.decode(node, path, into)
	l.report.spots[place{l.file, path}] = spot{file: s.variable}
	if l.report.reported[place{s.variable, path}] {
		l.report.reported[place{l.file, path}] = true
	}
}

// serviceLink tells whether Kubernetes set the variable for a Service whose
// name begins with towpath: TOWPATH_SERVICE_HOST, TOWPATH_PORT_80_TCP_ADDR, …
func serviceLink(name string) bool {
	for _, mark := range []string{"_SERVICE_HOST", "_SERVICE_PORT", "_PORT"} {
		if strings.HasSuffix(name, mark) {
			return true
		}
	}
	for _, mark := range []string{"_SERVICE_PORT_", "_TCP", "_UDP", "_SCTP"} {
		if _, rest, ok := strings.Cut(name, mark); ok && (mark == "_SERVICE_PORT_" || slices.Contains([]string{"", "_ADDR", "_PORT", "_PROTO"}, rest)) {
			return true
		}
	}
	return false
}

// similar is a hint for a variable that nobody knows.
func similar(name string, known []string) string {
	if near := Similar(name, known); near != "" {
		return "did you mean " + near + "?"
	}
	return "a variable is " + envPrefix + "_ and the setting's path in capitals: builder.timeout is " + envPrefix + "_BUILDER_TIMEOUT"
}

package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Bounds on what one config may ask of the decoder. Aliases make a small file
// a large tree: the visits are counted, not the bytes.
const (
	maxFile   = 4 << 20 // bytes of one file
	maxFiles  = 4096    // files that are included
	maxVisits = 1 << 19 // nodes that are decoded
)

// decoder turns YAML into values of the schema's types, whose json tags are the
// keys, and reports whatever does not fit with its path and line. Keys keep
// their case, an unknown or repeated key is a problem, and a text that looks
// like a number or a truth value has to be quoted, lest 1.10 become 1.1.
//
// What a value already holds stays where the YAML says nothing: structs are
// filled field by field and maps key by key, lists are replaced.
type decoder struct {
	report *report // nil: what is wrong was reported before
	file   string
	fresh  func(*Image) // what an image holds before its own keys are read
	visits *int
}

// parse reads a file's only document; nil: there is none, and that was
// reported.
func parse(r *report, file string, src []byte) (root *yaml.Node) {
	r.files[file] = len(r.files)
	top := place{file: file}
	if len(src) > maxFile {
		r.add(top, fmt.Sprintf("is larger than %d MiB", maxFile>>20), "")
		return nil
	}
	decode := yaml.NewDecoder(bytes.NewReader(src))
	var document yaml.Node
	switch err := decode.Decode(&document); {
	case errors.Is(err, io.EOF), err == nil && len(document.Content) == 0:
		r.add(top, "is empty", "")
		return nil
	case err != nil:
		r.syntax(file, err)
		return nil
	}
	var second yaml.Node
	switch err := decode.Decode(&second); {
	case errors.Is(err, io.EOF):
	case err != nil:
		r.syntax(file, err)
		return nil
	default:
		r.problems = append(r.problems, Problem{File: file, Line: second.Line, Text: "holds a second YAML document", Hint: "put it into a file of its own and name that under include"})
	}
	return document.Content[0]
}

// syntax reports what the YAML parser says: "yaml: line 3: did not find …".
func (r *report) syntax(file string, err error) {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	problem := Problem{File: file, Text: "is not YAML: " + text}
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		if number, said, ok := strings.Cut(rest, ": "); ok {
			if line, err := strconv.Atoi(number); err == nil {
				problem.Line, problem.Text = line, "is not YAML: "+said
			}
		}
	}
	if strings.Contains(text, "character that cannot start any token") {
		problem.Hint = "YAML is indented with spaces, and a text that begins with @, ` or % needs quotes"
	}
	r.problems = append(r.problems, problem)
}

func (d *decoder) problem(path, text, hint string) {
	if d.report != nil {
		d.report.add(place{d.file, path}, text, hint)
	}
}

func (d *decoder) note(path string, line int) {
	if d.report != nil {
		d.report.spots[place{d.file, path}] = spot{d.file, line}
	}
}

// decode fills into from the node.
func (d *decoder) decode(node *yaml.Node, path string, into reflect.Value) {
	if *d.visits++; *d.visits > maxVisits {
		return // the loader says so
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch into.Kind() {
	case reflect.Pointer:
		if isNull(node) {
			return
		}
		if into.IsNil() {
			into.Set(reflect.New(into.Type().Elem()))
		}
		d.decode(node, path, into.Elem())
	case reflect.Struct:
		if quantity, ok := into.Addr().Interface().(*resource.Quantity); ok {
			d.quantity(node, path, quantity)
			return
		}
		d.structure(node, path, into)
	case reflect.Map:
		d.mapping(node, path, into)
	case reflect.Slice:
		d.list(node, path, into)
	default:
		d.scalar(node, path, into)
	}
}

// pairs calls do for each key of a mapping, once.
func (d *decoder) pairs(node *yaml.Node, path string, do func(key, value *yaml.Node)) {
	if isNull(node) {
		return // a key whose content is commented out
	}
	if node.Kind != yaml.MappingNode {
		hint := ""
		if node.Kind == yaml.ScalarNode && strings.HasSuffix(path, "secretRef") {
			hint = "a secret is named by {name: NAME}"
		}
		d.problem(path, "is "+kindOf(node)+", not a map of keys", hint)
		return
	}
	first := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		switch {
		case key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge":
			d.problemAt(key, path, "has a merge key (<<)", "write the keys out, or put what images share under defaults")
			continue
		case key.Kind != yaml.ScalarNode:
			d.problemAt(key, path, "has "+kindOf(key)+" for a key", "")
			continue
		case key.ShortTag() != "!!str":
			d.problemAt(key, path, "has "+kindOf(key)+" for a key: "+quote(key.Value), "put it in quotes")
			continue
		}
		if line, again := first[key.Value]; again {
			d.problemAt(key, step(path, key.Value), fmt.Sprintf("is written twice, first on line %d", line), "")
			continue
		}
		first[key.Value] = key.Line
		do(key, value)
	}
}

// problemAt reports a problem on a node's own line. It does not spoil what else
// is at the path.
func (d *decoder) problemAt(node *yaml.Node, path, text, hint string) {
	if d.report != nil {
		d.report.problems = append(d.report.problems, Problem{File: d.file, Line: node.Line, Path: path, Text: text, Hint: hint})
	}
}

func (d *decoder) structure(node *yaml.Node, path string, into reflect.Value) {
	fields := fieldsOf(into.Type())
	d.pairs(node, path, func(key, value *yaml.Node) {
		at := step(path, key.Value)
		for _, field := range fields {
			if field.key == key.Value {
				d.note(at, key.Line)
				d.decode(value, at, into.Field(field.index))
				return
			}
		}
		if comesLater(into.Type(), key.Value) {
			d.problemAt(key, at, "is not in this version", "take it out: it comes with a later one")
			return
		}
		d.problemAt(key, at, "is no key", suggest(into.Type(), key.Value))
	})
}

func (d *decoder) mapping(node *yaml.Node, path string, into reflect.Value) {
	d.pairs(node, path, func(key, value *yaml.Node) {
		at := step(path, key.Value)
		d.note(at, key.Line)
		element := reflect.New(into.Type().Elem()).Elem()
		d.decode(value, at, element)
		if into.IsNil() {
			into.Set(reflect.MakeMap(into.Type()))
		}
		into.SetMapIndex(reflect.ValueOf(key.Value).Convert(into.Type().Key()), element)
	})
}

// quantity reads an amount as Kubernetes writes it.
func (d *decoder) quantity(node *yaml.Node, path string, into *resource.Quantity) {
	if isNull(node) || node.Kind != yaml.ScalarNode {
		d.problem(path, "is "+kindOf(node)+", not an amount", "a number and perhaps its unit: 500m, 2, 512Mi, 4Gi")
		return
	}
	parsed, err := resource.ParseQuantity(node.Value)
	if err != nil {
		d.problem(path, quote(node.Value)+" is no amount", "a number and perhaps its unit: 500m, 2, 512Mi, 4Gi")
		return
	}
	*into = parsed
}

func (d *decoder) list(node *yaml.Node, path string, into reflect.Value) {
	if isNull(node) {
		return
	}
	if node.Kind != yaml.SequenceNode {
		d.problem(path, "is "+kindOf(node)+", not a list", "")
		return
	}
	all := reflect.MakeSlice(into.Type(), 0, min(len(node.Content), 1024))
	for i, item := range node.Content {
		if *d.visits > maxVisits {
			break
		}
		at := index(path, i)
		d.note(at, item.Line)
		element := reflect.New(into.Type().Elem())
		switch element := element.Interface().(type) {
		case *Image:
			d.fresh(element)
		case *Target:
			*element = targetDefaults()
		}
		d.decode(item, at, element.Elem())
		all = reflect.Append(all, element.Elem())
	}
	into.Set(all)
}

func (d *decoder) scalar(node *yaml.Node, path string, into reflect.Value) {
	tag := node.ShortTag()
	switch {
	case isNull(node):
		d.problem(path, "has no value", `"" is an empty text; a key that is left out has its default`)
		return
	case node.Kind != yaml.ScalarNode:
		d.problem(path, "is "+kindOf(node)+", not "+wanted(into), "")
		return
	}
	switch value := into.Addr().Interface().(type) {
	case *time.Duration:
		parsed, err := time.ParseDuration(node.Value)
		if err != nil {
			d.problem(path, quote(node.Value)+" is no duration", "a number and its unit: 90s, 5m, 1h30m")
			return
		}
		*value = parsed
		return
	case *Bytes:
		quantity, err := resource.ParseQuantity(node.Value)
		if err != nil {
			d.problem(path, quote(node.Value)+" is no size", "a number and perhaps its unit: 512Mi, 4Gi, 4G")
			return
		}
		*value = Bytes(quantity.Value())
		return
	}
	switch into.Kind() {
	case reflect.String:
		if tag != "!!str" {
			d.problem(path, "is "+kindOf(node)+", not text", "put it in quotes: "+quote(node.Value))
			return
		}
		into.SetString(node.Value)
	case reflect.Bool:
		if tag != "!!bool" {
			d.problem(path, "is "+kindOf(node)+", not true or false", "write true or false, without quotes")
			return
		}
		into.SetBool(strings.EqualFold(node.Value, "true"))
	case reflect.Int, reflect.Int32, reflect.Int64:
		number, err := strconv.ParseInt(node.Value, 10, into.Type().Bits())
		if tag != "!!int" || err != nil {
			d.problem(path, "is "+kindOf(node)+", not a whole number", "")
			return
		}
		into.SetInt(number)
	default:
		panic("config: the schema has a type that the decoder does not know: " + into.Type().String())
	}
}

func isNull(node *yaml.Node) bool {
	return node.Kind == yaml.ScalarNode && node.ShortTag() == "!!null"
}

func kindOf(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a map"
	case yaml.SequenceNode:
		return "a list"
	}
	switch node.ShortTag() {
	case "!!str":
		return "text"
	case "!!bool":
		return "a truth value"
	case "!!int", "!!float":
		return "a number"
	case "!!null":
		return "nothing"
	case "!!timestamp":
		return "a date"
	default:
		return "a value of type " + quote(node.Tag)
	}
}

func wanted(into reflect.Value) string {
	switch into.Interface().(type) {
	case time.Duration:
		return "a duration"
	case Bytes:
		return "a size"
	}
	switch into.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "a whole number"
	default:
		return "text"
	}
}

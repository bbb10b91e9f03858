package config

import (
	"reflect"
	"slices"
	"strings"
	"time"
)

// field is one key of a struct of the schema.
type field struct {
	key   string
	index int
}

// fieldsOf are the keys of a type: its json tags, in the order of the
// declaration. Flux's types and ours are read alike.
func fieldsOf(t reflect.Type) []field {
	var fields []field
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
		if key != "" && key != "-" {
			fields = append(fields, field{key, i})
		}
	}
	return fields
}

// comesLater tells of keys that the design has and this version does not
// enforce, so that whoever writes one learns more than that it is unknown.
func comesLater(t reflect.Type, key string) bool {
	var later []string
	if t == reflect.TypeFor[Verify]() {
		later = []string{"introduction", "firstParent", "reviewed", "secretRef", "signers", "forges"}
	}
	return slices.Contains(later, key)
}

// suggest is a hint for an unknown key: one of nearly the same name, or the
// place where the key belongs.
func suggest(t reflect.Type, key string) string {
	var keys []string
	for _, field := range fieldsOf(t) {
		keys = append(keys, field.key)
	}
	if near := Similar(key, keys); near != "" {
		return "did you mean " + near + "?"
	}
	if path := within(t, key, ""); path != "" {
		return "did you mean " + path + "?"
	}
	return ""
}

// within looks for a key in the structs below t, nearest first.
func within(t reflect.Type, key, path string) string {
	var deeper []func() string
	for _, field := range fieldsOf(t) {
		at := step(path, field.key)
		if field.key == key && path != "" {
			return at
		}
		if below := t.Field(field.index).Type; below.Kind() == reflect.Struct {
			deeper = append(deeper, func() string { return within(below, key, at) })
		}
	}
	for _, look := range deeper {
		if found := look(); found != "" {
			return found
		}
	}
	return ""
}

// setting is a key that a TOWPATH_ variable may overlay: a scalar that is in
// no list and no map.
type setting struct {
	keys     []string
	variable string
}

// settings are all the keys that variables may overlay. What a file is, which
// files belong to it and what lies below defaults is for files alone.
func settings() []setting {
	var all []setting
	var walk func(t reflect.Type, keys []string)
	walk = func(t reflect.Type, keys []string) {
		for _, field := range fieldsOf(t) {
			below, at := t.Field(field.index).Type, append(slices.Clone(keys), field.key)
			if below.Kind() == reflect.Pointer && below.Elem().Kind() != reflect.Struct {
				below = below.Elem() // a scalar that may be left out
			}
			switch {
			case len(keys) == 0 && slices.Contains([]string{"apiVersion", "kind", "defaults"}, field.key):
			case below.Kind() == reflect.Struct:
				walk(below, at)
			case below.Kind() == reflect.String, below.Kind() == reflect.Bool,
				below.Kind() == reflect.Int, below.Kind() == reflect.Int64, below == reflect.TypeFor[time.Duration]():
				all = append(all, setting{at, envPrefix + "_" + strings.ToUpper(strings.Join(at, "_"))})
			}
		}
	}
	walk(reflect.TypeFor[Config](), nil)
	return all
}

package bump

import (
	"fmt"
	"reflect"
	"regexp"
	"slices"
)

// Bounds of what a template's function is given and makes. A text that is put
// into itself thirty times takes all memory there is, long before it is said.
const (
	maxValue = 8 << 20  // weight of what one call makes
	maxWork  = 64 << 20 // product of the two heaviest values that it is given: what replacing one by the other comes to
)

// multiplying are the functions that put one of their arguments many times into
// another. What the others make is about as heavy as what they are given.
var multiplying = []string{
	"join", "replace", "wrapWith",
	"regexReplaceAll", "regexReplaceAllLiteral", "mustRegexReplaceAll", "mustRegexReplaceAllLiteral",
}

var failure = reflect.TypeFor[error]()

// bounded is a function that refuses to make much out of little.
func bounded(name string, function any) any {
	call := reflect.ValueOf(function)
	kind := call.Type()
	var in []reflect.Type
	for i := range kind.NumIn() {
		in = append(in, kind.In(i))
	}
	signature := reflect.FuncOf(in, []reflect.Type{kind.Out(0), failure}, kind.IsVariadic())
	refuse := func() []reflect.Value {
		return []reflect.Value{reflect.Zero(kind.Out(0)), reflect.ValueOf(tooMuch(name))}
	}
	return reflect.MakeFunc(signature, func(args []reflect.Value) []reflect.Value {
		if slices.Contains(multiplying, name) && work(args, kind.IsVariadic()) > maxWork {
			return refuse()
		}
		var out []reflect.Value
		if kind.IsVariadic() {
			out = call.CallSlice(args)
		} else {
			out = call.Call(args)
		}
		if weight(out[0], maxValue) > maxValue {
			return refuse()
		}
		if len(out) == 1 {
			out = append(out, reflect.Zero(failure))
		}
		return out
	}).Interface()
}

// work is the product of the two heaviest arguments' weights.
func work(args []reflect.Value, variadic bool) int {
	if last := len(args) - 1; variadic && last >= 0 {
		rest := args[last]
		args = args[:last:last]
		for i := range rest.Len() {
			args = append(args, rest.Index(i))
		}
	}
	first, second := 0, 0
	for _, arg := range args {
		switch w := weight(arg, maxWork); {
		case w > first:
			first, second = w, first
		case w > second:
			second = w
		}
	}
	return first * second
}

// weight is about how many bytes a value says, counted no further than a little
// over the limit. One that is nested without an end in sight weighs more than any
// limit: it may hold itself.
func weight(value reflect.Value, limit int) int { return weigh(value, limit, maxNested) }

const maxNested = 1_000

func weigh(value reflect.Value, limit, depth int) int {
	if depth == 0 {
		return limit + 1
	}
	depth--
	sum := 1
	switch value.Kind() {
	case reflect.String:
		sum += value.Len()
	case reflect.Slice, reflect.Array:
		if value.Kind() == reflect.Slice && value.Type().Elem().Kind() == reflect.Uint8 {
			return sum + value.Len()
		}
		for i := 0; i < value.Len() && sum <= limit; i++ {
			sum += weigh(value.Index(i), limit-sum, depth)
		}
	case reflect.Map:
		for entry := value.MapRange(); sum <= limit && entry.Next(); {
			sum += weigh(entry.Key(), limit, depth)
			sum += weigh(entry.Value(), limit-sum, depth)
		}
	case reflect.Interface, reflect.Pointer:
		if !value.IsNil() {
			sum += weigh(value.Elem(), limit-sum, depth)
		}
	case reflect.Struct:
		for i := 0; i < value.NumField() && sum <= limit; i++ {
			sum += weigh(value.Field(i), limit-sum, depth)
		}
	}
	return sum
}

// wide is a width or precision in a format that makes much out of little.
var wide = regexp.MustCompile(`\*|[0-9]{4}`)

func printf(format string, args ...any) (string, error) {
	if wide.MatchString(format) {
		return "", tooMuch("printf")
	}
	return fmt.Sprintf(format, args...), nil
}

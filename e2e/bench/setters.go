package main

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/kube-openapi/pkg/validation/spec"
	"sigs.k8s.io/kustomize/kyaml/fieldmeta"
	"sigs.k8s.io/kustomize/kyaml/kio"
	"sigs.k8s.io/kustomize/kyaml/kio/kioutil"
	"sigs.k8s.io/kustomize/kyaml/openapi"
	"sigs.k8s.io/kustomize/kyaml/yaml"
)

// What image-automation-controller does with kyaml (its package internal/update,
// Apache-2.0, cannot be imported) told again in short: files that mention the
// token are parsed, marked scalars are set, files with a change are written back
// whole.

const (
	shortHand    = "$imagepolicy"
	extensionKey = "x-k8s-cli"
)

// prepareSetters sets kyaml's global state as the controller does.
func prepareSetters() {
	fieldmeta.SetShortHandRef(shortHand)
	openapi.SuppressBuiltInSchemaUse()
}

// applySetters sets a policy's markers below a directory to an image, and
// returns how many values changed.
func applySetters(dir, policy, image string) (changed int, err error) {
	schema := &spec.Schema{}
	schema.Definitions = map[string]spec.Schema{fieldmeta.SetterDefinitionPrefix + policy: setterSchema(policy, image)}
	s := &setters{schema: schema}
	err = kio.Pipeline{
		Inputs:  []kio.Reader{screeningReader(dir)},
		Outputs: []kio.Writer{&kio.LocalPackageWriter{PackagePath: dir}},
		Filters: []kio.Filter{s},
	}.Execute()
	return s.changed, err
}

func setterSchema(name, value string) spec.Schema {
	schema := spec.StringProperty()
	schema.Extensions = map[string]any{}
	schema.Extensions.Add(extensionKey, map[string]any{"setter": map[string]string{"name": name, "value": value}})
	return *schema
}

// screeningReader reads the YAML files of a directory that mention the token.
type screeningReader string

func (root screeningReader) Read() ([]*yaml.RNode, error) {
	var all []*yaml.RNode
	err := filepath.Walk(string(root), func(path string, info fs.FileInfo, err error) error {
		if err != nil || info.IsDir() {
			return err
		}
		if ext := filepath.Ext(path); ext != ".yaml" && ext != ".yml" {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(content, []byte(`"`+shortHand+`"`)) {
			return err
		}
		name, err := filepath.Rel(string(root), path)
		if err != nil {
			return err
		}
		nodes, err := (&kio.ByteReader{
			Reader: bytes.NewReader(content), PreserveSeqIndent: true,
			SetAnnotations: map[string]string{kioutil.PathAnnotation: name},
		}).Read()
		all = append(all, nodes...)
		return err
	})
	return all, err
}

// setters sets every marked scalar of what passes through it, and lets pass on
// what lies in files with a change.
type setters struct {
	schema  *spec.Schema
	changed int
}

// Filter implements kio.Filter.
func (s *setters) Filter(nodes []*yaml.RNode) ([]*yaml.RNode, error) {
	touched := map[string]bool{}
	paths := make([]string, len(nodes))
	for i, node := range nodes {
		path, _, err := kioutil.GetFileAnnotations(node)
		if err != nil {
			return nil, err
		}
		paths[i] = path
		before := s.changed
		if err := s.visit(node); err != nil {
			return nil, err
		}
		if s.changed > before {
			touched[path] = true
		}
	}
	var passed []*yaml.RNode
	for i, node := range nodes {
		if touched[paths[i]] {
			passed = append(passed, node)
		}
	}
	return passed, nil
}

func (s *setters) visit(node *yaml.RNode) error {
	switch node.YNode().Kind {
	case yaml.DocumentNode:
		return s.visit(yaml.NewRNode(node.YNode()))
	case yaml.MappingNode:
		return node.VisitFields(func(field *yaml.MapNode) error { return s.visit(field.Value) })
	case yaml.SequenceNode:
		return node.VisitElements(s.visit)
	case yaml.ScalarNode:
		return s.set(node)
	}
	return nil
}

func (s *setters) set(node *yaml.RNode) error {
	meta := fieldmeta.FieldMeta{SettersSchema: s.schema}
	if err := meta.Read(node); err != nil || meta.IsEmpty() {
		return nil //nolint:nilerr // as the controller does: a comment that says something else
	}
	if meta.Schema.Ref.String() != "" {
		if found, err := openapi.Resolve(&meta.Schema.Ref, s.schema); err == nil && found != nil {
			meta.Schema = *found
		}
	}
	extension := meta.Schema.Extensions[extensionKey]
	if extension == nil {
		return nil
	}
	encoded, err := json.Marshal(extension)
	if err != nil {
		return err
	}
	var found struct{ Setter *struct{ Value string } }
	if err := json.Unmarshal(encoded, &found); err != nil || found.Setter == nil {
		return err
	}
	if node.YNode().Value != found.Setter.Value {
		s.changed++
	}
	node.YNode().Value = found.Setter.Value
	yaml.FormatNonStringStyle(node.YNode(), meta.Schema)
	return nil
}

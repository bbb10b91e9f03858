package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// places are where the config is looked for if nobody says where it is.
func places() []string { return []string{"./towpath.yaml", "/etc/towpath/towpath.yaml"} }

// Options say where the config is.
type Options struct {
	// File is its path; empty: ./towpath.yaml, then /etc/towpath/towpath.yaml.
	File string
}

// Load reads the config: the file, the files it includes, and the TOWPATH_
// variables of the environment over both. The error is Problems, all there are.
func Load(options Options) (*Config, error) {
	l := &loader{report: newReport(), config: configDefaults()}
	file, err := find(options.File)
	if err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(file)
	if err != nil {
		return nil, Problems{{File: file, Text: reason(err)}}
	}
	l.file, l.directory, l.config.File = file, filepath.Dir(absolute), absolute
	if l.read(file) {
		l.include()
		l.overlay()
		if l.visits > maxVisits {
			return nil, Problems{{File: file, Text: "unfolds to more than can be meant", Hint: "its aliases multiply: write out what they stand for"}}
		}
		l.validate()
	}
	if err := l.report.err(); err != nil {
		return nil, err
	}
	l.config.settle(l.directory)
	config := l.config // and no pointer into the loader, which knows every line
	return &config, nil
}

// loader is one reading of the config.
type loader struct {
	report    *report
	file      string // as it was named
	directory string // absolute: what relative paths start at
	config    Config
	defaults  *yaml.Node // of every image; nil: none
	origins   []place    // of config.Images, by index
	visits    int
}

// find is the config's path.
func find(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	for _, path := range places() {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, nil // what else is wrong with it, reading tells
		}
	}
	return "", Problems{{Text: "there is no " + strings.Join(places(), " and no "), Hint: "name the config with --config FILE"}}
}

// slurp reads a file of up to maxFile bytes and one more; false: what was wrong is
// reported.
func (l *loader) slurp(path string) ([]byte, bool) {
	src, err := readFile(path, maxFile+1)
	if err != nil {
		l.report.files[path] = len(l.report.files)
		hint := ""
		switch {
		case errors.Is(err, fs.ErrNotExist):
			hint = "name the config with --config FILE; `towpath init` writes one for a cluster"
		case errors.Is(err, fs.ErrPermission):
			hint = "let the user that runs towpath read it"
		}
		l.report.add(place{file: path}, reason(err), hint)
		return nil, false
	}
	return src, true
}

// reason is why the system refused, without the path, which stands before it.
func reason(err error) string {
	if errors.Is(err, fs.ErrNotExist) {
		return "does not exist"
	}
	return "cannot be read: " + plain(err).Error()
}

// read decodes the config's own file. False: there is nothing to go on with.
func (l *loader) read(file string) bool {
	src, ok := l.slurp(file)
	if !ok {
		return false
	}
	root := parse(l.report, file, src)
	if root == nil {
		return false
	}
	l.defaults = child(root, "defaults")
	l.decoder(file).decode(root, "", reflect.ValueOf(&l.config).Elem())
	for i := range l.config.Images {
		l.origins = append(l.origins, place{file, index("images", i)})
	}
	return root.Kind == yaml.MappingNode
}

func (l *loader) decoder(file string) *decoder {
	return &decoder{report: l.report, file: file, fresh: l.fresh, visits: &l.visits}
}

// fresh fills in what an image holds before its own keys are read. The file's defaults
// are decoded anew for each image, so that no two images share a map. What is wrong with
// the defaults is reported when they are read themselves.
func (l *loader) fresh(image *Image) {
	*image = imageDefaults()
	if l.defaults != nil {
		quiet := &decoder{visits: &l.visits}
		quiet.decode(l.defaults, "", reflect.ValueOf(image).Elem())
	}
}

// child is the value of a key of the root; nil: there is none.
func child(root *yaml.Node, key string) *yaml.Node {
	if root.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if root.Content[i].Value == key {
			return root.Content[i+1]
		}
	}
	return nil
}

// team is a file that the config includes.
type team struct {
	APIVersion string  `json:"apiVersion"`
	Kind       string  `json:"kind"`
	Images     []Image `json:"images"`
}

// include adds the images of the files that the config includes.
func (l *loader) include() {
	var files []string
	for i, pattern := range l.config.Include {
		at := place{l.file, index("include", i)}
		found, err := included(l.file, pattern)
		if err != nil {
			l.report.add(at, quote(pattern)+" is no pattern of file names", "")
			continue
		}
		if len(found) == 0 && !strings.ContainsAny(pattern, `*?[\`) {
			l.report.add(at, quote(pattern)+" does not exist", "")
		}
		for _, file := range found {
			if !slices.Contains(files, file) {
				files = append(files, file)
			}
		}
		if len(files) > maxFiles {
			l.report.add(at, fmt.Sprintf("includes more than %d files", maxFiles), "")
			return
		}
	}
	for _, file := range files {
		l.readTeam(file)
	}
}

// included are the files that a pattern names, without the config itself and
// without those an editor or a ConfigMap's mount hides behind a dot.
func included(config, pattern string) ([]string, error) {
	if !filepath.IsAbs(pattern) {
		pattern = filepath.Join(literal(filepath.Dir(config)), pattern)
	}
	found, err := filepath.Glob(pattern)
	return slices.DeleteFunc(found, func(file string) bool {
		return strings.HasPrefix(filepath.Base(file), ".") || filepath.Clean(file) == filepath.Clean(config)
	}), err
}

// literal keeps a directory's name from being read as a pattern.
func literal(directory string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(directory)
}

// readTeam adds the images of one included file.
func (l *loader) readTeam(file string) {
	src, ok := l.slurp(file)
	if !ok {
		return
	}
	root := parse(l.report, file, src)
	if root == nil {
		return
	}
	part := team{APIVersion: APIVersion, Kind: Kind}
	l.decoder(file).decode(root, "", reflect.ValueOf(&part).Elem())
	l.head(file, part.APIVersion, part.Kind)
	for i := range part.Images {
		l.origins = append(l.origins, place{file, index("images", i)})
	}
	l.config.Images = append(l.config.Images, part.Images...)
}

// below is a path that starts at a directory unless it is absolute.
func below(directory, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(directory, path)
}

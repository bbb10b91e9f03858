package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	flux "github.com/fluxcd/image-automation-controller/api/v1"
	"github.com/fluxcd/pkg/apis/meta"
	"github.com/google/go-containerregistry/pkg/name"
	"sigs.k8s.io/yaml"

	"towpath.dev/towpath/gitops/automation"
	"towpath.dev/towpath/gitops/marker"
)

// readFlux takes over what Flux's own image automation does, as a clone of the GitOps
// repository has it. What was given by a flag, as said tells, stays.
func (s *setup) readFlux(said func(flag string) bool) error {
	objects, err := readClone(s.fromFlux)
	if err != nil {
		return fmt.Errorf("init: --from-flux: %w", err)
	}
	update, err := s.chooseAutomation(objects)
	if err != nil {
		return err
	}
	if update.Spec.Update != nil && !said("path") {
		s.path = update.Spec.Update.Path
	}
	source, found := objects.SourceOf(update)
	if found {
		if s.url == "" {
			s.url = source.URL
		}
		if s.flux == "" && source.Namespace != "" {
			s.flux = source.Namespace + "/" + source.Name
		}
		if source.Secret != "" {
			s.advice = append(s.advice, fmt.Sprintf("%s uses Secret %s. Towpath's %s may hold the same key, if that may push; a key of its own is better.", source, source.Secret, s.fleet))
		}
	}
	if !said("branch") && source.Branch != "" {
		s.branch = source.Branch
	}
	if err := s.takeGit(update, said("branch"), said("email")); err != nil {
		return err
	}

	covered := map[marker.Policy]bool{}
	for policy, files := range objects.Markers {
		for _, file := range files {
			if slices.ContainsFunc(objects.Writers(policy, file, s.url), func(w automation.Update) bool { return w.String() == update.String() }) {
				covered[policy] = true
			}
		}
	}
	ordered := slices.SortedFunc(maps.Keys(covered), func(a, b marker.Policy) int { return strings.Compare(a.String(), b.String()) })
	for _, policy := range ordered {
		if err := s.propose(objects, policy); err != nil {
			return err
		}
	}
	s.objects, s.update = objects, update
	return nil
}

// farewell advises which objects of Flux have to be deleted. It comes after all
// questions, since only images whose source is known are taken over.
func (s *setup) farewell() {
	if s.objects == nil {
		return
	}
	taken := map[marker.Policy]bool{}
	var gone []automation.Object
	for _, image := range s.images {
		if image.source == "" {
			s.advice = append(s.advice, fmt.Sprintf("Where is the source of %s? It is a comment in towpath.yaml until that is known, and stays Flux's. To have it written with the Secrets it needs, remove what was written, if nothing of it is in use yet, and run this again with --image name=%[1]s,source=URL.", image.name))
			continue
		}
		policy, err := marker.ParsePolicy(image.policy)
		if err != nil {
			continue // the config's problem
		}
		taken[policy] = true
		for _, object := range s.objects.Of(policy) {
			if !slices.Contains(told(gone), object.String()) {
				gone = append(gone, object)
			}
		}
	}
	if len(s.left) > 0 {
		s.advice = append(s.advice, "Left to Flux: "+strings.Join(s.left, ", ")+". Others make what is in Docker Hub's library, and Towpath promotes what it builds from a source of yours. "+
			"What Flux has for them stays, and no image in towpath.yaml may name their policies. To build one of your own in the place of one, run this again with --image name=…,source=URL,repository=HOST/PATH,policy=NAMESPACE:NAME.")
	}
	if len(taken) == 0 {
		return
	}
	if s.writesMore(taken) {
		s.advice = append(s.advice, fmt.Sprintf("%s (%s) stays: it also writes markers of policies that are not taken over. It writes every marker %s whose ImagePolicy is in the cluster, so those that are named next have to be gone there before Towpath starts.", s.update, s.update.File, below(s.path)))
	} else {
		gone = append([]automation.Object{s.update.Object}, gone...)
	}
	if len(gone) > 0 {
		s.advice = append(s.advice, "In the same commit delete what Flux would write the same markers by: "+join(gone)+". Flux takes them out of the cluster where their Kustomization says prune: true; elsewhere take them out there, too. `towpath check` refuses images that still have two writers.")
	}
}

func told(objects []automation.Object) []string {
	var names []string
	for _, o := range objects {
		names = append(names, o.String())
	}
	return names
}

// writesMore tells whether an automation has work left without the policies that
// are taken over.
func (s *setup) writesMore(taken map[marker.Policy]bool) bool {
	for _, p := range s.objects.Policies {
		policy := marker.Policy{Namespace: p.Namespace, Name: p.Name}
		if taken[policy] {
			continue
		}
		for _, file := range s.objects.Markers[policy] {
			if slices.ContainsFunc(s.objects.Writers(policy, file, s.url), func(w automation.Update) bool { return w.String() == s.update.String() }) {
				return true
			}
		}
	}
	return false
}

// chooseAutomation is the automation that is taken over.
func (s *setup) chooseAutomation(objects *automation.Objects) (automation.Update, error) {
	var found []automation.Update
	var names []string
	for _, update := range objects.Updates {
		if s.automation != "" && update.Name != s.automation && update.Namespace+"/"+update.Name != s.automation {
			continue
		}
		found = append(found, update)
		names = append(names, update.String()+" ("+update.File+")")
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0:
		return automation.Update{}, hinted{fmt.Errorf("init: %s has no ImageUpdateAutomation %s", s.fromFlux, s.automation), "leave --from-flux out, and name the images by --image"}
	}
	return automation.Update{}, usageError{fmt.Errorf("%s has several: %s", s.fromFlux, strings.Join(names, ", ")), "name the one to take over by --automation NAMESPACE/NAME; the others become targets of their own later"}
}

// takeGit takes spec.git over as it is, except for the signing key: every bump is
// signed, with a key of Towpath's own.
func (s *setup) takeGit(update automation.Update, branchSaid, emailSaid bool) error {
	if update.Spec.GitSpec == nil {
		return nil
	}
	git := update.Spec.GitSpec.DeepCopy()
	if git.Checkout == nil {
		git.Checkout = &flux.GitCheckoutSpec{}
	}
	if git.Checkout.Reference.Branch == "" || branchSaid {
		git.Checkout.Reference.Branch = s.branch
	}
	if git.Push != nil && git.Push.Branch == git.Checkout.Reference.Branch {
		git.Push.Branch = "" // Flux is told so; to Towpath a branch is one for reviews
	}
	if git.Push != nil && git.Push.Branch == "" && git.Push.Refspec == "" && len(git.Push.Options) == 0 {
		git.Push = nil
	}
	if s.email == "" {
		s.email = git.Commit.Author.Email
	}
	git.Commit.Author.Email = s.email
	s.tellAuthor(update, git.Commit.Author, emailSaid)
	git.Commit.SigningKey = &flux.SigningKey{Type: flux.SigningKeyTypeSSH, SecretRef: meta.LocalObjectReference{Name: "towpath-signing"}}
	if template := git.Commit.MessageTemplate; template != "" {
		s.advice = append(s.advice, "The automation's messageTemplate was taken over. Without one Towpath says what a reviewer asks: the commits that come with the image, and its size.")
		if strings.Contains(template, ".Updated") {
			git.Commit.MessageTemplate = ""
			s.advice[len(s.advice)-1] = "The automation's messageTemplate uses .Updated, which Flux has removed: it was left out, and Towpath's own serves."
		}
	}
	encoded, err := yaml.Marshal(git)
	if err != nil {
		return fmt.Errorf("init: --from-flux: spec.git: %w", err)
	}
	s.git = string(encoded)
	return nil
}

// tellAuthor advises that bumps will bear the author that Flux's automation had, where
// no flag gave another.
func (s *setup) tellAuthor(update automation.Update, author flux.CommitUser, emailSaid bool) {
	whose := "the author"
	switch {
	case emailSaid && author.Name == "", author.Email == "":
		return
	case emailSaid:
		whose = "the name"
	}
	s.advice = append(s.advice, fmt.Sprintf("Bumps are committed as %s: %s was taken over from %s (%s), so they look like Flux's own. Another is for git.commit.author in towpath.yaml to say; the key that signs bumps has to be registered for the user of that address.",
		strings.TrimSpace(author.Name+" <"+author.Email+">"), whose, update, update.File))
}

// below is how people are told of an update.path.
func below(path string) string {
	if strings.Trim(path, "./") == "" {
		return "of the repository"
	}
	return "below " + path
}

// upstream tells whether an image is one of Docker Hub's library, such as redis,
// or of a copy of that: only its makers push there.
func upstream(image string) bool {
	repository, err := name.NewRepository(image)
	if err != nil {
		return false
	}
	host, path := repository.RegistryStr(), repository.RepositoryStr()
	hub := []string{name.DefaultRegistry, "docker.io", "registry-1.docker.io", "registry.hub.docker.com", "mirror.gcr.io"}
	return slices.Contains(hub, host) && strings.HasPrefix(path, "library/") || host == "public.ecr.aws" && strings.HasPrefix(path, "docker/library/")
}

// propose makes an image of a policy, unless --image says what it is. An image
// that others make is left to Flux.
func (s *setup) propose(objects *automation.Objects, policy marker.Policy) error {
	var repository automation.Repository
	for _, p := range objects.Policies {
		if p.Name == policy.Name && (p.Namespace == policy.Namespace || p.Namespace == "") {
			repository, _ = objects.RepositoryOf(p)
		}
	}
	into := &proposal{}
	for i := range s.images {
		if s.images[i].policy == policy.String() || s.images[i].policy == "" && s.images[i].name == policy.Name {
			into = &s.images[i]
		}
	}
	if into.name == "" && upstream(repository.Image) {
		s.left = append(s.left, fmt.Sprintf("%s (policy %s)", repository.Image, policy))
		return nil
	}
	if into.name == "" {
		s.images = append(s.images, proposal{name: strings.ReplaceAll(policy.Name, ".", "-"), branch: "master"})
		into = &s.images[len(s.images)-1]
	}
	into.policy = policy.String()
	if into.repository == "" && upstream(repository.Image) {
		return usageError{fmt.Errorf("--image %s: its repository is missing: %s is one of Docker Hub's library, which only its makers push to", into.name, repository.Image),
			"say where yours goes: repository=HOST/PATH"}
	}
	if into.repository == "" {
		into.repository = repository.Image
	}
	return nil
}

// readClone reads the YAML files of a work tree.
func readClone(dir string) (*automation.Objects, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	objects := &automation.Objects{}
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == ".git":
			return fs.SkipDir
		case !entry.Type().IsRegular() || !slices.Contains([]string{".yaml", ".yml"}, filepath.Ext(path)):
			return nil
		}
		info, err := entry.Info()
		if err != nil || info.Size() > 1<<20 {
			return err
		}
		content, err := root.ReadFile(path)
		if err == nil {
			objects.Add(path, content)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(objects.Updates)+len(objects.Policies)+len(objects.Markers) == 0 {
		return nil, errors.New(dir + " holds neither markers nor objects of Flux's image automation")
	}
	return objects, nil
}

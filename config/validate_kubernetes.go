package config

import (
	"fmt"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
)

// kubernetes checks how build Jobs run. What only the API server can judge, an
// affinity for one, `towpath check` asks it.
func (l *loader) kubernetes(path string, b *Builder) {
	k := &b.Kubernetes
	required := b.Type == BuilderKubernetes
	l.pinned(l.at("builder.kaniko.image"), b.Kaniko.Image, required)
	l.pinned(l.at(path+".image"), k.Image, required)
	l.label(l.at(path+".namespace"), k.Namespace)
	l.duration(path+".ttl", k.TTL)
	l.resources(path+".resources", &k.Resources)
	l.subdomain(l.at(path+".runtimeClassName"), k.RuntimeClassName)
	l.subdomain(l.at(path+".priorityClassName"), k.PriorityClassName)
	l.subdomain(l.at(path+".caBundle.configMap"), k.CABundle.ConfigMap)
	for _, key := range slices.Sorted(maps.Keys(k.NodeSelector)) {
		at := l.at(step(path+".nodeSelector", key))
		if len(validation.IsQualifiedName(key)) > 0 || len(validation.IsValidLabelValue(k.NodeSelector[key])) > 0 {
			l.flag(at, "is no label of a node", "as in kubernetes.io/arch: amd64")
		}
	}
	for i := range k.Tolerations {
		l.toleration(index(path+".tolerations", i), &k.Tolerations[i])
	}
	l.annotations(path+".annotations", k.Annotations)
	l.proxy(l.at(path+".proxy.http"), k.Proxy.HTTP)
	l.proxy(l.at(path+".proxy.https"), k.Proxy.HTTPS)
	if strings.ContainsFunc(k.Proxy.No, func(r rune) bool { return r <= ' ' && r != ' ' || r == '@' || r == 0x7f }) {
		l.flag(l.at(path+".proxy.no"), "is no list of hosts", "as in .svc,.cluster.local,10.0.0.0/8")
	}
	l.token(path+".identity.fetch", k.Identity.Fetch)
	l.token(path+".identity.publish", k.Identity.Publish)
}

// pinned checks an image that has to be named by its digest: what a tag names
// is for its registry to say, and a Job's containers are compared with it.
func (l *loader) pinned(at place, image string, required bool) {
	const hint = "as in registry.example.com/towpath@sha256:…; `crane digest IMAGE:TAG` prints the digest"
	if image == "" {
		if required && l.report.written(at) {
			l.flag(at, "is empty: build Jobs need it", hint)
		} else if required {
			l.flag(at, "is missing: build Jobs need it", hint)
		}
		return
	}
	if !strings.Contains(image, "@") {
		l.flag(at, quote(image)+" is not named by its digest", hint)
	} else if _, err := name.NewDigest(image); err != nil || strings.Contains(image, "://") {
		l.flag(at, quote(image)+" is no image with a digest", hint)
	}
}

// subdomain checks an optional name of an object.
func (l *loader) subdomain(at place, value string) {
	if value != "" && len(validation.IsDNS1123Subdomain(value)) > 0 {
		l.flag(at, quote(value)+" is no name of an object", "lower-case letters, digits, - and .")
	}
}

// resources checks the amounts that a build asks for and is given.
func (l *loader) resources(path string, r *corev1.ResourceRequirements) {
	if len(r.Claims) > 0 {
		l.flag(l.at(path+".claims"), "is not supported", "take it out: builds use no devices")
	}
	known := []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage}
	for _, list := range []struct {
		key     string
		amounts corev1.ResourceList
	}{{"requests", r.Requests}, {"limits", r.Limits}} {
		for _, resource := range slices.Sorted(maps.Keys(list.amounts)) {
			amount, at := list.amounts[resource], l.at(step(path+"."+list.key, string(resource)))
			if !slices.Contains(known, resource) {
				l.flag(at, "is no resource of a build", "cpu, memory or ephemeral-storage")
			} else if amount.Sign() <= 0 {
				l.flag(at, quote(amount.String())+" is not more than nothing", "")
			}
		}
	}
	for _, resource := range known {
		asked, given := r.Requests[resource], r.Limits[resource]
		sound := !l.report.blamed(l.at(step(path+".limits", string(resource))))
		if _, limited := r.Limits[resource]; limited && sound && asked.Cmp(given) > 0 {
			l.flag(l.at(step(path+".requests", string(resource))), fmt.Sprintf("%s is more than the limit, %s", asked.String(), given.String()), "the request may be as much as the limit")
		}
	}
}

// toleration checks what the API server would refuse in each build's pod.
func (l *loader) toleration(path string, t *corev1.Toleration) {
	switch operator := t.Operator; {
	case operator != "" && operator != corev1.TolerationOpEqual && operator != corev1.TolerationOpExists:
		l.flag(l.at(path+".operator"), quote(string(operator))+" is not Equal or Exists", "")
	case operator == corev1.TolerationOpExists && t.Value != "":
		l.flag(l.at(path+".value"), "has no place beside operator: Exists", "")
	case operator != corev1.TolerationOpExists && t.Key == "":
		l.flag(l.at(path+".key"), "is missing: only operator: Exists tolerates every taint", "")
	}
	if t.Key != "" && len(validation.IsQualifiedName(t.Key)) > 0 {
		l.flag(l.at(path+".key"), quote(t.Key)+" is no key of a taint", "")
	}
	if len(validation.IsValidLabelValue(t.Value)) > 0 {
		l.flag(l.at(path+".value"), quote(t.Value)+" is no value of a taint", "")
	}
	effects := []corev1.TaintEffect{"", corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute}
	if !slices.Contains(effects, t.Effect) {
		l.flag(l.at(path+".effect"), quote(string(t.Effect))+" is not NoSchedule, PreferNoSchedule or NoExecute", "")
	}
	if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
		l.flag(l.at(path+".tolerationSeconds"), "goes with effect: NoExecute", "")
	}
}

// annotations checks those of Jobs. Towpath's own say what a Job is to do.
func (l *loader) annotations(path string, annotations map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		at := l.at(step(path, key))
		prefix, _, prefixed := strings.Cut(strings.ToLower(key), "/")
		switch {
		case len(validation.IsQualifiedName(strings.ToLower(key))) > 0:
			l.flag(at, "is no key of an annotation", "as in example.com/team")
		case prefixed && (prefix == "towpath.dev" || strings.HasSuffix(prefix, ".towpath.dev")):
			l.flag(at, "is Towpath's own", "use another prefix")
		}
	}
	if apivalidation.ValidateAnnotationsSize(annotations) != nil {
		l.flag(l.at(path), fmt.Sprintf("is larger than the %d KiB that an object may have", apivalidation.TotalAnnotationSizeLimitB>>10), "")
	}
}

// proxy checks a proxy's URL. Every RUN step can read it.
func (l *loader) proxy(at place, text string) {
	if text == "" {
		return
	}
	parsed, err := url.Parse(text)
	switch {
	case strings.Contains(text, "@"):
		l.flag(at, "holds a credential, which every build could read", "let the proxy know builds by their namespace or address")
	case err != nil, parsed.Hostname() == "", parsed.RawQuery != "", parsed.Fragment != "", strings.Trim(parsed.Path, "/") != "",
		!slices.Contains([]string{"http", "https", "socks5", "socks5h"}, parsed.Scheme):
		l.flag(at, "is no URL of a proxy", "as in http://proxy.internal:3128")
	}
}

// token checks a workload identity's token. One that the API server accepts
// would be a credential for the cluster.
func (l *loader) token(at string, t Token) {
	if t.Audience == "" && t.Path != "" {
		l.flag(l.at(at+".audience"), "is missing: a token is for somebody", "as in sts.amazonaws.com")
	}
	if serverAudience(t.Audience) {
		l.flag(l.at(at+".audience"), quote(t.Audience)+" is the API server's own", "name the cloud's, as in sts.amazonaws.com")
	} else if strings.ContainsFunc(t.Audience, func(r rune) bool { return r <= ' ' || r == 0x7f }) {
		l.flag(l.at(at+".audience"), quote(t.Audience)+" is no audience", "")
	}
	const root = "/var/run/secrets/"
	switch {
	case t.Path == "":
	case path.Clean(t.Path) != t.Path, !strings.HasPrefix(t.Path, root), len(strings.Split(t.Path, "/")) < 6:
		l.flag(l.at(at+".path"), quote(t.Path)+" is no file in a directory below "+root, "as in "+DefaultTokenPath)
	case strings.HasPrefix(t.Path, root+"kubernetes.io/"):
		l.flag(l.at(at+".path"), quote(t.Path)+" is where programs look for a credential of the API server", "as in "+DefaultTokenPath)
	}
}

// serverAudience tells the names by which API servers commonly know themselves.
func serverAudience(audience string) bool {
	host := strings.TrimPrefix(strings.ToLower(audience), "https://")
	host, _, _ = strings.Cut(host, "/")
	host, _, _ = strings.Cut(host, ":")
	return audience == "api" || host == "kubernetes" || host == "kubernetes.default" || strings.HasPrefix(host, "kubernetes.default.")
}

// flux checks the object that watches a target's repository.
func (l *loader) flux(at string, f *Flux) {
	if f == nil {
		return
	}
	l.label(l.at(at+".gitRepository.namespace"), f.GitRepository.Namespace)
	if name := f.GitRepository.Name; l.notEmpty(l.at(at+".gitRepository.name"), name) {
		l.subdomain(l.at(at+".gitRepository.name"), name)
	}
}

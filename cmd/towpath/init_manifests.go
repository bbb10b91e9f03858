package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"towpath.dev/towpath/config"
	"towpath.dev/towpath/deploy"
	"towpath.dev/towpath/gitops"
)

// writeManifests writes the base of this version, and what is this cluster's own
// over it.
func (s *setup) writeManifests(ctx context.Context, dir string, cfg *config.Config) error {
	if err := os.CopyFS(filepath.Join(dir, "base"), deploy.Files); err != nil {
		return fmt.Errorf("init: %w", err)
	}
	files := map[string]string{
		"admission.yaml": s.admissionPatch(cfg),
		"daemon.yaml":    daemonPatch(cfg),
	}
	network := s.network(ctx, cfg)
	if network != "" {
		files["network.yaml"] = network
	}
	files["kustomization.yaml"] = s.kustomization(cfg, network != "")
	for name, content := range files {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return err
		}
	}
	return nil
}

func (s *setup) kustomization(cfg *config.Config, network bool) string {
	var b strings.Builder
	line := func(format string, values ...any) { fmt.Fprintf(&b, format+"\n", values...) }
	line("# Towpath in this cluster. base/ is as Towpath's version has it: `towpath init --renew`")
	line("# writes it anew.")
	line("apiVersion: kustomize.config.k8s.io/v1beta1")
	line("kind: Kustomization")
	line("resources:")
	line("  - base")
	if network {
		line("  - network.yaml")
	}
	if s.flux != "" {
		line("components:")
		line("  - base/flux")
	}
	line("configMapGenerator:")
	line("  - name: towpath")
	line("    namespace: towpath")
	line("    files: [towpath.yaml]")
	line("generatorOptions:")
	line("  disableNameSuffixHash: true # Towpath reads a changed config without a restart")
	line("  annotations:")
	line("    kustomize.toolkit.fluxcd.io/substitute: disabled")
	line("images:")
	name, digest, _ := strings.Cut(cfg.Builder.Kubernetes.Image, "@")
	if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
		name = name[:colon]
	}
	line("  - {name: towpath, newName: %s, digest: %s}", scalar(name), scalar(digest))
	line("patches:")
	line("  - path: admission.yaml")
	line("  - path: daemon.yaml")
	if s.flux != "" {
		b.WriteString(s.fluxPatches())
	}
	return b.String()
}

// fluxPatches name the one GitRepository.
func (s *setup) fluxPatches() string {
	namespace, name, _ := strings.Cut(s.flux, "/")
	return fmt.Sprintf(`  - target: {kind: Role, namespace: flux-system, name: towpath}
    patch: |
      - {op: replace, path: /metadata/namespace, value: %[1]s}
      - {op: replace, path: /rules/0/resourceNames, value: [%[2]s]}
  - target: {kind: RoleBinding, namespace: flux-system, name: towpath}
    patch: |
      - {op: replace, path: /metadata/namespace, value: %[1]s}
`, scalar(namespace), scalar(name))
}

// admissionPatch pins what builds are made of.
func (s *setup) admissionPatch(cfg *config.Config) string {
	k := cfg.Builder.Kubernetes
	var audiences []string
	for _, token := range []config.Token{k.Identity.Fetch, k.Identity.Publish} {
		if token.Audience != "" && !slices.Contains(audiences, token.Audience) {
			audiences = append(audiences, token.Audience)
		}
	}
	return fmt.Sprintf(`# What builds may be made of: as builder.kaniko.image, builder.kubernetes.image and
# the like in towpath.yaml.
apiVersion: v1
kind: ConfigMap
metadata:
  name: towpath-admission
  namespace: towpath
data:
  kaniko: %s
  towpath: %s
  caBundle: %q
  audiences: %q
`, scalar(cfg.Builder.Kaniko.Image), scalar(k.Image), k.CABundle.ConfigMap, strings.Join(audiences, " "))
}

// daemonPatch mounts the Secrets that are not in the base.
func daemonPatch(cfg *config.Config) string {
	var mounts, volumes strings.Builder
	for _, name := range daemonSecrets(cfg) {
		if name == "towpath-signing" || name == "towpath-provenance" {
			continue
		}
		volume := "secret-" + name
		if len(volume) > validation.DNS1123LabelMaxLength {
			volume = "secret-" + digestOf(name)
		}
		fmt.Fprintf(&mounts, "            - {name: %s, mountPath: /etc/towpath/secrets/%s, readOnly: true}\n", volume, name)
		fmt.Fprintf(&volumes, "        - {name: %s, secret: {secretName: %s, defaultMode: 0440}}\n", volume, scalar(name))
	}
	text := `# The Secrets that towpath.yaml names: add a line to both lists for each more.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: towpath
  namespace: towpath
spec:
  template:
    spec:
`
	if mounts.Len() == 0 {
		return text + "      containers:\n        - name: towpath\n"
	}
	return text + "      containers:\n        - name: towpath\n          volumeMounts:\n" + mounts.String() + "      volumes:\n" + volumes.String()
}

// opening is an address and, unless every port is meant, a port of it.
type opening struct {
	network netip.Prefix
	port    int
	what    string
}

// network is what the base does not open: private addresses for builds, unusual
// ports for Towpath; empty: nothing. A NetworkPolicy knows no names, so they are
// looked up now.
func (s *setup) network(ctx context.Context, cfg *config.Config) string {
	var hosts []string // host:port
	for i := range cfg.Images {
		hosts = append(hosts, gitHost(cfg.Images[i].Source.URL), registryHost(&cfg.Images[i]))
	}
	builds := s.look(ctx, hosts)
	for _, entry := range cfg.Builder.Egress {
		if network, err := netip.ParsePrefix(entry); err == nil {
			builds = append(builds, opening{network: network, what: entry})
		} else if address, err := netip.ParseAddr(entry); err == nil {
			builds = append(builds, opening{network: netip.PrefixFrom(address, address.BitLen()), what: entry})
		} else {
			builds = append(builds, s.look(ctx, []string{entry})...)
		}
	}
	builds = slices.DeleteFunc(builds, func(p opening) bool { return !private(p.network) })
	for i := range cfg.GitOps {
		hosts = append(hosts, gitHost(cfg.GitOps[i].URL))
	}
	var ports []int
	for _, host := range hosts {
		_, text, _ := net.SplitHostPort(host)
		if port, _ := strconv.Atoi(text); port > 0 && !slices.Contains([]int{22, 443, 6443}, port) && !slices.Contains(ports, port) {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	var all []string
	if len(builds) > 0 {
		all = append(all, buildsPolicy(builds))
	}
	if len(ports) > 0 {
		all = append(all, daemonPolicy(ports))
	}
	return strings.Join(all, "---\n")
}

// look finds the addresses of hosts.
func (s *setup) look(ctx context.Context, hosts []string) []opening {
	var found []opening
	for _, at := range hosts {
		host, text, err := net.SplitHostPort(at)
		if err != nil {
			continue
		}
		port, _ := strconv.Atoi(text)
		limited, cancel := context.WithTimeout(ctx, 5*time.Second)
		addresses, err := net.DefaultResolver.LookupNetIP(limited, "ip", host)
		cancel()
		if err != nil {
			s.advice = append(s.advice, fmt.Sprintf("%s has no address here, so network.yaml opens no way to it. If it has a private one in the cluster, name that: run this again with --egress ADDRESS:%[2]d, which is builder.egress: [\"ADDRESS:%[2]d\"] in towpath.yaml, "+
				"or add to the NetworkPolicy egress of namespace towpath-builds a rule - {to: [{ipBlock: {cidr: ADDRESS/32}}], ports: [{protocol: TCP, port: %[2]d}]}.", at, port))
			continue
		}
		for _, address := range addresses {
			address = address.Unmap()
			p := opening{network: netip.PrefixFrom(address, address.BitLen()), port: port, what: at}
			if !slices.Contains(found, p) {
				found = append(found, p)
			}
		}
	}
	return found
}

// private tells what the base's policy for builds leaves out. What is not an
// address that it could let through is not opened here either.
func private(network netip.Prefix) bool {
	a := network.Addr()
	if slices.ContainsFunc(config.NeverReached(), network.Overlaps) {
		return false // whatever the names say that lead there
	}
	shared := netip.MustParsePrefix("100.64.0.0/10")
	return a.IsPrivate() || shared.Contains(a) || network.Bits() < a.BitLen()
}

func buildsPolicy(places []opening) string {
	var b strings.Builder
	b.WriteString(`# What builds reach besides public addresses: their own git host and registry, and
# builder.egress.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: egress
  namespace: towpath-builds
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress:
`)
	var told []string
	for _, p := range places {
		rule := fmt.Sprintf("    - to: [{ipBlock: {cidr: %q}}] # %s\n", p.network, p.what)
		if p.port > 0 {
			rule += fmt.Sprintf("      ports: [{protocol: TCP, port: %d}]\n", p.port)
		}
		if !slices.Contains(told, rule) {
			told = append(told, rule)
			b.WriteString(rule)
		}
	}
	return b.String()
}

func daemonPolicy(ports []int) string {
	var b strings.Builder
	b.WriteString(`# Ports of git hosts and registries that are not the usual ones.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: ports
  namespace: towpath
spec:
  podSelector: {matchLabels: {app.kubernetes.io/name: towpath}}
  policyTypes: [Egress]
  egress:
    - to:
        - ipBlock: {cidr: 0.0.0.0/0, except: [169.254.0.0/16, 168.63.129.16/32, 100.100.100.200/32, 192.0.0.192/32]}
        - ipBlock: {cidr: "::/0", except: ["fe80::/10", "fd00:ec2::254/128"]}
      ports:
`)
	for _, port := range ports {
		fmt.Fprintf(&b, "        - {protocol: TCP, port: %d}\n", port)
	}
	return b.String()
}

// registryHost is host:port of an image's registry.
func registryHost(image *config.Image) string {
	host, _, _ := strings.Cut(image.Destination.Repository, "/")
	if _, _, err := net.SplitHostPort(host); err == nil {
		return host
	}
	if image.Destination.Insecure {
		return net.JoinHostPort(host, "80")
	}
	return net.JoinHostPort(host, "443")
}

// tell says what was made and what a person does next.
func (s *setup) tell(cfg *config.Config, keys madeKeys) error {
	type secret struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		From      string `json:"from,omitempty"`
		Keys      string `json:"keys,omitempty"`
	}
	var secrets []secret
	for _, name := range daemonSecrets(cfg) {
		one := secret{Namespace: "towpath", Name: name, Keys: s.keysOf(name)}
		switch name {
		case "towpath-signing":
			one.From, one.Keys = keys.signing, ""
		case "towpath-provenance":
			one.From, one.Keys = keys.provenance, ""
		}
		secrets = append(secrets, one)
	}
	for _, name := range buildSecrets(cfg) {
		secrets = append(secrets, secret{Namespace: cfg.Builder.Kubernetes.Namespace, Name: name, Keys: s.keysOf(name)})
	}
	return s.print(map[string]any{"written": s.out, "secrets": s.secrets, "needs": secrets, "advice": s.advice}, func(w io.Writer) {
		fmt.Fprintf(w, "Wrote %s, to be committed to the GitOps repository.\n\n", s.out)
		fmt.Fprintf(w, "PRIVATE KEYS are in %s. They are written nowhere else. NEVER COMMIT THEM as they are:\nencrypt them with SOPS, or put them where External Secrets finds them, then delete the directory.\n\n", s.secrets)
		fmt.Fprintf(w, "The cluster needs these Secrets (deploy/README.md of Towpath shows how, with SOPS and with External Secrets):\n\n")
		for _, one := range secrets {
			from := one.Keys
			if one.From != "" {
				from = "every file of " + one.From
			}
			fmt.Fprintf(w, "  %-15s %-20s %s\n", one.Namespace, one.Name, from)
		}
		fmt.Fprintf(w, "\nThe key that signs bumps. Register it with your forge as a signing key of Towpath's user:\n\n  %s\n", keys.public)
		for i, text := range s.advice {
			if i == 0 {
				fmt.Fprintln(w, "\nAnd:")
			}
			fmt.Fprintf(w, "\n- %s\n", gitops.Line(text, 0)) // it names objects as others wrote them
		}
		fmt.Fprintf(w, "\nNext: these Secrets, then a Flux Kustomization for %s: deploy/README.md of Towpath, 3 and 4.\n", s.out)
	})
}

func (s *setup) keysOf(name string) string {
	switch name {
	case s.registry:
		return ".dockerconfigjson, or username and password"
	case s.fleet:
		return "identity and known_hosts, or username and password; may push to the GitOps repository"
	default:
		return "identity and known_hosts, or username and password; may read the sources"
	}
}

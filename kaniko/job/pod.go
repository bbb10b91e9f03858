package job

import (
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"towpath.dev/towpath/kaniko/executor"
)

// Where the steps find what is theirs. kaniko's own places are the executor's.
const (
	orderDir          = "/order"
	fetchOrder        = "fetch.json"
	publishOrder      = "publish.json"
	workDir           = "/build"
	contextDir        = "context" // below workDir
	basesDir          = "bases"   // below workDir
	networkDir        = "/network"
	outDir            = "/out"
	temporaryDir      = "/tmp"
	gitSecretDir      = "/secrets/git"
	pullSecretDir     = "/secrets/pull"
	registrySecretDir = "/secrets/registry"
	authoritiesDir    = "/authorities"
	authoritiesKey    = "ca.crt"
	kanikoAuthorities = "/kaniko/.authorities"
)

// Volumes.
const (
	volumeFetchOrder     = "fetch-order"
	volumePublishOrder   = "publish-order"
	volumeWork           = "work"
	volumeOut            = "out"
	volumeNetwork        = "network"
	volumeKanikoShm      = "kaniko-shm"
	volumePublishShm     = "publish-shm"
	volumeFetchTmp       = "fetch-tmp"
	volumePublishTmp     = "publish-tmp"
	volumeGitSecret      = "git-secret"
	volumePullSecret     = "pull-secret"
	volumeRegistrySecret = "registry-secret"
	volumeAuthorities    = "authorities"
	volumeFetchToken     = "fetch-token"
	volumePublishToken   = "publish-token"
)

// serviceAccount of build pods has no rights, and its token is not mounted.
const serviceAccount = "build"

// maxReport is what the kubelet passes on of a step's last word.
const maxReport = 4096

// tokenLife is how long a workload identity's token serves; the kubelet renews
// it before.
const tokenLife = 3600

// capabilities are what unpacking an image and a package manager need as root.
// All are among those that Pod Security's baseline allows.
var capabilities = []corev1.Capability{"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID", "SETFCAP", "KILL"}

// podSpec is the pod of a build: the three steps, one after the other.
func podSpec(s Settings, what Job) corev1.PodSpec {
	seconds := int64(s.timeout().Seconds())
	spec := corev1.PodSpec{
		InitContainers: []corev1.Container{fetchContainer(s, what), kanikoContainer(s, what)},
		Containers:     []corev1.Container{publishContainer(s, what)},
		Volumes:        volumes(s, what),

		RestartPolicy: corev1.RestartPolicyNever,
		// The kubelet's deadline leaves the pod, and with it what it was at; the
		// Job's own is for pods that no node takes.
		ActiveDeadlineSeconds:         &seconds,
		TerminationGracePeriodSeconds: new(int64(5)),
		DNSPolicy:                     corev1.DNSClusterFirst,
		SchedulerName:                 corev1.DefaultSchedulerName,
		SecurityContext:               &corev1.PodSecurityContext{SeccompProfile: runtimeDefault()},

		ServiceAccountName:           serviceAccount,
		DeprecatedServiceAccount:     serviceAccount,
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),

		HostUsers:         s.HostUsers,
		NodeSelector:      s.NodeSelector,
		Tolerations:       s.Tolerations,
		Affinity:          s.Affinity.DeepCopy(),
		PriorityClassName: s.PriorityClassName,
	}
	if s.RuntimeClassName != "" {
		spec.RuntimeClassName = &s.RuntimeClassName
	}
	return spec
}

// fetchContainer brings the commit.
func fetchContainer(s Settings, what Job) corev1.Container {
	c := towpathContainer(s, stepFetch, fetchOrder)
	c.VolumeMounts = []corev1.VolumeMount{
		readOnly(volumeFetchOrder, orderDir),
		{Name: volumeWork, MountPath: workDir},
		{Name: volumeNetwork, MountPath: networkDir},
		{Name: volumeFetchTmp, MountPath: temporaryDir},
	}
	if what.GitSecret != "" {
		c.VolumeMounts = append(c.VolumeMounts, readOnly(volumeGitSecret, gitSecretDir))
	}
	if what.PullSecret != "" {
		c.VolumeMounts = append(c.VolumeMounts, readOnly(volumePullSecret, pullSecretDir))
	}
	trust(s, &c, authoritiesDir)
	identify(s.FetchToken, &c, volumeFetchToken)
	return c
}

// publishContainer pushes what the build left. No process of the build is alive
// then, and nothing that one could have written is mounted but its output.
func publishContainer(s Settings, what Job) corev1.Container {
	c := towpathContainer(s, stepPublish, publishOrder)
	c.VolumeMounts = []corev1.VolumeMount{
		readOnly(volumePublishOrder, orderDir),
		readOnly(volumeOut, outDir),
		{Name: volumePublishTmp, MountPath: temporaryDir},
		{Name: volumePublishShm, MountPath: "/dev/shm"},
	}
	if what.PushSecret != "" {
		c.VolumeMounts = append(c.VolumeMounts, readOnly(volumeRegistrySecret, registrySecretDir))
	}
	trust(s, &c, authoritiesDir)
	identify(s.PublishToken, &c, volumePublishToken)
	return c
}

// towpathContainer is what the steps before and after kaniko have in common.
//
// They are user 0, with no capability and no way to gain one. What fetch writes
// belongs to root in the image that is made of it, as with every other builder;
// and kaniko writes layers that their owner alone may read, so publish has to be
// their owner. It reads no file that a RUN step gave to somebody else.
func towpathContainer(s Settings, step, order string) corev1.Container {
	root := int64(0)
	return corev1.Container{
		Name: step, Image: s.Image, ImagePullPolicy: corev1.PullIfNotPresent,
		Command: []string{"towpath"},
		Args:    []string{step, "--order", orderDir + "/" + order},
		Env: append([]corev1.EnvVar{
			{Name: "HOME", Value: temporaryDir},
			{Name: "TMPDIR", Value: temporaryDir},
			{Name: "GOMEMLIMIT", Value: "900MiB"},
		}, proxyEnvironment(s.Proxy)...),
		Resources: corev1.ResourceRequirements{
			Requests: amounts("100m", "64Mi", "64Mi"),
			Limits:   amounts("", "1Gi", "1Gi"),
		},
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: new(false),
			Privileged: new(false), ReadOnlyRootFilesystem: new(true), AllowPrivilegeEscalation: new(false),
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
			SeccompProfile: runtimeDefault(),
		},
		TerminationMessagePath:   corev1.TerminationMessagePathDefault,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
}

// kanikoContainer is the build itself. It is given no secret, no token and no
// order: whatever is in here, a RUN step can read.
//
// The container runtime would mount one resolv.conf, hosts and hostname into
// every container, writable here, and one /dev/shm: a RUN step could turn the
// look-ups of the step that pushes, or leave something for it. So it has copies.
func kanikoContainer(s Settings, what Job) corev1.Container {
	// Whether fetch will pull a base is not known yet, but whether it may is.
	bases := len(what.Order.Pull.Allow) > 0
	args := executor.Arguments(what.Order, bases)
	environment := environmentOf(executor.Environment())
	for _, proxy := range proxyEnvironment(s.Proxy) {
		environment = append(environment, proxy)
		// RUN steps see build arguments and not kaniko's environment. Those of
		// proxies need no ARG and leave no trace in the image, as with Docker.
		if _, own := what.Order.Args[proxy.Name]; !own {
			args = append(args, "--build-arg="+proxy.Name+"="+proxy.Value)
		}
	}
	root := int64(0)
	c := corev1.Container{
		Name: stepBuild, Image: s.Kaniko, ImagePullPolicy: corev1.PullIfNotPresent,
		Command:    []string{executor.Program},
		Args:       literal(args),
		WorkingDir: "/",
		Env:        environment,
		Resources:  s.resources(),
		VolumeMounts: []corev1.VolumeMount{
			{Name: volumeWork, MountPath: executor.Context, SubPath: contextDir, ReadOnly: true},
			{Name: volumeWork, MountPath: executor.Bases, SubPath: basesDir, ReadOnly: true},
			{Name: volumeOut, MountPath: executor.Out},
			{Name: volumeKanikoShm, MountPath: "/dev/shm"},
		},
		SecurityContext: &corev1.SecurityContext{
			RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: new(false),
			Privileged: new(false), ReadOnlyRootFilesystem: new(false), AllowPrivilegeEscalation: new(false),
			Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}, Add: slices.Clone(capabilities)},
			SeccompProfile: runtimeDefault(),
		},
		TerminationMessagePath:   corev1.TerminationMessagePathDefault,
		TerminationMessagePolicy: corev1.TerminationMessageReadFile,
	}
	for _, file := range networkFiles() {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{
			Name: volumeNetwork, MountPath: file, SubPath: path.Base(file), ReadOnly: true,
		})
	}
	trust(s, &c, kanikoAuthorities)
	return c
}

// networkFiles are what fetch copies for kaniko, under their own names.
func networkFiles() []string { return []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname"} }

// literal keeps the kubelet from expanding $(NAME) in what others wrote.
func literal(words []string) []string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = strings.ReplaceAll(word, "$", "$$")
	}
	return all
}

func runtimeDefault() *corev1.SeccompProfile {
	return &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
}

func readOnly(volume, directory string) corev1.VolumeMount {
	return corev1.VolumeMount{Name: volume, MountPath: directory, ReadOnly: true}
}

// amounts of processors, memory and storage; empty: none.
func amounts(cpu, memory, storage string) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, amount := range map[corev1.ResourceName]string{
		corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory, corev1.ResourceEphemeralStorage: storage,
	} {
		if amount != "" {
			list[name] = resource.MustParse(amount)
		}
	}
	return list
}

func environmentOf(lines []string) []corev1.EnvVar {
	var all []corev1.EnvVar
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		all = append(all, corev1.EnvVar{Name: name, Value: value})
	}
	return all
}

// proxyEnvironment names the proxy in both spellings, since programs read
// either.
func proxyEnvironment(p Proxy) []corev1.EnvVar {
	var all []corev1.EnvVar
	for _, v := range []corev1.EnvVar{{Name: "HTTP_PROXY", Value: p.HTTP}, {Name: "HTTPS_PROXY", Value: p.HTTPS}, {Name: "NO_PROXY", Value: p.No}} {
		if v.Value != "" {
			all = append(all, v, corev1.EnvVar{Name: strings.ToLower(v.Name), Value: v.Value})
		}
	}
	return all
}

// trust makes a step trust the authorities of the cluster's owner besides those
// in its image.
func trust(s Settings, c *corev1.Container, directory string) {
	if s.CABundle == "" {
		return
	}
	c.VolumeMounts = append(c.VolumeMounts, readOnly(volumeAuthorities, directory))
	for i := range c.Env {
		if c.Env[i].Name == "SSL_CERT_DIR" {
			c.Env[i].Value += ":" + directory
			return
		}
	}
	c.Env = append(c.Env, corev1.EnvVar{Name: "SSL_CERT_DIR", Value: "/etc/ssl/certs:" + directory})
}

// identify mounts a workload identity's token.
func identify(token Token, c *corev1.Container, volume string) {
	if token.Audience != "" {
		c.VolumeMounts = append(c.VolumeMounts, readOnly(volume, path.Dir(token.Path)))
	}
}

// volumes of a build. Those that take what others write are bounded.
func volumes(s Settings, what Job) []corev1.Volume {
	empty := func(name, size string, medium corev1.StorageMedium) corev1.Volume {
		limit := resource.MustParse(size)
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: medium, SizeLimit: &limit}}}
	}
	storage := s.resources().Limits[corev1.ResourceEphemeralStorage]
	all := []corev1.Volume{
		orderVolume(volumeFetchOrder, fetchOrder, annotationFetch),
		orderVolume(volumePublishOrder, publishOrder, annotationPublish),
		empty(volumeWork, storage.String(), ""),
		empty(volumeOut, storage.String(), ""),
		empty(volumeNetwork, "1Mi", ""),
		empty(volumeKanikoShm, "64Mi", corev1.StorageMediumMemory),
		empty(volumePublishShm, "1Mi", corev1.StorageMediumMemory),
		empty(volumeFetchTmp, "1Gi", ""),
		empty(volumePublishTmp, "1Gi", ""),
	}
	// Each secret is mounted into one container alone.
	for _, secret := range []struct{ volume, name string }{
		{volumeGitSecret, what.GitSecret}, {volumePullSecret, what.PullSecret}, {volumeRegistrySecret, what.PushSecret},
	} {
		if secret.name != "" {
			all = append(all, corev1.Volume{Name: secret.volume, VolumeSource: corev1.VolumeSource{
				Secret: &corev1.SecretVolumeSource{SecretName: secret.name, DefaultMode: new(int32(0o400))},
			}})
		}
	}
	if s.CABundle != "" {
		all = append(all, corev1.Volume{Name: volumeAuthorities, VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: s.CABundle},
			Items:                []corev1.KeyToPath{{Key: authoritiesKey, Path: authoritiesKey}},
			DefaultMode:          new(int32(0o444)),
		}}})
	}
	for _, token := range []struct {
		volume string
		Token
	}{{volumeFetchToken, s.FetchToken}, {volumePublishToken, s.PublishToken}} {
		if token.Audience != "" {
			all = append(all, corev1.Volume{Name: token.volume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{
				Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{
					Audience: token.Audience, ExpirationSeconds: new(int64(tokenLife)), Path: path.Base(token.Path),
				}}},
				DefaultMode: new(int32(0o444)),
			}}})
		}
	}
	return all
}

// orderVolume gives a step its order as a file, made of the pod's annotation.
func orderVolume(volume, file, annotation string) corev1.Volume {
	return corev1.Volume{Name: volume, VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{
		Items: []corev1.DownwardAPIVolumeFile{{
			Path: file, FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.annotations['" + annotation + "']"},
		}},
		DefaultMode: new(int32(0o444)),
	}}}
}

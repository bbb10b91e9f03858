package deploy

import (
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	images "towpath.dev/towpath/kaniko"
	"towpath.dev/towpath/kaniko/job"
)

// validJob is a build as Towpath renders it, with everything that one may have.
func validJob(name string) *batchv1.Job {
	amounts := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourceEphemeralStorage: resource.MustParse("20Gi")}
	settings := job.Settings{
		Namespace: "towpath-builds", Image: towpathImage, Kaniko: kanikoImage, Timeout: 30 * time.Minute,
		Resources: corev1.ResourceRequirements{Requests: amounts, Limits: amounts},
		HostUsers: new(false), NodeSelector: map[string]string{"kubernetes.io/arch": "amd64"},
		Tolerations: []corev1.Toleration{{Operator: corev1.TolerationOpExists}},
		Annotations: map[string]string{"example.com/team": "apps"},
		CABundle:    "authorities",
		Proxy:       job.Proxy{HTTP: "http://proxy.internal:3128", HTTPS: "http://proxy.internal:3128", No: ".svc"},
		FetchToken:  job.Token{Audience: "git", Path: "/var/run/secrets/git/token"}, PublishToken: job.Token{Audience: "sts.amazonaws.com", Path: "/var/run/secrets/towpath.dev/identity/token"},
	}
	build := job.Job{GitSecret: "git", PullSecret: "pull", PushSecret: "registry", Order: images.Order{
		Image:    name,
		Source:   images.Source{URL: "https://git.example.com/apps/podinfo.git", Ref: "refs/heads/main", Commit: "8b07d4aa0c115f7e2c3d9b64a1f0e5d2c7b89a36", Time: time.Unix(1763750000, 0).UTC()},
		Path:     ".",
		Args:     map[string]string{"VERSION": "1.10"},
		Platform: "linux/amd64", Dockerfile: "Dockerfile",
		Executor: kanikoImage[len(kanikoImage)-len("sha256:")-64:], Policy: "sha256:0",
		Destination: images.Destination{Repository: "registry.example.com/apps/podinfo", Tag: "main-8b07d4aa0c11-1763750000"},
		Pull:        images.Pull{Secret: "pull", Allow: []string{"registry.example.com/bases/go"}},
	}}
	rendered, err := job.Render(settings, build)
	if err != nil {
		panic(err)
	}
	rendered.Name = name
	return rendered
}

package job

import (
	"context"
	"fmt"
	"slices"
	"strings"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"towpath.dev/towpath/kaniko"
)

// needed are the rights in the builds' namespace that a Builder uses.
var needed = []struct {
	group, resource, subresource string
	verbs                        []string
}{
	{"batch", "jobs", "", []string{"get", "list", "watch", "create", "patch", "delete"}},
	{"", "pods", "", []string{"get", "list", "watch"}},
	{"", "pods", "log", []string{"get"}},
	{"", "events", "", []string{"list"}},
}

// Check returns what keeps builds from running, as far as that can be told
// without one: rights that are missing, a namespace that is not there, and what
// quotas and admission policies say to a Job of these settings, which is shown to
// them and not made.
func (b *Builder) Check(ctx context.Context) []error {
	var problems []error
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for _, right := range needed {
		var missing []string
		for _, verb := range right.verbs {
			may, err := b.may(limited, authorizationv1.ResourceAttributes{
				Namespace: b.settings.Namespace, Verb: verb, Group: right.group, Resource: right.resource, Subresource: right.subresource,
			})
			if err != nil {
				return append(problems, hintAPI(fmt.Errorf("ask for the rights in namespace %s: %w", b.settings.Namespace, err)))
			}
			if !may {
				missing = append(missing, verb)
			}
		}
		if len(missing) > 0 {
			what := strings.Trim(right.resource+"/"+right.subresource, "/")
			problems = append(problems, hinted{
				fmt.Errorf("no right to %s %s in namespace %s", strings.Join(missing, ", "), what, b.settings.Namespace),
				"deploy/ has the Role that Towpath needs; a namespace that was deleted took it along",
			})
		}
	}
	if len(problems) > 0 {
		return problems
	}
	sample, err := Render(b.settings, b.sample())
	if err != nil {
		return append(problems, err)
	}
	_, err = b.client.BatchV1().Jobs(sample.Namespace).Create(limited, sample, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if apierrors.IsForbidden(err) {
		err = hinted{err, "its message says whether a right, a quota or an admission policy refuses it; those of deploy/ pin both images in the ConfigMap towpath-admission"}
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		problems = append(problems, hintAPI(fmt.Errorf("a build Job is refused in namespace %s: %w", sample.Namespace, err)))
	}
	return problems
}

// sample is a build that is never made.
func (b *Builder) sample() Job {
	image, _ := b.ExecutorDigest()
	return Job{Order: kaniko.Order{
		Image: "check", Path: ".", Dockerfile: "Dockerfile", Platform: "linux/amd64", Executor: image,
		Source:      kaniko.Source{Commit: strings.Repeat("0", 40)},
		Destination: kaniko.Destination{Repository: "towpath.invalid/check"},
	}}
}

func (b *Builder) may(ctx context.Context, what authorizationv1.ResourceAttributes) (bool, error) {
	review, err := b.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
		Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &what},
	}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return review.Status.Allowed, nil
}

// MissingSecrets are those of the names that are no Secrets in the builds'
// namespace. visible is false where that cannot be told: Towpath itself has no
// right to look, and should have none; a person who runs check may have.
func (b *Builder) MissingSecrets(ctx context.Context, names []string) (missing []string, visible bool, err error) {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	may, err := b.may(limited, authorizationv1.ResourceAttributes{Namespace: b.settings.Namespace, Verb: "get", Resource: "secrets"})
	if err != nil || !may {
		return nil, false, err
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		// Its metadata alone: what is in it is nobody's business here.
		err := b.client.CoreV1().RESTClient().Get().Namespace(b.settings.Namespace).Resource("secrets").Name(name).
			SetHeader("Accept", "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1").Do(limited).Error()
		if apierrors.IsNotFound(err) {
			missing = append(missing, name)
		} else if err != nil {
			return nil, false, hintAPI(fmt.Errorf("read Secret %s: %w", name, err))
		}
	}
	return missing, true, nil
}

package flux

import (
	"context"
	"encoding/json"
	"time"

	"github.com/fluxcd/pkg/apis/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// fieldManager is who the cluster says has set the annotation.
const fieldManager = "towpath"

// Nudge asks Flux to pull a GitRepository at once, as `flux reconcile source
// git` does: it sets one annotation by a merge patch, which needs the right to
// patch this object and none to read it. It does not wait for Flux. To ask
// twice is harmless. Errors are of type *Error.
func (c *Client) Nudge(ctx context.Context, repository types.NamespacedName, at time.Time) error {
	return c.annotate(ctx, repository, at, metav1.PatchOptions{FieldManager: fieldManager})
}

// TryNudge tells whether Nudge would work, and changes nothing. Errors are of
// type *Error.
func (c *Client) TryNudge(ctx context.Context, repository types.NamespacedName) error {
	return c.annotate(ctx, repository, time.Now(), metav1.PatchOptions{FieldManager: fieldManager, DryRun: []string{metav1.DryRunAll}})
}

func (c *Client) annotate(ctx context.Context, repository types.NamespacedName, at time.Time, how metav1.PatchOptions) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{
		meta.ReconcileRequestAnnotation: at.UTC().Format(time.RFC3339Nano),
	}}})
	if err == nil {
		_, err = c.objects.Resource(gitRepositories).Namespace(repository.Namespace).
			Patch(ctx, repository.Name, types.MergePatchType, patch, how)
	}
	if err != nil {
		return &Error{"patch", "GitRepository", repository, err}
	}
	return nil
}

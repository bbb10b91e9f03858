// Package flux speaks with Flux in the cluster: it asks it to pull a
// GitRepository at once, and reads what it has applied of one.
//
// It knows two kinds of Flux's objects by a few of their fields, and neither
// images nor bumps: whether a revision holds a bump is for package fleet to
// say, which knows the repository's history.
//
// What always holds: the one thing that it writes is the annotation
// reconcile.fluxcd.io/requestedAt of the GitRepository that it was given. Each
// call is one request or two, keeps nothing open, and watches nothing.
package flux

import (
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
)

// Client is a connection to the cluster that Flux runs in. It is safe for
// concurrent use.
type Client struct {
	objects dynamic.Interface
}

// The kinds of Flux's API that are spoken of here, in the version that every
// Flux since 2.0 serves.
var (
	gitRepositories = schema.GroupVersionResource{Group: "source.toolkit.fluxcd.io", Version: "v1", Resource: "gitrepositories"}
	kustomizations  = schema.GroupVersionResource{Group: "kustomize.toolkit.fluxcd.io", Version: "v1", Resource: "kustomizations"}
)

// New makes a client of a configuration. It talks to nobody.
func New(config *rest.Config) (*Client, error) {
	objects, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("flux: %w", err)
	}
	return &Client{objects}, nil
}

// Error is a request that the API server did not carry out.
type Error struct {
	Verb   string // patch, get or list
	Kind   string // "GitRepository"
	Object types.NamespacedName
	Err    error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s %s: %v", e.Verb, e.Kind, e.Object, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Hint says what is missing, where that is known.
func (e *Error) Hint() string {
	switch {
	case apierrors.IsForbidden(e.Err):
		return fmt.Sprintf("let Towpath's service account %s %s in namespace %s, as deploy/ does", e.Verb, e.Kind, e.Object.Namespace)
	case apierrors.IsNotFound(e.Err):
		return "name a GitRepository of this cluster in gitops[].flux.gitRepository, or leave it out"
	}
	return ""
}

// Refused tells whether an error is the API server's last word until somebody
// changes something: not allowed, or not there.
func Refused(err error) bool {
	var status apierrors.APIStatus
	return errors.As(err, &status) &&
		(apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || apierrors.IsNotFound(err) || apierrors.IsInvalid(err))
}

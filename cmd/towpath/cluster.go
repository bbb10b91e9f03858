package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"towpath.dev/towpath/config"
)

// cluster is the Kubernetes cluster that this process belongs to or was given.
type cluster struct {
	config    *rest.Config
	namespace string // that Towpath runs in
	pod       bool   // this process runs in a pod of it, as a service account
}

// ownNamespace is where a pod finds the name of its namespace.
const ownNamespace = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// openCluster finds the cluster: the file, or files, that KUBECONFIG names, or
// else the one that this pod runs in. Neither is no mistake: nil then. It talks
// to nobody.
func openCluster(log *slog.Logger) (*cluster, error) {
	var c cluster
	switch {
	case os.Getenv(clientcmd.RecommendedConfigPathEnvVar) != "":
		file := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(clientcmd.NewDefaultClientConfigLoadingRules(), nil)
		config, err := file.ClientConfig()
		if err == nil {
			c.namespace, _, err = file.Namespace()
		}
		if err != nil {
			return nil, hinted{fmt.Errorf("cluster: KUBECONFIG: %w", err), "mend the file that KUBECONFIG names, or unset it"}
		}
		c.config = config
	case os.Getenv("KUBERNETES_SERVICE_HOST") != "":
		config, err := rest.InClusterConfig()
		if os.IsNotExist(err) {
			return nil, nil //nolint:nilnil // a pod without a token belongs to no cluster that it may speak with
		}
		if err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		namespace, err := os.ReadFile(ownNamespace)
		if err != nil {
			return nil, fmt.Errorf("cluster: %w", err)
		}
		c.config, c.namespace, c.pod = config, strings.TrimSpace(string(namespace)), true
	default:
		return nil, nil //nolint:nilnil // as documented
	}
	c.config.UserAgent = "towpath/" + cmp.Or(version, "dev")
	c.config.WarningHandler = rest.NoWarnings{}
	// What Kubernetes' libraries log about their retries is only of use at debug level:
	// what fails in the end is an error, which our own code tells.
	klog.SetSlogLogger(slog.New(quiet{log.Handler()}))
	return &c, nil
}

// cluster opens the cluster for what a config can do without: asking Flux, and leader
// election. nil: there is none, or it cannot be opened. The latter is a warning if the
// config has a use for it.
func (g *globals) cluster(cfg *config.Config) *cluster {
	in, err := openCluster(g.log)
	if err != nil {
		named := slices.ContainsFunc(cfg.GitOps, func(t config.Target) bool { return t.Flux != nil }) || cfg.LeaderElection.Enabled != nil && *cfg.LeaderElection.Enabled
		level := slog.LevelDebug
		if named {
			level = slog.LevelWarn
		}
		g.log.Log(context.Background(), level, "the cluster cannot be asked", "error", oneLine(err.Error()))
		return nil
	}
	return in
}

// quiet passes everything on at debug level.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(attrs []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(attrs)} }
func (q quiet) WithGroup(name string) slog.Handler       { return quiet{q.Handler.WithGroup(name)} }

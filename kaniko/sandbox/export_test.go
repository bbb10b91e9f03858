package sandbox

import (
	"context"
	"time"
)

// DirID is how the work directory's cgroups begin.
var DirID = dirID

// SweepAfter is Sweep where the locks of a killed process may outlive it for longer.
func (b *Builder) SweepAfter(ctx context.Context, lingering time.Duration) error {
	return b.sweep(ctx, lingering)
}
